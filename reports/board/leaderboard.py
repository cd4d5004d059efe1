"""Finished runs compared, as plain data read from their folders."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from foldblend.ahead import ahead
from foldblend.errors import UserError, listed, require
from foldblend.files import exists, home, is_link
from foldblend.runs.broken import BrokenRun
from foldblend.runs.check import finished_run, why_unfinished
from foldblend.runs.costs import num_models, num_passes
from foldblend.runs.rows import group_name_of
from foldblend.runs.run import Run
from foldblend.scores.bootstrap import num_resamples_of
from foldblend.scores.error_costs import common_metric, costs_among
from foldblend.scores.metrics import (
    MEAN_COST,
    METRICS,
    Metric,
    check_metric,
    check_order,
    softmax,
)
from foldblend.scores.rows import Rows
from foldblend.scores.score import Scored, score_prediction
from foldblend.words import plural
from reports.run.scored_test import value_on_test
from reports.text import printable

__all__ = ["SCHEMA", "find_runs", "leaderboard"]

SCHEMA = 1
# All pairs of 50 runs have 1,225 differences; more runs have only the difference to the best.
MOST_COMPARED = 50
MOST_LEVELS = 50  # of blends in blends


def _check(path: Path) -> Run:
    """Return a finished run whose rows can be scored. Raises UserError if it is not."""
    why = why_unfinished(path)
    if why is not None:
        raise UserError(why)
    run = Run(path)
    # Whatever is damaged raises here, so that the run is skipped.
    run.oof  # noqa: B018
    run.ids_hash  # noqa: B018
    if run.test_labels is not None:
        run.test  # noqa: B018
    return run


def find_runs(paths: Sequence[str | Path]) -> tuple[list[Run], list[dict[str, str]]]:
    """Return the finished runs among the paths, and what was skipped with the reason.

    Raises UserError for a path that does not exist, and where no run is left.
    """
    runs: dict[str, Run] = {}
    skipped = []
    for path in map(home, paths):
        # A shell passes on a pattern that matches nothing.
        if not exists(path) and "*" not in str(path) and not is_link(path):
            raise UserError(f"{path}: no such run; check the path")
        try:
            # Unlike `resolve`, this takes a link to itself.
            place = os.path.realpath(path)
            if place in runs:
                raise UserError("given twice")
            run = _check(path)
        except UserError as error:
            why = error.why if isinstance(error, BrokenRun) else str(error)
            skipped.append({"path": printable(path), "why": printable(why)})
        else:
            runs[place] = run
    if not runs:
        reasons = (
            f" ({listed('{path}: {why}'.format(**one) for one in skipped)})" if skipped else ""
        )
        raise UserError(f"no finished run{reasons}; pass run folders, such as outputs/*")
    return list(runs.values()), skipped


def _names(runs: Sequence[Run]) -> list[str]:
    """Return the names of the runs, or the path of each run whose name occurs twice."""
    names = [run.name for run in runs]
    return [printable(run.name if names.count(run.name) == 1 else run.path) for run in runs]


def _sibling(run: Run, member: Mapping[str, Any]) -> Run | None:
    """Return the member of a blend from the folder that holds the blend, or None if absent."""
    found = Run(run.path.resolve().parent / member["name"])
    try:
        return (
            found
            if why_unfinished(found.path) is None and found.oof_hash == member["oof"]
            else None
        )
    except (OSError, UserError):
        return None


def _single_runs(
    run: Run, by_oof: Mapping[str, Run], above: frozenset[Path] = frozenset()
) -> dict[str, Run] | None:
    """Return the cross-validated runs that a run is made of, by the hash of their rows.

    Members of a blend are searched among `by_oof` and in the folder that holds the blend. Returns
    None if one is not found, or if a blend is its own member. `above` are the blends that it is in.
    """
    if "members" not in run.info:
        return {run.oof_hash: run}
    found: dict[str, Run] = {}
    above |= {run.path.resolve()}
    if len(above) > MOST_LEVELS:
        return None
    for member in run.info["members"]:
        # A blend that gives one member all weight has the rows of that member.
        places = (by_oof.get(member["oof"]), _sibling(run, member))
        one = next((one for one in places if one and one.path.resolve() not in above), None)
        singles = None if one is None else _single_runs(one, by_oof, above)
        if singles is None:
            return None
        # A member with weight 0 is not needed for predictions, so it costs nothing.
        if member.get("weight") != 0:
            found |= singles
    return found


def _settings(run: Run) -> dict[str, Any]:
    """Return the recorded settings of a run or blend as JSON values."""
    if "tta" in run.info:
        return {name: _plain(value) for name, value in run.info["tta"].items()} | {
            "of": run.info["of"]["name"]
        }
    return {printable(key): _plain(value) for key, value in run.settings.items() if key != "name"}


def _plain(value: Any) -> Any:
    if (
        value is None
        or isinstance(value, (bool, int))
        or (isinstance(value, float) and math.isfinite(value))
    ):
        return value
    if (
        isinstance(value, list)
        and value
        and all(isinstance(one, dict) and "name" in one for one in value)
    ):
        # The members of a blend.
        value = ", ".join(f"{one['name']} x {one.get('weight', 1):g}" for one in value)
    return printable(value)


def _facts(run: Run, by_oof: Mapping[str, Run]) -> dict[str, Any]:
    """Return the columns of a row other than the scores; None where a value is unknown."""
    info = run.info
    singles = _single_runs(run, by_oof)
    seconds: list[Any] = (
        [None] if singles is None else [one.info.get("seconds") for one in singles.values()]
    )
    finished = info.get("finished")
    started = info.get("started")
    # Runs of early versions lack the key, but their settings show what it would be.
    is_optimistic = (
        info["optimistic"] if "optimistic" in info else _settings(run).get("select") == "best"
    )
    return {
        "path": printable(run.path),
        "kind": info["kind"],
        "optimistic": bool(is_optimistic),
        "leaks": bool(info["leaks"]),
        "models": None if singles is None else sum(map(num_models, singles.values())),
        "passes": None if singles is None else sum(map(num_passes, singles.values())),
        "seconds": None if None in seconds else round(sum(seconds), 1),
        "wall": None if finished is None or started is None else finished - started,
        "finished": (
            None
            if finished is None
            else datetime.fromtimestamp(finished).astimezone().isoformat(timespec="minutes")
        ),
        "about": info.get("about", ""),
        "notes": list(info.get("notes", ())),
    }


def _once(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the first repeat; labels and groups are the same in all repeats."""
    return table[: table["image_id"].nunique()]


