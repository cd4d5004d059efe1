"""Training of one model on all rows of a run (--refit full)."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
import pandas as pd

from foldblend.runs.schema import read_done
from pipeline.fold_files import model_record, write_fold
from pipeline.job import TrainingJob
from pipeline.training.checkpoint import CHECKPOINT
from pipeline.training.fit import Epoch
from pipeline.training.fold_training import FoldTraining, state_of
from pipeline.training.from_checkpoint import trained

__all__ = ["chosen_epoch", "run_full"]


def chosen_epoch(job: TrainingJob) -> int | None:
    """Return after how many epochs a model of all rows ends; None: after all of them.

    It has no rows that could choose its epoch, so it takes the median of those that --select chose
    for the folds.
    """
    if job.run.config.train.select == "last":
        return None
    chosen: list[int] = []
    for index in range(job.run.num_models):
        fold = read_done(job.folder, index)
        # Of a soup, each seed has an epoch of its own.
        chosen += fold["seed_epochs"] if "seed_epochs" in fold else [fold["epoch"]]
    return int(statistics.median_high(chosen)) + 1


class FullTraining(FoldTraining):
    """A model of all rows during its training; nothing is held out, so it has no score."""

    def __init__(self, job: TrainingJob, index: int) -> None:
        self.stop_after = chosen_epoch(job)
        super().__init__(job, index)

    def _rows_to_use(self) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
        manifest = self.job.run.manifest
        self.select = "last"
        if self.stop_after is not None:
            self.num_epochs = self.stop_after
        every = manifest.train
        none = every.iloc[:0]
        return none, none, manifest.training_rows(np.ones(len(every), bool))

    def _log_epoch(self, row: dict[str, float], epoch: Epoch) -> None:
        job = self.job
        self.course.rows.append(row)
        self._write_log()
        names = {"train/loss": "train_loss", "train/lr": "lr"}
        self.trackers.scalars({tag: row[name] for tag, name in names.items()}, epoch.index)
        left = job.progress.left()
        job.say_epoch(
            f"{self.title} epoch {epoch.index + 1}/{self.num_epochs}: loss"
            f" {row['train_loss']:.3f}, {row['images_per_s']:.0f} images/s"
            + (f", {left}" if left else "")
        )

    def _finish(self) -> dict[str, Any]:
        job = self.job
        model = self.fit.scored
        forward = job.forward(self.index, model)
        size = job.run.config.infer.validation_batch_size if job.padded else None
        test = job.run.manifest.test
        test_VNC = None
        if test is not None:
            test_VNC = self.predict(forward, test, job.run.views, pad_to=size)
        if not job.writes:
            return {}
        files = write_fold(job, self.index, state=state_of(model), held_VNC=None, test_VNC=test_VNC)
        done = {**model_record(job, files), **self._facts(forward, None)}
        if self.stop_after is not None:
            done["epoch"] = self.stop_after - 1
        return self._write_done(done)


def run_full(job: TrainingJob, index: int) -> dict[str, Any]:
    """Train a model on all rows, from its checkpoint if it has one, and return its done.json.

    Raises UserError for what the device cannot do.
    """
    file = job.folder / job.run.name_of(index) / CHECKPOINT
    return trained(job, job.title(index), file, lambda: FullTraining(job, index))
