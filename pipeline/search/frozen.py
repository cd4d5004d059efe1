"""Trials with a frozen backbone: features are prepared once, and only heads are fitted.

A trial has the logits that run_cv.py gives with its settings, and writes no run folder.
"""

from __future__ import annotations

import dataclasses
import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foldblend.cli import quiet
from foldblend.cluster.names import LOCAL
from pipeline.config.resolved import resolved
from pipeline.config.run import RunConfig
from pipeline.config.settings import flatten, replace
from pipeline.frozen.features import Backbone, Features
from pipeline.frozen.fold_heads import FoldHeads, TrainingRows, fit_folds, logits_of, training_rows
from pipeline.job import FoldJob, Prepared, job_of
from pipeline.prepare import prepare
from tta.merge import mean_logit

__all__ = ["FrozenTrials"]

# Bytes of features that are kept in memory for further trials.
MOST_BYTES = 2**30
# Settings that do not change the features.
OF_HEADS = ("head_l2",)


@dataclass(frozen=True)
class _Inputs:
    """Inputs that trials with the same features share."""

    job: FoldJob
    train_VND: list[np.ndarray]
    """Features of the rows that are scored, in each view."""
    rows: TrainingRows

    @property
    def num_bytes(self) -> int:
        arrays = [*self.train_VND, self.rows.rows_NX, self.rows.axes.turn_DX]
        return sum(one.nbytes for one in arrays)


class FrozenTrials:
    """Cross-validations with a frozen backbone, in memory."""

    def __init__(self, folder: Path) -> None:
        """Make no trial yet; `folder` need not exist, and nothing is written there."""
        self.folder = folder
        self.kept: OrderedDict[str, _Inputs] = OrderedDict()

    def held_out(self, config: RunConfig) -> np.ndarray:
        """Return the held-out logits of a cross-validation, of one repeat after the other.

        Parameters
        ----------
        config
            The settings of the trial, with --finetune head.

        Raises
        ------
        UserError
            If the settings do not go together, or a head cannot be fitted.
        """
        run, inputs = self._inputs(config)
        logits_NC = []
        for fold_N in run.fold_RN:
            folds = range(run.num_folds)
            fitted = self._fit(run, inputs, [fold_N != fold for fold in folds])
            logits_NC.append(_held_out(inputs, fitted, [fold_N == fold for fold in folds]))
        return np.concatenate(logits_NC)

    def without_fold(self, config: RunConfig, outer: int) -> np.ndarray:
        """Return the logits of a cross-validation of the first repeat that never sees a fold.

        Each of the other folds is predicted by a head that trains on neither of both. The rows of
        the outer fold are NaN.
        """
        run, inputs = self._inputs(config)
        fold_N = run.fold_RN[0]
        inner = [fold for fold in range(run.num_folds) if fold != outer]
        trains = [(fold_N != fold) & (fold_N != outer) for fold in inner]
        return _held_out(inputs, self._fit(run, inputs, trains), [fold_N == k for k in inner])

    def of_fold(self, config: RunConfig, outer: int) -> np.ndarray:
        """Return the held-out logits of one fold of the first repeat; other rows are NaN."""
        run, inputs = self._inputs(config)
        fold_N = run.fold_RN[0]
        fitted = self._fit(run, inputs, [fold_N != outer])
        return _held_out(inputs, fitted, [fold_N == outer])

    def _fit(self, run: Prepared, inputs: _Inputs, trains_ZN: Sequence[np.ndarray]) -> FoldHeads:
        return fit_folds(run, inputs.rows, trains_ZN, device=inputs.job.compute.device)

    def _inputs(self, config: RunConfig) -> tuple[Prepared, _Inputs]:
        """Return a trial's run and features, from memory if another trial had the same."""
        own = {name: value for name, value in flatten(config).items() if name not in OF_HEADS}
        key = json.dumps(own, sort_keys=True, default=str)
        if key in self.kept:
            self.kept.move_to_end(key)
        else:
            self.kept[key] = self._made(config)
            while len(self.kept) > 1 and self._num_bytes() > MOST_BYTES:
                self.kept.popitem(last=False)
        inputs = self.kept[key]
        head_l2 = config.train.head_l2
        run = inputs.job.run
        return dataclasses.replace(run, config=resolved(run.config, head_l2=head_l2)), inputs

    def _num_bytes(self) -> int:
        return sum(one.num_bytes for one in self.kept.values())

    def _made(self, config: RunConfig) -> _Inputs:
        # Heads take seconds, so that no other machine is asked.
        run = prepare(replace(config, resume=False, backend=LOCAL), quiet)
        job = job_of(run, self.folder, say=quiet)
        features = Features(job, Backbone(job))
        all_VND = [features.of(run.manifest.labelled, view) for view in run.views]
        return _Inputs(
            job=job,
            train_VND=[one[: len(run.manifest.train)] for one in all_VND],
            rows=training_rows(run, all_VND, features),
        )


def _held_out(inputs: _Inputs, fitted: FoldHeads, held_ZN: Sequence[np.ndarray]) -> np.ndarray:
    """Return the logits N x C of the rows that each problem holds out; others are NaN."""
    manifest = inputs.job.run.manifest
    found_NC = np.full((len(manifest.train), manifest.num_classes), np.nan, np.float32)
    for problem, held_N in enumerate(held_ZN):
        views_VND = [one[held_N] for one in inputs.train_VND]
        held_VNC = logits_of(views_VND, *fitted.linear(problem))
        inputs.job.check_finite(problem, held_VNC)
        found_NC[held_N] = mean_logit(held_VNC)
    return found_NC