def _shared_groups(groups: Sequence[np.ndarray]) -> tuple[np.ndarray, bool]:
    """Return the group of each image as a number, and whether the groups of the runs differ.

    If they differ, groups that share an image are merged. If they do not, the order of their names
    is kept, so that the intervals are those of each run's report.
    """
    if all((one == groups[0]).all() for one in groups):
        return np.unique(groups[0], return_inverse=True)[1], False
    import scipy.sparse.csgraph  # only here, as it takes a while to import

    codes = [np.unique(one, return_inverse=True)[1] for one in groups]
    # Images first, then the groups of each run; an edge joins an image with its group.
    sizes = np.cumsum([len(groups[0]), *(one.max() + 1 for one in codes)])
    ends = np.concatenate([one + start for one, start in zip(codes, sizes[:-1], strict=True)])
    starts = np.tile(np.arange(len(groups[0])), len(codes))
    graph = scipy.sparse.coo_matrix(
        (np.ones(len(ends)), (starts, ends)), shape=(sizes[-1], sizes[-1])
    )
    return (
        scipy.sparse.csgraph.connected_components(graph, directed=False)[1][: len(groups[0])],
        True,
    )


def rank(scored: Sequence[Scored], unmarked: Sequence[bool]) -> list[int]:
    """Return the indices of the runs, best first; marked runs come after all others.

    A run is marked if its score is too high, see `reports.board.text.marked`. The first run is the
    one that others are compared with.
    """

    def key(index: int) -> tuple[bool, bool, float]:
        value = scored[index].score.value
        return not unmarked[index], bool(np.isnan(value)), -value

    return sorted(range(len(scored)), key=key)


