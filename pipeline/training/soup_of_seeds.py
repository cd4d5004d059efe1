"""Soups: the weights of several seeds of a fold, averaged into one model (--soup).

All seeds of a fold begin with the same weights, its head included, and differ in the order of the
rows and in augmentation. They are chosen on groups that are held out of the fold's training rows,
so the rows that score the run have no part in it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors.torch
import torch

from foldblend.files import remove, write_bytes
from foldblend.runs.folder import check_there, file_hash, write_json
from foldblend.scores.metrics import METRICS
from pipeline.fold_files import (
    SEED_WEIGHTS,
    finished_fold,
    fold_record,
    model_record,
    write_fold,
)
from pipeline.infer import Model
from pipeline.job import Prepared, TrainingJob
from pipeline.memory import Chunks
from pipeline.training.batch_norm import renew_batch_norm
from pipeline.training.checkpoint import CHECKPOINT
from pipeline.training.fold_training import FoldTraining, state_of
from pipeline.training.from_checkpoint import trained
from pipeline.training.inner import inner_split
from pipeline.training.soup_rows import predict_rows, score_rows
from pipeline.training.weight_means import greedy_soup, mean_state

__all__ = ["run_soup_fold"]


def _folder_of(job: TrainingJob, index: int, seed: int) -> Path:
    return job.folder / job.run.name_of(index) / f"seed_{seed}"


def _title_of(job: TrainingJob, index: int, seed: int) -> str:
    return f"{job.title(index)} seed {seed}"


def _key_of(job: TrainingJob, seed: int) -> dict[str, str]:
    """Return the hashes by which a finished seed, or its checkpoint, is kept."""
    return job.fold_key | {"seed of the soup": str(seed)}


def _rows_of(run: Prepared, index: int) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return the held-out rows of a fold, the rows that choose seeds, and the training rows."""
    held_N = run.is_held_out(index)
    inner, learns_N = inner_split(run, ~held_N, index)
    held_out = run.manifest.train[held_N].reset_index(drop=True)
    return held_out, inner, run.manifest.training_rows(learns_N)


class SeedTraining(FoldTraining):
    """One seed of a soup during its training."""

    def __init__(self, job: TrainingJob, index: int, seed: int) -> None:
        self.seed = seed
        super().__init__(job, index)

    def _folder(self) -> Path:
        return _folder_of(self.job, self.index, self.seed)

    def _title(self) -> str:
        return _title_of(self.job, self.index, self.seed)

    def _key(self) -> dict[str, str]:
        return _key_of(self.job, self.seed)

    def _seed_parts(self) -> tuple[int, ...]:
        return (self.seed, self.index)

    def _start(self) -> None:
        remove(self.folder)
        self.folder.mkdir(parents=True)

    def _rows_to_use(self) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
        return _rows_of(self.job.run, self.index)

    def _finish(self) -> dict[str, Any]:
        job = self.job
        course = self.course
        model = self.fit.scored
        if course.best_state is not None:
            model.load_state_dict(course.best_state)
        forward = job.forward(self.index, model)
        inner_VNC = self.predict(forward, self.selection_rows, job.run.views[:1])
        if self.select == "last":
            held_VNC = self.predict(forward, self.held_out, job.run.views[:1])
            self._note(course.rows[-1], held_VNC)
        file = self.folder / SEED_WEIGHTS
        check_there(job.folder)
        write_bytes(file, safetensors.torch.save(state_of(model)))
        name = file.relative_to(job.folder).as_posix()
        record = model_record(job, {name: file_hash(file)}) | {"run_key": self.key}
        score = self._score(self.selection_rows, inner_VNC)
        facts = self._facts(forward, None)
        if course.best_state is not None:
            facts["epoch"] = course.best_epoch
        return self._write_done({**record, **facts, "score": score if np.isfinite(score) else None})


def _seed(job: TrainingJob, index: int, seed: int) -> dict[str, Any]:
    """Return the done.json of a seed, which is trained unless it is finished."""
    folder = _folder_of(job, index, seed)
    title = _title_of(job, index, seed)
    name = folder.relative_to(job.folder).as_posix()
    done = finished_fold(job.folder, name, _key_of(job, seed), job.say)
    if done is not None:
        job.say(f"{title}: finished before, kept")
        return done
    return trained(job, title, folder / CHECKPOINT, lambda: SeedTraining(job, index, seed))


