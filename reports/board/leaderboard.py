"""Finished runs side by side, read from their folders alone, as plain data. No torch here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse.csgraph

from foldblend.errors import UserError, listed, require
from foldblend.runs.check import check_rows, finished_run, why_unfinished
from foldblend.runs.costs import num_models, num_passes
from foldblend.runs.rows import oof_arrays
from foldblend.runs.run import Run
from foldblend.scores.metrics import METRICS, check_metric, softmax
from foldblend.scores.rows import Rows
from foldblend.scores.score import Scored, score_prediction
from reports.text import printable

__all__ = ["SCHEMA", "find_runs", "leaderboard"]

SCHEMA = 1
MOST_COMPARED = 50  # runs: each with each is 1,225 differences and some MB of predictions


def _check(path: Path) -> Run:
    """Return a finished run whose rows can be scored. Raises UserError for another."""
    why = why_unfinished(path)
    if why is not None:
        raise UserError(why)
    run = Run(path)
    check_rows(run, run.oof)
    run.ids_hash  # noqa: B018 - raises where ids are absent
    oof_arrays(run)  # raises where logits are absent or not finite
    return run


def find_runs(paths: Sequence[str | Path]) -> tuple[list[Run], list[dict[str, str]]]:
    """Return the finished runs among the paths, and what was skipped with the reason.

    Raises UserError for a path that does not exist, and where no run is left.
    """
    runs: dict[Path, Run] = {}
    skipped = []
    for path in map(Path, paths):
        # A pattern that matched nothing reaches us as it is.
        if not path.exists() and "*" not in str(path):
            raise UserError(f"{path}: no such run; check the path")
        try:
            if path.resolve() in runs:
                raise UserError("named twice")
            run = _check(path)
        except UserError as error:
            skipped.append(
                {"path": printable(path), "why": printable(str(error).removeprefix(f"{path}/"))}
            )
        else:
            runs[path.resolve()] = run
    if not runs:
        reasons = (
            f" ({listed('{path}: {why}'.format(**one) for one in skipped)})" if skipped else ""
        )
        raise UserError(f"no finished run{reasons}; name run folders, such as outputs/*")
    return list(runs.values()), skipped


def _names(runs: Sequence[Run]) -> list[str]:
    """Return the runs' names, or paths where two have one name."""
    names = [run.name for run in runs]
    return [printable(run.name if names.count(run.name) == 1 else run.path) for run in runs]


def _beside(run: Run, member: Mapping[str, Any]) -> Run | None:
    """Return the member of a blend that lies beside it, or None where another or nothing lies
    there.
    """
    found = Run(run.path.resolve().parent / member["name"])
    try:
        return (
            found
            if why_unfinished(found.path) is None and found.oof_hash == member["oof"]
            else None
        )
    except (OSError, UserError):
        return None


def _single_runs(run: Run, by_oof: Mapping[str, Run]) -> dict[str, Run] | None:
    """Return the cross-validated runs behind a run's logits, each once, by the hash of their rows.

    A blend's are looked for among `by_oof` and beside it. None where one is not to be found.
    """
    if "members" not in run.info:
        return {run.oof_hash: run}
    found: dict[str, Run] = {}
    for member in run.info["members"]:
        one = by_oof.get(member["oof"]) or _beside(run, member)
        singles = None if one is None else _single_runs(one, by_oof)
        if singles is None:
            return None
        if member.get("weight") != 0:
            found |= singles
    return found


def _settings(run: Run) -> dict[str, Any]:
    """Return the settings that a run (or blend) wrote down, as JSON knows them; nothing where it
    has none.
    """
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
        value = ", ".join(
            f"{one['name']} x {one.get('weight', 1):g}" for one in value
        )  # a blend's members
    return printable(value)


