"""One model with the mean weights of the models of the folds (--refit soup)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from foldblend.errors import UserError
from foldblend.runs.folder import check_there, write_json
from foldblend.scores.metrics import METRICS, Metric
from pipeline.fold_files import model_record, start_fold, write_fold
from pipeline.frozen.full_head import test_logits_of_head
from pipeline.job import TrainingJob
from pipeline.memory import Chunks
from pipeline.predict.weights import FolderWeights, State
from pipeline.training.batch_norm import renew_batch_norm
from pipeline.training.fold_training import state_of
from pipeline.training.soup_rows import predict_rows, score_rows
from pipeline.training.weight_means import mean_state

__all__ = ["check_fits", "run_soup"]


@dataclass(frozen=True)
class _Soup:
    """A soup with its test logits, before it is written."""

    state: State
    test_VNC: np.ndarray | None
    about: dict[str, Any]
    """Further entries of done.json."""
    shared: tuple[str, ...] = ()
    """Further files that it depends on."""


def check_fits(soup: float, one: float, metric: Metric) -> None:
    """Raise UserError if a soup scores worse than one of its models on the training images.

    Nothing can score a soup of folds on images that none of its models has seen. But where it does
    not even fit these as one of them does, the mean of the weights is no good model.

    Parameters
    ----------
    soup, one
        Scores of the soup and of the model of the first fold, which has seen fewer of the images.
    metric
        The metric of the scores.
    """
    if metric.sign * soup < metric.sign * one:
        raise UserError(
            f"--refit soup: the mean weights have a {metric.title} of {soup:.3f} on the training"
            f" images, and the model of fold 0 alone has {one:.3f}, so the models of the folds are"
            " too far apart for a mean; pass --refit full or none, or train with a lower --lr (the"
            " run is complete without the refit)"
        )


def _seen_score(job: TrainingJob, index: int, model: torch.nn.Module) -> float:
    """Return the score of a model on all labelled images, most of which it has seen."""
    table = job.run.manifest.train
    chunks = Chunks(job.say, most=job.limits.chunk)
    forward = job.forward(index, model)
    logits_VNC = predict_rows(job, forward, table, job.run.views[:1], chunks)
    return score_rows(job, index, table, logits_VNC)


def _of_models(job: TrainingJob, index: int, weights: FolderWeights, mean: State) -> _Soup:
    """Return the soup of trained models, with statistics of batch norm that fit it."""
    run = job.run
    model = job.new_model()
    model.load_state_dict(weights.read(0))
    one = _seen_score(job, index, model.eval())
    model.load_state_dict(mean)
    every = run.manifest.training_rows(np.ones(len(run.manifest.train), bool))
    renew_batch_norm(model, job, every, (run.config.train.seed, index))
    score = _seen_score(job, index, model)
    check_fits(score, one, METRICS[run.config.output.metric])
    forward = job.forward(index, model)
    test = run.manifest.test
    chunks = Chunks(job.say, most=job.limits.chunk)
    test_VNC = None if test is None else predict_rows(job, forward, test, run.views, chunks)
    about: dict[str, Any] = {"seen_score": score if np.isfinite(score) else None}
    if job.spec is not None:
        about["engine"] = forward.engine
    return _Soup(state_of(model), test_VNC, about)


def run_soup(job: TrainingJob, index: int) -> dict[str, Any]:
    """Average the weights of the folds' models into one, and return its done.json.

    Statistics of batch norm are computed anew on all training images. The mean of linear heads on a
    frozen backbone has the mean of their logits.

    Raises
    ------
    UserError
        If the mean weights do not fit the training images (see `check_fits`); nothing is written.
    """
    start = time.perf_counter()
    run = job.run
    weights = FolderWeights(job.folder)
    mean = mean_state(weights.read(one) for one in range(run.num_models))
    if run.config.train.frozen:
        soup = _Soup(mean, test_logits_of_head(job, mean), {}, ("backbone.safetensors",))
    else:
        soup = _of_models(job, index, weights, mean)
    start_fold(job, index)
    files = write_fold(
        job,
        index,
        state=soup.state,
        held_VNC=None,
        test_VNC=soup.test_VNC,
        shared=soup.shared,
    )
    done = {**model_record(job, files), **soup.about, "seconds": time.perf_counter() - start}
    check_there(job.folder)
    write_json(job.folder / run.name_of(index) / "done.json", done)
    job.say_done(index, done)
    return done