def difference(one: Scored, other: Scored) -> dict[str, float | None]:
    """Return one score minus the other, with the paired interval."""
    return one.score.minus(other.score).interval().as_dict()


def all_differences(scored: Sequence[Scored]) -> list[list[dict[str, float | None]]]:
    """Return, for each run, its score minus the score of each run after it."""
    return [
        [difference(one, other) for other in scored[index + 1 :]]
        for index, one in enumerate(scored)
    ]


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the settings that are not equal in all of the mappings, in order."""
    # A setting that one run lacks differs from None in another one.
    absent = object()
    names = dict.fromkeys(name for one in settings for name in one)
    return [
        name
        for name in names
        if any(one.get(name, absent) != settings[0].get(name, absent) for one in settings)
    ]


def _rows(
    runs: Sequence[Run], scored: Sequence[Scored], by_oof: Mapping[str, Run], metric: Metric
) -> tuple[list[int], list[dict[str, Any]]]:
    """Return the indices of the runs, best first, and their rows in that order."""
    facts = [_facts(run, by_oof) for run in runs]
    names = _names(runs)
    settings = [_settings(run) for run in runs]
    order = rank(scored, [not (one["optimistic"] or one["leaks"]) for one in facts])
    kinds = [one["kind"] for one in facts]
    # Per kind, because a blend has other settings than a run.
    changed = {
        kind: differing(
            [each for each, other in zip(settings, kinds, strict=True) if other == kind]
        )
        for kind in kinds
    }
    best = order[0]
    return order, [
        {
            "name": names[one],
            **facts[one],
            "headline": scored[one].score.interval().as_dict(),
            "attributes": dict(scored[one].attributes),
            "test": value_on_test(runs[one], metric),
            "difference": None if one == best else difference(scored[one], scored[best]),
            "settings": {
                key: settings[one][key] for key in changed[kinds[one]] if key in settings[one]
            },
        }
        for one in order
    ]


def _board(
    runs: Sequence[Run], by_oof: Mapping[str, Run], metric: Metric, *, pairs: bool
) -> dict[str, Any]:
    """Return the board of one data set: runs, best first, scored on equal labels and groups."""
    # All runs have the same images, so after sorting equal rows are the same image.
    tables = [run.oof.sort_values(["repeat", "image_id"], ignore_index=True) for run in runs]
    images = [_once(table) for table in tables]
    data = runs[0].info["data"]
    first = images[0]
    group_name = group_name_of(runs)
    groups = plural(group_name)
    notes = []
    # Each run may be scored on other labels in its report; on a board all have the same.
    corrected = any((one["label"] != first["label"]).any() for one in images)
    true_N = first["label_raw" if corrected else "label"].to_numpy()
    if corrected:
        notes.append(
            "the runs have different corrections, so all are scored on the original labels"
        )
    shared_N, joined = _shared_groups([one["group"].to_numpy() for one in images])
    if joined:
        notes.append(
            f"the {groups} of the runs differ, so {groups} that share an image in any run are"
            " merged for the intervals"
        )
    if any(len(table) > len(first) for table in tables):
        notes.append(
            "the score of a run with repeats is the mean over repeats; the predicted class of an"
            " image comes from its mean logits"
        )
    if data.get("is_demo"):
        notes.append(
            "demo set with synthetic faces: it only shows that everything runs, its scores mean"
            " nothing"
        )

    def of_run(member: tuple[Run, pd.DataFrame]) -> tuple[Scored, np.ndarray]:
        """Return a run's scores, and the class of each image."""
        run, table = member
        repeats = len(table) // len(first)
        logits_NC = run.logits(table)
        label_N = np.tile(true_N, repeats)
        group_N = np.tile(shared_N, repeats)
        oof = Rows(label_N, group_N, table["repeat"].to_numpy(), table["fold"].to_numpy())
        proba_NC = softmax(logits_NC)
        scores = score_prediction(run.name, oof, proba_NC, attributes=run.attributes, metric=metric)
        mean_NC = logits_NC.reshape(repeats, len(first), -1).mean(axis=0, dtype=np.float64)
        return scores, mean_NC.argmax(axis=1)

    found = [*ahead(of_run, zip(runs, tables, strict=True))]
    scored = [one for one, _ in found]
    predicted = [one for _, one in found]
    order, rows = _rows(runs, scored, by_oof, metric)
    return {
        "data": printable(data["name"]),
        "ids_hash": runs[0].ids_hash,
        "num_images": len(first),
        "num_groups": len(np.unique(shared_N)),
        "group_name": group_name,
        "num_resamples": num_resamples_of(metric),
        "labels": "label_raw" if corrected else "label",
        "notes": notes,
        "best": rows[0]["name"],
        "rows": rows,
        "differences": all_differences([scored[one] for one in order]) if pairs else None,
        "pictures": {
            "classes": list(runs[0].classes),
            "image_ids": [printable(one) for one in first["image_id"]],
            "true": true_N.tolist(),
            "predicted": [predicted[one].tolist() for one in order],
        },
    }