class _Soup:
    """The soup of a fold: mean weights of its seeds, in one module."""

    def __init__(self, job: TrainingJob, index: int) -> None:
        self.job = job
        self.index = index
        self.held_out, self.inner, self.train = _rows_of(job.run, index)
        self.chunks = Chunks(job.say, most=job.limits.chunk)
        self.model = job.new_model()

    def states(self, seeds: Sequence[int]) -> list[dict[str, torch.Tensor]]:
        """Return the weights of seeds."""
        files = [_folder_of(self.job, self.index, seed) / SEED_WEIGHTS for seed in seeds]
        return [safetensors.torch.load(file.read_bytes()) for file in files]

    def fill(self, seeds: Sequence[int]) -> torch.nn.Module:
        """Return the model with the mean weights of seeds, and statistics that fit them."""
        self.model.load_state_dict(mean_state(self.states(seeds)))
        if len(seeds) > 1:
            parts = (self.job.run.config.train.seed, self.index)
            renew_batch_norm(self.model, self.job, self.train, parts)
        return self.model.eval()

    def predict(self, model: Model, table: pd.DataFrame, views: Sequence[str]) -> np.ndarray:
        """Return the logits V x N x C of a table's images."""
        return predict_rows(self.job, model, table, views, self.chunks)

    def score_of(self, seeds: Sequence[int]) -> float:
        """Return the score of a soup on the rows that choose seeds, NaN for logits without one."""
        forward = self.job.forward(self.index, self.fill(seeds))
        inner_VNC = self.predict(forward, self.inner, self.job.run.views[:1])
        # A mean of weights may be no model, though each seed is one.
        if not np.isfinite(inner_VNC).all():
            return np.nan
        return score_rows(self.job, self.index, self.inner, inner_VNC)


def run_soup_fold(job: TrainingJob, index: int) -> dict[str, Any]:
    """Train the seeds of a fold, average the weights of the chosen ones, and score the result.

    Returns done.json of the fold. Seeds that are finished, and checkpoints of others, are kept
    until then.
    """
    run = job.run
    train = run.config.train
    seeds = range(train.seed, train.seed + train.num_ingredients)
    trained_S = [_seed(job, index, seed) for seed in seeds]
    start = time.perf_counter()
    soup = _Soup(job, index)
    sign = METRICS[run.config.output.metric].sign
    # A score that is not defined is worse than any other.
    score_S = [-sign * np.inf if one["score"] is None else one["score"] for one in trained_S]
    places, best = greedy_soup(
        score_S, lambda some: soup.score_of([seeds[k] for k in some]), sign=sign
    )
    chosen = [seeds[place] for place in places]
    forward = job.forward(index, soup.fill(chosen))
    began = time.perf_counter()
    held_VNC = soup.predict(forward, soup.held_out, run.views)
    infer_seconds = time.perf_counter() - began
    test = run.manifest.test
    test_VNC = None if test is None else soup.predict(forward, test, run.views)
    score = score_rows(job, index, soup.held_out, held_VNC)
    files = write_fold(job, index, state=state_of(soup.model), held_VNC=held_VNC, test_VNC=test_VNC)
    first = trained_S[0]
    done: dict[str, Any] = {
        **fold_record(job, index, files, score),
        "seconds": sum(one["seconds"] for one in trained_S) + time.perf_counter() - start,
        "train_images_per_s": float(np.mean([one["train_images_per_s"] for one in trained_S])),
        "infer_images_per_s": len(soup.held_out) * len(run.views) / infer_seconds,
        "soup": chosen,
        "seed_scores": [one["score"] for one in trained_S],
        "soup_score": best if np.isfinite(best) else None,
        **({"seed_epochs": [one["epoch"] for one in trained_S]} if "epoch" in first else {}),
        **{name: first[name] for name in ("lr", "lr_found") if name in first},
    }
    if job.spec is not None:
        done["engine"] = forward.engine
    check_there(job.folder)
    # Reports show the course of the best seed for the fold.
    best_seed = seeds[int(np.argmax(sign * np.array(score_S)))]
    log = (_folder_of(job, index, best_seed) / "log.csv").read_bytes()
    write_bytes(job.folder / run.name_of(index) / "log.csv", log)
    write_json(job.folder / run.name_of(index) / "done.json", done)
    for seed in seeds:
        # Their weights take the most space, and nothing needs them any more.
        (_folder_of(job, index, seed) / SEED_WEIGHTS).unlink(missing_ok=True)
    return done
