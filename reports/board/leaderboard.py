"""Finished runs compared, as plain data read from their folders."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from foldblend.ahead import ahead
from foldblend.errors import require
from foldblend.runs.check import finished_run
from foldblend.runs.rows import group_name_of
from foldblend.runs.run import Run
from foldblend.scores.bootstrap import num_resamples_of
from foldblend.scores.by_group import GROUP, IMAGE, check_one_label
from foldblend.scores.group_scores import BothScores, both_scores
from foldblend.scores.metrics import MEAN_COST, TITLES, Metric, softmax
from foldblend.scores.rows import Rows
from foldblend.scores.score import Scored, score_prediction
from foldblend.words import plural
from reports.board.differences import all_differences, difference, rank
from reports.board.facts import differing, equal_settings, facts_of, names_of, settings_of
from reports.board.metric import metric_to_rank_by
from reports.run.scored_test import value_on_test
from reports.text import printable

__all__ = ["SCHEMA", "leaderboard"]

SCHEMA = 1
# All pairs of 50 runs have 1,225 differences; more runs have only the difference to the best.
MOST_COMPARED = 50
Cache = MutableMapping[Any, Any]
"""What was computed of runs, by the hashes of their rows."""


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


def _rows(
    runs: Sequence[Run],
    scored: Sequence[Scored],
    both: Sequence[Sequence[BothScores]],
    by_oof: Mapping[str, Run],
    metric: Metric,
) -> tuple[list[int], list[dict[str, Any]]]:
    """Return the indices of the runs, best first, and their rows in that order."""
    facts = [facts_of(run, by_oof) for run in runs]
    names = names_of(runs)
    settings = [settings_of(run) for run in runs]
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
            "by_group": [each.as_dict() for each in both[one] if each.by_group is not None],
            "test": value_on_test(runs[one], metric),
            "difference": None if one == best else difference(scored[one], scored[best]),
            "settings": {
                key: settings[one][key] for key in changed[kinds[one]] if key in settings[one]
            },
        }
        for one in order
    ]


def _equal_settings(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Return for each kind the settings that its runs share; those of rows are the others."""
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        by_kind.setdefault(run.info["kind"], []).append(settings_of(run))
    return {kind: equal_settings(settings) for kind, settings in by_kind.items()}


def _board(
    runs: Sequence[Run],
    by_oof: Mapping[str, Run],
    metric: Metric,
    *,
    pairs: bool,
    cache: Cache | None,
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

    if metric.pool:
        group_N = shared_N if joined else first["group"].to_numpy()
        check_one_label(Rows.of(true_N, group_N, group_name=group_name))

    asked = (metric.name, metric.pool, group_name, _hash_of(true_N, shared_N))

    def of_run(member: tuple[Run, pd.DataFrame]) -> tuple[Scored, list[BothScores], np.ndarray]:
        """Return a run's scores, those by group, and the class of each image."""
        # Costs of errors are not in the name of their metric.
        if cache is None or metric.name == MEAN_COST:
            return scores_of(*member)
        run = member[0]
        key = (run.oof_hash, run.name, repr(run.attributes), *asked)
        if key not in cache:
            cache[key] = scores_of(*member)
        found: tuple[Scored, list[BothScores], np.ndarray] = cache[key]
        return found

    def scores_of(run: Run, table: pd.DataFrame) -> tuple[Scored, list[BothScores], np.ndarray]:
        repeats = len(table) // len(first)
        logits_NC = run.logits(table)
        label_N = np.tile(true_N, repeats)
        group_N = np.tile(shared_N, repeats)
        repeat_N = table["repeat"].to_numpy()
        oof = Rows(label_N, group_N, repeat_N, table["fold"].to_numpy(), group_name)
        proba_NC = softmax(logits_NC)
        scores = score_prediction(run.name, oof, proba_NC, attributes=run.attributes, metric=metric)
        both = both_scores(oof, proba_NC, attributes=run.attributes, metric=metric)
        mean_NC = logits_NC.reshape(repeats, len(first), -1).mean(axis=0, dtype=np.float64)
        return scores, both, mean_NC.argmax(axis=1)

    found = [*ahead(of_run, zip(runs, tables, strict=True))]
    scored = [one for one, _, _ in found]
    both = [one for _, one, _ in found]
    predicted = [one for _, _, one in found]
    order, rows = _rows(runs, scored, both, by_oof, metric)
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
        "equal_settings": _equal_settings([runs[one] for one in order]),
        "differences": all_differences([scored[one] for one in order]) if pairs else None,
        "pictures": {
            "classes": list(runs[0].classes),
            "image_ids": [printable(one) for one in first["image_id"]],
            "true": true_N.tolist(),
            "predicted": [predicted[one].tolist() for one in order],
        },
    }


def _hash_of(*columns: np.ndarray) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for one in columns:
        digest.update(np.ascontiguousarray(one).data)
    return digest.hexdigest()


def _data_key(run: Run) -> tuple[object, ...]:
    """Return a key that the runs of one board share: images, classes and original labels."""
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
    score_by: str | None = None,
    group_pool: str | None = None,
    running: Sequence[Mapping[str, Any]] | None = None,
    cache: Cache | None = None,
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
    score_by
        "image" or "group": what the score counts; default: "group" if all runs are scored so.
    group_pool
        How a group's images become one prediction, a key of `foldblend.scores.by_group.POOLS`;
        default: that of the runs, or the mean.
    running
        Unfinished runs (see `reports.board.running`), which are listed too. If it is not None,
        there need not be a finished run.
    cache
        Keeps the scores of runs between calls.

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
    require(bool(found) or running is not None, "no runs to compare; pass folders of finished runs")
    # Costs of errors are those of a finished blend; without one, nothing is ranked by them.
    without_costs = not found and metric == MEAN_COST
    if not found and score_by != GROUP:
        # Unfinished runs have their own pools.
        score_by = IMAGE
        group_pool = None
    chosen = metric_to_rank_by(found, None if without_costs else metric, score_by, group_pool)
    by_oof = {run.oof_hash: run for run in found}
    by_data: dict[tuple[object, ...], list[Run]] = {}
    for run in found:
        by_data.setdefault(_data_key(run), []).append(run)
    boards = [
        _board(one, by_oof, chosen, pairs=len(found) <= MOST_COMPARED, cache=cache)
        for one in by_data.values()
    ]
    # Different data sets may have one name; they are numbered, so that titles differ.
    names = [board["data"] for board in boards]
    for index, name in enumerate(names):
        if names.count(name) > 1:
            boards[index]["data"] = f"{name} ({names[: index + 1].count(name)})"
    return {
        "schema": SCHEMA,
        "metric": MEAN_COST if without_costs else chosen.name,
        "score_by": GROUP if chosen.pool else IMAGE,
        "title": TITLES[MEAN_COST] if without_costs else chosen.title,
        "greater_is_better": chosen.greater_is_better and not without_costs,
        "boards": boards,
        "skipped": [dict(one) for one in skipped],
        "running": [dict(one) for one in running or ()],
    }