def _data_key(run: Run) -> tuple[object, ...]:
    """Return a key that the runs of one board share: images, classes and original labels."""
    once = _once(run.oof.sort_values(["repeat", "image_id"]))[["image_id", "label_raw"]]
    return (
        run.ids_hash,
        run.classes,
        pd.util.hash_pandas_object(once, index=False).to_numpy().tobytes(),
    )


def _metric(runs: Sequence[Run], name: str | None) -> Metric:
    """Return the metric to rank by: that of a name, or of all runs, or macro F1 if they differ.

    Raises UserError if runs cannot be scored by the metric.
    """
    infos = [run.info for run in runs]
    if name is None:
        return common_metric(infos) or METRICS["f1_macro"]
    if name != MEAN_COST:
        check_metric(name)
        cure = "pass another --metric, or make the runs with --class-order a,b,c"
        check_order(name, ordered=all(run.ordered for run in runs), cure=cure)
        return METRICS[name]
    costs = costs_among(infos)
    odd = [run.name for run in runs if run.classes != costs.classes]
    require(
        not odd,
        f"--metric {name}: {listed(odd)} has other classes than the costs of errors; compare it"
        " alone",
    )
    return costs.metric


def leaderboard(
    runs: Iterable[str | Path | Run],
    skipped: Sequence[Mapping[str, str]] = (),
    *,
    metric: str | None = None,
) -> dict[str, Any]:
    """Compare runs and return one board per data set, as plain data.

    Parameters
    ----------
    runs
        Finished runs, or their folders.
    skipped
        Folders that `find_runs` skipped, which are listed too.
    metric
        Score to rank by; default: the metric of the runs, or f1_macro if they differ. For
        mean_cost, at least one of them must be a blend with costs of errors.

    Returns
    -------
    dict
        Content as described by docs/leaderboard.schema.json, with the best run first. For up to
        50 runs it has the differences of all pairs: ``differences[i][j]`` is row i minus row
        i + 1 + j.

    Examples
    --------
    >>> [board] = fb.leaderboard([fb.load(outputs / name) for name in ("alpha", "beta")])["boards"]
    >>> len(board["rows"])
    2
    """
    several = [runs] if isinstance(runs, (str, Path, Run)) else runs
    found = [one if isinstance(one, Run) else finished_run(one) for one in several]
    require(bool(found), "no runs to compare; pass folders of finished runs")
    chosen = _metric(found, metric)
    by_oof = {run.oof_hash: run for run in found}
    by_data: dict[tuple[object, ...], list[Run]] = {}
    for run in found:
        by_data.setdefault(_data_key(run), []).append(run)
    boards = [
        _board(one, by_oof, chosen, pairs=len(found) <= MOST_COMPARED) for one in by_data.values()
    ]
    # Different data sets may have one name; they are numbered, so that titles differ.
    names = [board["data"] for board in boards]
    for index, name in enumerate(names):
        if names.count(name) > 1:
            boards[index]["data"] = f"{name} ({names[: index + 1].count(name)})"
    return {
        "schema": SCHEMA,
        "metric": chosen.name,
        "title": chosen.title,
        "greater_is_better": chosen.greater_is_better,
        "boards": boards,
        "skipped": [dict(one) for one in skipped],
    }
