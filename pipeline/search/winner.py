"""The chosen trial of a search: what the choice cost, and a run with its settings."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foldblend.drafts import draft_folder, sweep_own
from foldblend.errors import require
from foldblend.files import write_with
from foldblend.flags import flag_name
from foldblend.runs.folder import is_empty, lock_folder, write_json
from foldblend.runs.schema import read_info
from foldblend.scores.intervals import Interval
from foldblend.scores.metrics import softmax
from foldblend.scores.optimism import Optimism, selection_optimism
from foldblend.scores.score import Score
from pipeline.fold_claims import folds_in_training
from pipeline.job import Chosen
from pipeline.search.scoring import Scoring
from pipeline.search.trials import DEFAULT, Counts, Result
from reports.blocks import section, strips_block, table_block, text_block

__all__ = [
    "check_place",
    "choose",
    "in_words",
    "is_of_other_trial",
    "nested_before",
    "take_over",
]

MOST_SHOWN = 10
# Bytes of predictions that the estimate of the optimism compares.
MOST_BYTES = 2**30


def in_words(settings: Mapping[str, Any]) -> str:
    """Return settings as flags, or words for none."""
    flags = (f"{flag_name(name)} {_short(value)}" for name, value in settings.items())
    return " ".join(flags) or "the settings of the command"


def _short(value: Any) -> str:
    """Return a value for a line; numbers have four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def check_place(folder: Path, study: str) -> None:
    """Raise UserError unless a folder is free for the chosen run of a study, or is of it."""
    if not folder.exists() or (folder.is_dir() and is_empty(folder)):
        return
    is_run = (folder / "run.json").is_file()
    mine = is_run and read_info(folder).get("search", {}).get("study") == study
    require(
        mine,
        f"{folder}: exists and is not the result of the study {study}; pass another --name or"
        " --study",
    )


def is_of_other_trial(folder: Path, best: Result) -> bool:
    """Return whether a folder has the run of another trial of the study, which is replaced."""
    if not (folder / "run.json").is_file():
        return False
    search = read_info(folder).get("search", {})
    # A study of the same name in another storage has trials of the same names.
    return (search.get("trial"), search.get("settings")) != (best.name, dict(best.settings))


def nested_before(folder: Path, counts: Counts, best: Result) -> Interval | None:
    """Return the nested score of the best run that is there, or None if the study has grown."""
    if not (folder / "run.json").is_file() or is_of_other_trial(folder, best):
        return None
    search = read_info(folder)["search"]
    found = search.get("nested")
    if found is None or search["num_trials"] != counts.finished:
        return None
    # A score that is not finite is null in JSON.
    ends = (found["value"], found["low"], found["high"])
    return Interval(*(np.nan if one is None else one for one in ends))


def take_over(trial: Path, folder: Path, best: Result, chosen: Chosen) -> None:
    """Copy the run of the best trial to its place, so that its folds are not trained again.

    The run of another trial that is there stays until the copy is whole. The copy has the record of
    the search, by which a search that goes on after a kill recognises it.

    Parameters
    ----------
    trial
        Run folder of the best trial. If it was removed, nothing is copied.
    folder
        The place of the best run.
    best
        The best trial.
    chosen
        The record of the search.

    Raises
    ------
    UserError
        If another process writes the run that is replaced.
    WriteFailed
        If the disk is full.
    """
    is_there = (folder / "run.json").is_file() and not is_of_other_trial(folder, best)
    if is_there or not (trial / "run.json").is_file():
        return
    # What was left of a copy by a process that was killed.
    sweep_own(folder.parent)
    info = read_info(trial)
    num_models = info["num_folds"] * info["num_repeats"]
    with draft_folder(folder) as draft:
        new = draft / "new"
        for file in sorted(trial.rglob("*")):
            inside = file.relative_to(trial)
            if file.is_file() and not any(part.startswith(".") for part in inside.parts):
                copy = functools.partial(shutil.copyfile, file)
                write_with(new / inside, copy, needed=file.stat().st_size)
        search = dict(chosen.record)
        write_json(new / "run.json", {**info, "name": folder.name, "search": search})
        with lock_folder(folder):
            folds = folds_in_training(folder, range(num_models))
            require(not folds, f"{folder}: another process trains a fold of this run; wait for it")
            os.replace(folder, draft / "old")
            os.replace(new, folder)


