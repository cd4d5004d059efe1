"""Out-of-fold logits of a blend: what holds for some people was fitted on others."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from ensemble.methods.base import Evidence, Fitted, Method
from ensemble.offsets import FITS, fit_offsets
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

Task = TypeVar("Task")
Answer = TypeVar("Answer")
MOST_AT_ONCE = 4  # each holds a copy of nearly all rows


@dataclass(frozen=True, slots=True)
class Split:
    """Rows by number: some people's, and those of the same repeat's other people."""

    repeat: int
    fold: int
    rows: np.ndarray
    others: np.ndarray


@dataclass(frozen=True, slots=True)
class CrossFitted:
    """Logits N x C float32 of a method, each row's as other people's rows would have it; and what
    all rows say.
    """

    logits_NC: np.ndarray
    final: Fitted


def in_turn(function: Callable[[Task], Answer], tasks: Sequence[Task]) -> list[Answer]:
    """Return the answers of all tasks, on a thread a core; the sums of a task are one thread's,
    whatever the cores.
    """
    with (
        threadpool_limits(limits=1),
        ThreadPoolExecutor(min(os.cpu_count() or 1, MOST_AT_ONCE)) as pool,
    ):
        return list(pool.map(function, tasks))


def splits_of(evidence: Evidence) -> list[Split]:
    """Return a split for each fold of each repeat. Raises ValueError for a repeat with a single
    fold.
    """
    return [Split(*one) for one in outer_parts(evidence.rows)]


def cross_fit(
    evidence: Evidence,
    splits: Sequence[Split],
    methods: Mapping[str, Method],
    *,
    say: Callable[[str], None],
) -> dict[str, CrossFitted]:
    """Return each method's logits, every split's by what was fitted on its other people; and the
    fit on all rows.

    What fits nothing is the same for everybody, and is computed once.
    """
    fitted = {name: method for name, method in methods.items() if method.fits}
    shape = len(evidence.rows), evidence.num_classes
    logits = {name: np.full(shape, np.nan, np.float32) for name in fitted}
    done = itertools.count(1)

    def of_split(split: Split | None) -> dict[str, Fitted]:
        on = evidence if split is None else evidence.take(split.others)
        fits = {name: method.fit(on) for name, method in fitted.items()}
        if split is not None:
            for name, one in fits.items():
                logits[name][split.rows] = one(
                    logits_NC[split.rows] for logits_NC in evidence.logits_MNC
                )
        say(f"fitted {len(fitted)} methods, {next(done)} of {len(splits) + 1} times")
        return fits

    final = in_turn(of_split, [*splits, None])[-1] if fitted else {}
    for name, method in methods.items():
        if not method.fits:
            final[name] = method.fit(evidence)
            logits[name] = final[name](evidence.logits_MNC).astype(np.float32)
    assert all(np.isfinite(logits_NC).all() for logits_NC in logits.values())
    return {name: CrossFitted(logits[name], final[name]) for name in methods}


def offsets_of(
    evidence: Evidence, logits_NC: np.ndarray, rows: np.ndarray | None = None
) -> np.ndarray:
    """Return the offsets C of the decision rule that suit logits N x C of these rows, or of all."""
    at = np.arange(len(logits_NC)) if rows is None else rows
    return fit_offsets(logits_NC[at], evidence.rows.take(at), metric=evidence.metric)


def cross_fit_offsets(
    evidence: Evidence, splits: Sequence[Split], logits: Iterable[np.ndarray]
) -> list[tuple[np.ndarray | None, np.ndarray]]:
    """Return for each logits N x C, which are cross-fitted: the same with other people's offsets,
    None where these are all zeros, and the offsets C that all rows give.

    As with every stage, a row's offsets are fitted on the other folds of what the stage before
    wrote out of fold.
    """
    logits = list(logits)
    if evidence.metric not in FITS:
        return [(None, np.zeros(evidence.num_classes))] * len(logits)
    tasks = [(one, split) for one in range(len(logits)) for split in (*splits, None)]

    def fit(task: tuple[int, Split | None]) -> np.ndarray:
        one, split = task
        return offsets_of(evidence, logits[one], None if split is None else split.others)

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
