"""Linear heads fitted on all rows of a run with a frozen backbone (--refit full)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from foldblend.runs.folder import check_there, write_json
from pipeline.fold_files import model_record, start_fold, write_fold
from pipeline.frozen.features import Backbone, Features
from pipeline.frozen.fold_heads import fit_folds, logits_of, training_rows
from pipeline.job import TrainingJob
from pipeline.predict.weights import State

__all__ = ["run_full_heads", "test_logits_of_head"]


def run_full_heads(job: TrainingJob, todo: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Fit a head on all rows and return its done.json, by number.

    Its L2 penalty is chosen among all training groups, as a fold chooses among its own.
    """
    start = time.perf_counter()
    run = job.run
    backbone = Backbone(job)
    features = Features(job, backbone)
    all_VND = [features.of(run.manifest.labelled, view) for view in run.views]
    rows = training_rows(run, all_VND, features)
    every_N = np.ones(len(run.manifest.train), bool)
    fitted = fit_folds(run, rows, [every_N], device=job.compute.device)
    weight_DC, bias_C = fitted.linear(0)
    state = {
        f"{backbone.head_name}.{name}": torch.from_numpy(np.ascontiguousarray(part))
        for name, part in {"weight": weight_DC.T, "bias": bias_C}.items()
    }
    done = {}
    for index in todo:
        start_fold(job, index)
        files = write_fold(
            job,
            index,
            state=state,
            held_VNC=None,
            test_VNC=_test_logits(job, features, weight_DC, bias_C),
            shared=("backbone.safetensors",),
        )
        done[index] = {
            **model_record(job, files),
            "l2": float(fitted.l2_Z[0]),
            "seconds": time.perf_counter() - start,
            **({} if job.spec is None else {"engine": features.engine}),
        }
        check_there(job.folder)
        write_json(job.folder / run.name_of(index) / "done.json", done[index])
        job.say_done(index, done[index])
    return done


def _test_logits(
    job: TrainingJob, features: Features, weight_DC: np.ndarray, bias_C: np.ndarray
) -> np.ndarray | None:
    """Return the test logits V x N x C of a head; None without a test set."""
    test = job.run.manifest.test
    if test is None:
        return None
    return logits_of([features.of(test, view) for view in job.run.views], weight_DC, bias_C)


def test_logits_of_head(job: TrainingJob, state: State) -> np.ndarray | None:
    """Return the test logits V x N x C of a head from its weights; None without a test set."""
    parts = {name.rpartition(".")[2]: value.double().numpy() for name, value in state.items()}
    features = Features(job, Backbone(job))
    return _test_logits(job, features, np.ascontiguousarray(parts["weight"].T), parts["bias"])