def _optimism(
    scoring: Scoring, logits_of: Mapping[str, np.ndarray], order: Sequence[str]
) -> Optimism:
    """Return by how much the best score is too high; the best trials come first in `order`."""
    size = len(scoring.rows) * scoring.num_classes * 8
    few = order[: max(2, MOST_BYTES // size)]
    return selection_optimism(
        scoring.metric, scoring.rows, [softmax(logits_of[name]) for name in few]
    )


def _interval(score: Score) -> dict[str, float | None]:
    return score.interval().as_dict()


def choose(
    scoring: Scoring,
    results: Sequence[Result],
    logits_of: Mapping[str, np.ndarray],
    counts: Counts,
    *,
    best: Result,
    study: str,
    sampler: str,
    nested: Interval | None,
) -> Chosen:
    """Return the record and the section of a report on the choice among trials.

    Parameters
    ----------
    scoring
        The metric and the rows.
    results
        The trials with all folds.
    logits_of
        Held-out logits by trial; a trial may lack them, but the best one and DEFAULT do not.
    counts
        How many trials there are.
    best
        The chosen trial.
    study, sampler
        Names of the study and of the samplers that proposed the settings.
    nested
        The nested score of the search, with the metric's own sign.
    """
    metric = scoring.metric
    order = sorted(results, key=lambda one: -metric.sign * one.value)
    # Equal settings are one configuration, and so is that of the command if the space has it.
    alike: dict[bytes, str] = {}
    for one in order:
        if one.name in logits_of:
            alike.setdefault(logits_of[one.name].tobytes(), one.name)
    names = [*alike.values()]
    optimism = _optimism(scoring, logits_of, names)
    score = scoring.score(logits_of[best.name])
    default = scoring.score(logits_of[DEFAULT])
    expected = score.minus(max(optimism.value, 0.0)) if optimism.is_known else None
    record = {
        "study": study,
        "trial": best.name,
        "num_trials": counts.finished,
        "num_configurations": len(names),
        "num_pruned": counts.pruned,
        "num_failed": counts.failed,
        "sampler": sampler,
        "settings": dict(best.settings),
        "score": _interval(score),
        "optimism": optimism.as_dict(),
        **({} if expected is None else {"expected": _interval(expected)}),
        "default": _interval(default),
        "gain": _interval(score.minus(default)),
        **({} if nested is None else {"nested": nested.as_dict()}),
    }
    return Chosen(record=record, section=_section(scoring, record, order, study))


def _section(
    scoring: Scoring, record: Mapping[str, Any], order: Sequence[Result], study: str
) -> dict[str, Any]:
    title = scoring.metric.title
    optimism = record["optimism"]["value"]
    gain = record["gain"]
    intervals = {
        "settings of the command": record["default"],
        "chosen settings, in-sample": record["score"],
        **({"less the optimism of the choice": record["expected"]} if "expected" in record else {}),
        **({"nested": record["nested"]} if "nested" in record else {}),
    }
    groups = scoring.rows.groups
    too_high = (
        "it is too high, by an amount that could not be estimated"
        if optimism is None
        else f"it is too high by about {optimism:.4f} on average (bootstrap estimate over {groups})"
    )
    text = (
        f"{record['num_trials']:,} trials of the study {study} ({record['sampler']}) were scored on"
        f" these folds: {record['num_configurations']:,} different settings with all folds,"
        f" {record['num_pruned']:,} stopped early, {record['num_failed']:,} failed. The best is"
        f" {record['trial']}: {in_words(record['settings'])}. Its {title} minus that of"
        f" the settings of the command is {_signed(gain)}, paired over {groups}. Because the best"
        f" of many was taken on the same {groups} that score it, {too_high}. How lucky this"
        " particular choice was cannot be estimated."
    )
    if "nested" in record:
        text += (
            " The nested score is that of the whole search: for each fold, settings were searched"
            " on the other folds only, and scored on this one."
        )
    names = list(dict.fromkeys(name for one in order for name in one.settings))
    rows = [
        [one.name, f"{one.value:.4f}", *(_cell(one.settings.get(name)) for name in names)]
        for one in order[:MOST_SHOWN]
    ]
    return section(
        "Search of settings",
        text_block(text),
        strips_block(intervals, xlabel=title),
        table_block(["trial", title, *names], rows),
    )


def _signed(interval: Mapping[str, float | None]) -> str:
    if None in (interval["value"], interval["low"], interval["high"]):
        return "not known"
    return f"{interval['value']:+.4f} [{interval['low']:+.4f}, {interval['high']:+.4f}]"


def _cell(value: Any) -> str:
    return "-" if value is None else _short(value)
