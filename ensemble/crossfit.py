"""Cross-fit methods and offsets: each fold is predicted by a fit on the other folds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ensemble.methods.base import Evidence, Fitted, Method
from ensemble.offsets import FITS, fit_offsets
from ensemble.threads import one_thread
from foldblend.progress import Task
from foldblend.scores.held_out import outer_parts
from foldblend.scores.metrics import log_softmax

__all__ = [
    "CrossFitted",
    "Split",
    "cross_fit",
    "cross_fit_offsets",
    "in_turn",
    "offsets_of",
    "splits_of",
]

Work = TypeVar("Work")
Answer = TypeVar("Answer")
# Each thread holds a copy of nearly all rows, so memory limits their number.
MOST_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Split:
    """A fold of a repeat: the numbers of its rows, and of the other folds' rows."""

    repeat: int
    fold: int
    rows: np.ndarray
    others: np.ndarray
    """Rows of the same repeat, none of them of a group of this fold."""


@dataclass(frozen=True, slots=True)
class CrossFitted:
    """The cross-fitted logits of a method, and the method fitted on all rows."""

    logits_NC: np.ndarray
    """Float32; each fold is predicted by a fit on the other folds."""
    final: Fitted
    """Fitted on all rows, for the test set."""
    parts: tuple[Fitted, ...] = ()
    """The fit on the other folds of each split; none for a method that fits nothing."""


def in_turn(function: Callable[[Work], Answer], tasks: Sequence[Work]) -> list[Answer]:
    """Run a function on all tasks in a few threads, and return the answers in order.

    Each task computes in one thread, so that its sums do not depend on the number of cores.
    """
    with (
        one_thread(),
        ThreadPoolExecutor(min(os.cpu_count() or 1, MOST_AT_ONCE)) as pool,
    ):
        return list(pool.map(function, tasks))


def splits_of(evidence: Evidence) -> list[Split]:
    """Return a split for each fold of each repeat.

    Raises
    ------
    ValueError
        For a repeat with a single fold.
    """
    return [Split(*one) for one in outer_parts(evidence.rows)]


def cross_fit(
    evidence: Evidence,
    splits: Sequence[Split],
    methods: Mapping[str, Method],
) -> dict[str, CrossFitted]:
    """Cross-fit every method over the splits, and fit it on all rows.

    A method that fits nothing needs no splits and is computed once.
    """
    fitted = {name: method for name, method in methods.items() if method.fits}
    shape = len(evidence.rows), evidence.num_classes
    logits = {name: np.full(shape, np.nan, np.float32) for name in fitted}
    task = Task("fit blending methods", len(splits) + 1, unit="fits")

    def of_split(split: Split | None) -> dict[str, Fitted]:
        on = evidence if split is None else evidence.take(split.others)
        fits = {name: method.fit(on) for name, method in fitted.items()}
        if split is not None:
            for name, one in fits.items():
                logits[name][split.rows] = evidence.answer(one, split.rows)
        task.add()
        return fits

    with task:
        *of_splits, final = in_turn(of_split, [*splits, None]) if fitted else [{}]
    for name, method in methods.items():
        if not method.fits:
            final[name] = method.fit(evidence)
            logits[name] = evidence.answer(final[name]).astype(np.float32)
    assert all(np.isfinite(logits_NC).all() for logits_NC in logits.values())
    return {
        name: CrossFitted(
            logits[name],
            final[name],
            tuple(fits[name] for fits in of_splits) if name in fitted else (),
        )
        for name in methods
    }


def offsets_of(
    evidence: Evidence,
    logits_NC: np.ndarray,
    rows: np.ndarray | None = None,
    *,
    averaged: bool = False,
) -> np.ndarray:
    """Fit the offsets C of the decision rule to logits N x C, on these rows or on all."""
    at = np.arange(len(logits_NC)) if rows is None else rows
    of = evidence.rows.take(at)
    return fit_offsets(logits_NC[at], of, metric=evidence.metric, averaged=averaged)


def cross_fit_offsets(
    evidence: Evidence,
    splits: Sequence[Split],
    logits: Iterable[np.ndarray],
    *,
    averaged: bool = False,
) -> list[tuple[np.ndarray | None, np.ndarray]]:
    """Cross-fit the offsets of the decision rule to the cross-fitted logits of each method.

    Offsets for a fold are fitted on the logits of the other folds; `averaged` is that of
    `fit_offsets`.

    Returns
    -------
    list of (array or None, array)
        For each method its logits N x C with cross-fitted offsets, or None where all offsets are
        zero, and the offsets C fitted on all rows.
    """
    logits = list(logits)
    if evidence.score.name not in FITS:
        return [(None, np.zeros(evidence.num_classes))] * len(logits)
    tasks = [(one, split) for one in range(len(logits)) for split in (*splits, None)]

    def fit(task: tuple[int, Split | None]) -> np.ndarray:
        one, split = task
        rows = None if split is None else split.others
        return offsets_of(evidence, logits[one], rows, averaged=averaged)

    # Splits hold arrays and are not hashable, so their identity is the key.
    found = dict(zip(((one, id(split)) for one, split in tasks), in_turn(fit, tasks), strict=True))
    answers: list[tuple[np.ndarray | None, np.ndarray]] = []
    for one, logits_NC in enumerate(logits):
        if not any(found[one, id(split)].any() for split in splits):
            answers.append((None, np.zeros(evidence.num_classes)))
            continue
        moved_NC = logits_NC.copy()
        for split in splits:
            offsets_C = found[one, id(split)]
            if offsets_C.any():
                moved_NC[split.rows] = log_softmax(log_softmax(logits_NC[split.rows]) + offsets_C)
        answers.append((moved_NC, found[one, id(None)]))
    return answers
