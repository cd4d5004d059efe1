"""Runs that are not finished, as plain data: folds done, score so far, time left, curves."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from foldblend.errors import UserError, counted
from foldblend.files import is_file
from foldblend.runs.broken import BrokenRun
from foldblend.runs.folder import is_in_use, logit_columns
from foldblend.runs.info import RunInfo
from foldblend.runs.run import Run
from foldblend.runs.so_far import FoldSoFar, Stamp, folds_so_far, seconds_left, seconds_of_fold
from foldblend.runs.so_far import stamp as stamp_of
from foldblend.runs.tables import TableReader
from foldblend.scores.metrics import Metric, softmax
from foldblend.scores.rows import Rows
from foldblend.scores.run_metric import metric_of
from foldblend.scores.score import score_interval
from reports.board.leaderboard import Cache
from reports.board.metric import metric_to_rank_by
from reports.text import printable

__all__ = [
    "about_score",
    "is_unfinished",
    "running_row",
    "running_stamp",
    "without_curves",
]

# Keys of run.json without which nothing can be said on an unfinished run.
NEEDED = ("classes", "data", "metric", "num_folds", "num_repeats")
# Settings that readers of a run ask for first.
SHOWN_SETTINGS = (
    "backbone",
    "pretrained",
    "finetune",
    "img_size",
    "epochs",
    "batch_size",
    "opt",
    "lr",
    "select",
    "tta",
    "split",
    "seed",
    "device",
)
MOST_EPOCHS = 1_000_000


def is_unfinished(path: Path) -> bool:
    """Return whether a folder is a cross-validated run that was started and is not finished."""
    if not is_file(path / "run.json"):
        return False
    try:
        info = Run(path).info
    except UserError:
        return False
    return (
        info.get("kind") == "cv"
        and info.get("status") == "running"
        and all(name in info for name in NEEDED)
    )


def running_stamp(path: Path) -> tuple[Stamp, bool]:
    """Return what tells whether an unfinished run has changed, and whether a process trains it."""
    try:
        folds = sorted(one.name for one in path.glob("fold_*"))
    except OSError:  # removed meanwhile
        folds = []
    names = ["run.json", "config.yaml"]
    names += [f"{fold}/{file}" for fold in folds for file in ("done.json", "log.csv", "")]
    # The time of a fold's folder changes with each checkpoint, of which nothing is shown.
    files = stamp_of(path, names)
    shown = tuple((one[0], 0, 0, one[3]) if one[0].endswith("/") else one for one in files)
    return shown, is_in_use(path)


def running_row(
    path: Path,
    *,
    now: float,
    cache: Cache | None = None,
    metric: str | None = None,
    score_by: str | None = None,
    group_pool: str | None = None,
) -> dict[str, Any]:
    """Return an unfinished run as plain data (``running`` in docs/leaderboard.schema.json).

    Parameters
    ----------
    path
        The run folder.
    now
        The time in seconds since 1970.
    cache
        Keeps scores between calls.
    metric, score_by, group_pool
        As of `reports.board.leaderboard.leaderboard`, for the score so far. If the run cannot be
        scored so, it is by its own metric, and a problem of the row says so.

    Raises
    ------
    UserError
        If its run.json cannot be read.
    """
    run = Run(path)
    info = run.info
    absent = [name for name in NEEDED if name not in info]
    if absent:
        raise BrokenRun(f"{path}/run.json: lacks {', '.join(absent)}; run it again", path)
    is_running = is_in_use(path)
    folds = folds_so_far(path, info, now=now, is_running=is_running)
    settings = run.settings
    is_frozen = settings.get("finetune") == "head"
    epochs = None if is_frozen else _epochs(settings.get("epochs"))
    problems = [one.problem for one in folds if one.problem is not None]
    own = metric_of(info)
    try:
        chosen = metric_to_rank_by([run], metric, score_by, group_pool)
    except UserError as error:
        chosen = own
        problems.append(f"the score so far is {own.title}, as {str(error).partition('; ')[0]}")
    score = None
    try:
        score = _score_so_far(path, info, folds, chosen, {} if cache is None else cache)
    except UserError as error:
        problems.append(str(error).replace(f"{path}/", "").partition("; ")[0])
    spent = [one.seconds for one in folds if one.seconds is not None]
    started = info.get("started")
    return {
        "name": printable(run.name),
        "path": printable(path),
        "kind": "cv",
        "state": "running" if is_running else "stopped",
        "data": printable(info["data"]["name"]),
        "num_folds": info["num_folds"],
        "num_repeats": info["num_repeats"],
        "folds_done": sum(one.state == "done" for one in folds),
        "epochs": epochs,
        "frozen": is_frozen,
        "folds": [
            {
                "repeat": one.repeat,
                "fold": one.fold,
                "state": one.state,
                "epochs": one.epochs,
                "score": None if one.done is None else one.done.get("score"),
                "seconds": one.seconds,
            }
            for one in folds
        ],
        "metric": own.name,
        "title": own.title,
        "score": score,
        "optimistic": bool(info.get("optimistic", settings.get("select") == "best")),
        "leaks": bool(info.get("leaks", False)),
        "group_name": run.group_name,
        "seconds": sum(spent),
        "seconds_left": _left(folds, epochs, is_frozen=is_frozen),
        "started": None if started is None else _moment(started),
        "as_of": _moment(now),
        "resume": None if is_running else _resume(path, settings),
        "settings": {
            name: printable(settings[name]) for name in SHOWN_SETTINGS if name in settings
        },
        "notes": _notes(info),
        "problems": [printable(one) for one in problems],
        "curves": [
            {"repeat": one.repeat, "fold": one.fold, **one.curve} for one in folds if one.curve
        ],
    }


def without_curves(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row without its curves, which are in the fold's log.csv, for JSON."""
    return {name: part for name, part in row.items() if name != "curves"}


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")