def _facts(run: Run, by_oof: Mapping[str, Run]) -> dict[str, Any]:
    """Return what a row says beside scores: kind, honesty, size, time and cost; None for what is
    not known.
    """
    info = run.info
    singles = _single_runs(run, by_oof)
    seconds: list[Any] = (
        [None] if singles is None else [one.info.get("seconds") for one in singles.values()]
    )
    finished = info.get("finished")
    started = info.get("started")
    chooses = info["optimistic"] if "optimistic" in info else _settings(run).get("select") == "best"
    return {
        "path": printable(run.path),
        "kind": info["kind"],
        "optimistic": bool(chooses),
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
    """Return every image once, by name; labels and groups are the same in every repeat."""
    return table[: table["image_id"].nunique()]


def _shared_groups(groups: Sequence[np.ndarray]) -> tuple[np.ndarray, bool]:
    """Return each image's group, and whether the runs' groups differ: then those that share an
    image are one.

    Where they are equal their names are kept, and with them the resamples that each run's own
    report drew.
    """
    if all((one == groups[0]).all() for one in groups):
        return groups[0], False
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


def rank(scored: Sequence[Scored], honest: Sequence[bool]) -> list[int]:
    """Return the numbers of the runs, best first; a score that is not honest comes after all that
    are.

    The first is the one that others are compared to.
    """

    def key(index: int) -> tuple[bool, bool, float]:
        value = scored[index].score.value
        return not honest[index], bool(np.isnan(value)), -value

    return sorted(range(len(scored)), key=key)


def difference(one: Scored, other: Scored) -> dict[str, float | None]:
    """Return one score minus the other, with its paired interval."""
    return one.score.minus(other.score).interval().as_dict()


def all_differences(scored: Sequence[Scored]) -> list[list[dict[str, float | None]]]:
    """Return, for each run, itself minus each of those after it."""
    return [
        [difference(one, other) for other in scored[index + 1 :]]
        for index, one in enumerate(scored)
    ]


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names that not all of the mappings hold with one value, in the order they come
    in.
    """
    absent = object()
    names = dict.fromkeys(name for one in settings for name in one)
    return [
        name
        for name in names
        if any(one.get(name, absent) != settings[0].get(name, absent) for one in settings)
    ]


def _rows(
    runs: Sequence[Run], scored: Sequence[Scored], by_oof: Mapping[str, Run]
) -> tuple[list[int], list[dict[str, Any]]]:
    """Return the numbers of the runs, best first, and their rows in that order."""
    facts = [_facts(run, by_oof) for run in runs]
    names = _names(runs)
    settings = [_settings(run) for run in runs]
    order = rank(scored, [not (one["optimistic"] or one["leaks"]) for one in facts])
    kinds = [one["kind"] for one in facts]
    changed = {  # a blend has other settings than a run
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
            "difference": None if one == best else difference(scored[one], scored[best]),
            "settings": {
                key: settings[one][key] for key in changed[kinds[one]] if key in settings[one]
            },
        }
        for one in order
    ]


def _board(
    runs: Sequence[Run], by_oof: Mapping[str, Run], metric: str, *, pairs: bool
) -> dict[str, Any]:
    """Return the board of one data set: its runs, best first, scored on the same labels and
    groups.
    """
    tables = [run.oof.sort_values(["repeat", "image_id"], ignore_index=True) for run in runs]
    pictures = [_once(table) for table in tables]
    data = runs[0].info["data"]
    first = pictures[0]
    notes = []
    corrected = any((one["label"] != first["label"]).any() for one in pictures)
    label_P = first["label_raw" if corrected else "label"].to_numpy()
    if corrected:
        notes.append(
            "not all runs have the same corrected labels: all are scored on the labels as the files"
            " have them"
        )
    group_P, joined = _shared_groups([one["group"].to_numpy() for one in pictures])
    if joined:
        notes.append(
            "the runs' groups differ: intervals are over groups joined wherever a run joins them"
        )
    if any(len(table) > len(first) for table in tables):
        notes.append(
            "where a run has repeats its score is their mean, and an image's class that of its"
            " mean logits"
        )
    if data.get("is_demo"):
        notes.append(
            "the embedded demo set of drawn faces: these scores prove plumbing, not quality"
        )
    scored = []
    predicted = []
    for run, table in zip(runs, tables, strict=True):
        repeats = len(table) // len(first)
        logits_NC = run.logits(table)
        label_N = np.tile(label_P, repeats)
        group_N = np.tile(group_P, repeats)
        oof = Rows(label_N, group_N, table["repeat"].to_numpy(), table["fold"].to_numpy())
        proba_NC = softmax(logits_NC)
        scored.append(
            score_prediction(run.name, oof, proba_NC, attributes=run.attributes, metric=metric)
        )
        predicted.append(
            logits_NC.reshape(repeats, len(first), -1).mean(axis=0, dtype=np.float64).argmax(axis=1)
        )
    order, rows = _rows(runs, scored, by_oof)
    return {
        "data": printable(data["name"]),
        "ids_hash": runs[0].ids_hash,
        "num_images": len(first),
        "num_groups": len(np.unique(group_P)),
        "num_resamples": len(scored[0].score.resamples_B),
        "labels": "label_raw" if corrected else "label",
        "notes": notes,
        "best": rows[0]["name"],
        "rows": rows,
        "differences": all_differences([scored[one] for one in order]) if pairs else None,
        "pictures": {
            "classes": list(runs[0].classes),
            "image_ids": [printable(one) for one in first["image_id"]],
            "true": label_P.tolist(),
            "predicted": [predicted[one].tolist() for one in order],
        },
    }


def _data_key(run: Run) -> tuple[object, ...]:
    """Return what runs of one board share: images, classes, and labels as the files have them."""
    once = _once(run.oof.sort_values(["repeat", "image_id"]))[["image_id", "label_raw"]]
    return (
        run.ids_hash,
        run.classes,
        pd.util.hash_pandas_object(once, index=False).to_numpy().tobytes(),
    )


def leaderboard(
    runs: Iterable[str | Path | Run],
    skipped: Sequence[Mapping[str, str]] = (),
    *,
    metric: str | None = None,
) -> dict[str, Any]:
    """Compare runs: return a board for each data set, its runs best first, as plain data.

    Parameters
    ----------
    runs
        Finished runs, or their folders.
    skipped
        What `find_runs` skipped, to be told beside them.
    metric
        The score that counts; by default the runs' own.

    Returns
    -------
    dict
        As docs/leaderboard.schema.json describes. For up to 50 runs it has the differences of each
        pair: ``differences[i][j]`` is row i minus row i + 1 + j.

    Examples
    --------
    >>> [board] = fb.leaderboard([fb.load(outputs / name) for name in ("alpha", "beta")])["boards"]
    >>> len(board["rows"])
    2
    """
    if metric is not None:
        check_metric(metric)
    several = [runs] if isinstance(runs, (str, Path, Run)) else runs
    found = [one if isinstance(one, Run) else finished_run(one) for one in several]
    require(bool(found), "no runs to compare; name folders of finished ones")
    own = {run.info["metric"] for run in found}
    metric = metric or (own.pop() if len(own) == 1 else "f1_macro")
    by_oof = {run.oof_hash: run for run in found}
    by_data: dict[tuple[object, ...], list[Run]] = {}
    for run in found:
        by_data.setdefault(_data_key(run), []).append(run)
    boards = [
        _board(one, by_oof, metric, pairs=len(found) <= MOST_COMPARED) for one in by_data.values()
    ]
    names = [board["data"] for board in boards]
    for index, name in enumerate(names):
        if names.count(name) > 1:
            boards[index]["data"] = f"{name} ({names[: index + 1].count(name)})"
    return {
        "schema": SCHEMA,
        "metric": metric,
        "title": METRICS[metric].title,
        "greater_is_better": METRICS[metric].greater_is_better,
        "boards": boards,
        "skipped": [dict(one) for one in skipped],
    }
