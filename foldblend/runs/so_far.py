"""Progress of the folds of an unfinished run, and an estimate of the time left.

Another process may write the run meanwhile, so nothing here writes or waits, and each file that is
absent, cut off or damaged is a problem of its fold only.
"""

from __future__ import annotations

import heapq
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from foldblend.errors import UserError
from foldblend.files import is_file
from foldblend.runs.info import FoldInfo, RunInfo
from foldblend.runs.schema import read_done
from foldblend.runs.tables import read_log

__all__ = ["FoldSoFar", "Stamp", "folds_so_far", "seconds_left", "seconds_of_fold", "stamp"]

# Folds whose curves are kept; a figure with more could not be read.
MOST_CURVES = 30
# Points of a curve; a figure does not show more.
MOST_POINTS = 500
MOST_EPOCHS = 100_000

Stamp = tuple[tuple[str, int, int, int], ...]
"""Name, time of change, size and number of each file that is there."""


@dataclass(frozen=True, kw_only=True)
class FoldSoFar:
    """One fold of an unfinished run."""

    repeat: int
    fold: int
    state: Literal["done", "begun", "waiting", "damaged"]
    """A fold is damaged if it has a done.json that cannot be read."""
    epochs: int = 0
    """Number of epochs in its log."""
    logged: float | None = None
    """Seconds of these epochs; None where its log does not tell."""
    seconds: float | None = None
    """Seconds that it took so far; None where its files do not tell."""
    done: FoldInfo | None = None
    """Its done.json."""
    curve: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    """Columns of its log at evenly spaced epochs, the last one included."""
    problem: str | None = None
    """What is wrong with its files."""


def stamp(folder: Path, names: Iterable[str]) -> Stamp:
    """Return what tells whether one of these files of a folder has changed since another look."""
    found = []
    for name in names:
        try:
            about = (folder / name).stat()
        except (OSError, ValueError):
            continue
        found.append((name, about.st_mtime_ns, about.st_size, about.st_ino))
    return tuple(found)


def folds_so_far(folder: Path, info: RunInfo, *, now: float, is_running: bool) -> list[FoldSoFar]:
    """Return how far each fold of a run is; up to 30 have curves, those in training first.

    Parameters
    ----------
    folder
        The run folder.
    info
        Its checked run.json.
    now
        The time in seconds since 1970.
    is_running
        Whether a process trains it, so that the last epoch goes on since its log was written.
    """
    num_folds = info["num_folds"]
    found = [
        _fold(folder, index, divmod(index, num_folds), now if is_running else None)
        for index in range(num_folds * info["num_repeats"])
    ]
    with_curve = [index for index, one in enumerate(found) if one.curve]
    with_curve.sort(key=lambda index: found[index].state != "begun")
    for index in with_curve[MOST_CURVES:]:
        found[index] = replace(found[index], curve={})
    return found


def _fold(folder: Path, index: int, place: tuple[int, int], now: float | None) -> FoldSoFar:
    """Return one fold; `now` is None if no process trains it."""
    repeat, fold = place
    path = folder / f"fold_{index}"
    common: dict[str, Any] = {"repeat": repeat, "fold": fold}
    problem = None
    log = pd.DataFrame()
    if is_file(path / "log.csv"):
        try:
            log = read_log(path / "log.csv")
        except UserError as error:
            problem = _within(folder, error)
    # The log of heads on a frozen backbone has no epochs.
    if "epoch" in log and len(log) <= MOST_EPOCHS:
        common |= {"epochs": len(log), "logged": _logged(log), "curve": _curve(log)}
    if is_file(path / "done.json"):
        try:
            done = read_done(folder, index)
            return FoldSoFar(
                **common, state="done", seconds=done["seconds"], done=done, problem=problem
            )
        except UserError as error:
            return FoldSoFar(**common, state="damaged", problem=_within(folder, error))
    if not path.is_dir():
        return FoldSoFar(**common, state="waiting", problem=problem)
    return FoldSoFar(**common, state="begun", seconds=_spent(path, log, now), problem=problem)


def _within(folder: Path, error: UserError) -> str:
    """Return what is wrong with a file of a run, without the cure, which is for finished runs."""
    return str(error).replace(f"{folder}/", "").rpartition("; ")[0]


def _curve(log: pd.DataFrame) -> dict[str, list[float | None]]:
    """Return the columns of a log, of many epochs at every second, fourth, ... and the last one.

    With powers of two, logs of different lengths share their epochs.
    """
    step = 1
    while len(log) > step * MOST_POINTS:
        step *= 2
    kept = np.arange(len(log)) % step == 0
    kept[-1] = True
    thin = log[kept]
    return {
        str(name): [float(one) if np.isfinite(one) else None for one in thin[name]] for name in thin
    }


def _logged(log: pd.DataFrame) -> float | None:
    """Return the seconds until the last epoch; logs of earlier versions have none."""
    last = float(log["seconds"].iloc[-1]) if "seconds" in log else np.nan
    return last if np.isfinite(last) else None


def _spent(path: Path, log: pd.DataFrame, now: float | None) -> float | None:
    """Return the seconds of a fold so far: those in its log, and those since it was written."""
    logged = _logged(log) if len(log) else 0.0
    if logged is None:
        return None
    try:
        since = (path / "log.csv" if len(log) else path).stat().st_mtime
    except OSError:  # removed meanwhile
        return None
    spent = logged + (0.0 if now is None else max(0.0, now - since))
    return spent if spent >= 0 else None


def seconds_of_fold(folds: Sequence[FoldSoFar], epochs: int | None) -> float | None:
    """Return how long a fold takes: as the finished ones did, else by the epochs of those begun.

    Returns None if neither is known.
    """
    finished = [one.seconds for one in folds if one.state == "done" and one.seconds is not None]
    if finished:
        return statistics.median(finished)
    per_epoch = [one.logged / one.epochs for one in folds if one.epochs and one.logged is not None]
    return None if epochs is None or not per_epoch else max(per_epoch) * epochs


def seconds_left(fold_seconds: float, spent: Sequence[float], num_waiting: int) -> float:
    """Return the seconds until the last fold ends.

    Parameters
    ----------
    fold_seconds
        Seconds that a fold takes.
    spent
        Seconds so far of each fold that is begun. As many folds are trained at the same time; if
        there is none, one is.
    num_waiting
        Number of the other folds; each begins when another one ends.

    Examples
    --------
    >>> seconds_left(60, [10, 30], num_waiting=1)
    90
    >>> seconds_left(60, [], num_waiting=3)
    180
    """
    # An end that is overdue is expected at any moment.
    ends = [max(0, fold_seconds - one) for one in spent] or [0]
    heapq.heapify(ends)
    for _ in range(num_waiting):
        heapq.heapreplace(ends, ends[0] + fold_seconds)
    return max(ends)