def _epochs(value: Any) -> int | None:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and 0 < value <= MOST_EPOCHS else None


def _notes(info: RunInfo) -> list[str]:
    notes = []
    if info["data"].get("is_demo"):
        notes.append("demo set with synthetic faces: its scores mean nothing")
    return notes


def _resume(path: Path, settings: dict[Any, Any]) -> str:
    """Return a command that continues a run from its settings."""
    words = ["python", "run_cv.py", "--config", str(path / "config.yaml")]
    # The recorded folder is relative to where the run was started.
    output = settings.get("output")
    place = os.path.realpath(path)
    known = output if isinstance(output, str) and "\0" not in output else None
    is_here = known is not None and os.path.realpath(Path(known, path.name)) == place
    if not is_here or settings.get("name") != path.name:
        words += ["--output", str(Path(place).parent), "--name", Path(place).name]
    return printable(shlex.join(words))


def _left(folds: Sequence[FoldSoFar], epochs: int | None, *, is_frozen: bool) -> float | None:
    """Return the seconds that a run still takes, or None if they are not known.

    Heads on a frozen backbone are written all at once, after the features, so nothing tells.
    """
    each = None if is_frozen else seconds_of_fold(folds, epochs)
    if each is None:
        return None
    begun = [one.seconds or 0.0 for one in folds if one.state == "begun"]
    return seconds_left(each, begun, sum(one.state == "waiting" for one in folds))


def _score_so_far(
    path: Path, info: RunInfo, folds: Sequence[FoldSoFar], metric: Metric, cache: Cache
) -> dict[str, Any] | None:
    """Return the score of the finished folds of one repeat, with its interval over groups.

    Of several repeats it is the first of those with most folds done, because a mean with a repeat
    that is not whole would count its images more than once.
    """
    num_done = [0] * info["num_repeats"]
    for one in folds:
        num_done[one.repeat] += one.state == "done"
    repeat = int(np.argmax(num_done))
    done = {
        f"fold_{index}/oof": one.done["files"]
        for index, one in enumerate(folds)
        if one.done is not None and one.repeat == repeat
    }
    if not done:
        return None
    hashes = {name: digest for files in done.values() for name, digest in files.items()}
    key = (
        "so far",
        str(path),
        metric,
        repeat,
        tuple((name, hashes.get(f"{name}.parquet")) for name in done),
    )
    if key not in cache:
        reader = TableReader(path, info, hashes)
        cache[key] = {
            **_score(reader, info, [*done], metric),
            "num_folds": len(done),
            "repeat": repeat,
            "metric": metric.name,
            "title": metric.title,
        }
    return dict(cache[key])


def _score(
    reader: TableReader, info: RunInfo, names: Sequence[str], metric: Metric
) -> dict[str, Any]:
    table = pd.concat([reader.read(name) for name in names], ignore_index=True)
    if table["image_id"].duplicated().any():
        raise UserError("folds that are done have the same images; make the run again")
    columns = ("label", "group", "repeat", "fold")
    label_N, group_N, repeat_N, fold_N = (table[name].to_numpy() for name in columns)
    group_name = info["data"].get("group_name", "group")
    rows = Rows(label_N, group_N, repeat_N, fold_N, group_name)
    logits_NC = table[logit_columns(len(info["classes"]))].to_numpy()
    found = score_interval(metric, rows, softmax(logits_NC)).as_dict()
    return {**found, "num_images": len(table)}


def about_score(row: Mapping[str, Any]) -> str:
    """Return what a score so far is of, such as "macro F1 over 56 images of 1 finished fold"."""
    score = row["score"]
    repeat = f" of repeat {score['repeat']}" if row["num_repeats"] > 1 else ""
    return (
        f"{score['title']} over {counted(score['num_images'], 'image')} of"
        f" {counted(score['num_folds'], 'finished fold')}{repeat}"
    )
