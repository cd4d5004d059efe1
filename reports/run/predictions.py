"""Predictions of a run as tables: one row per image, and one row per group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from foldblend.attributes import Attribute
from foldblend.runs.calibrated import Calibration, plain_oof, plain_test
from foldblend.runs.oof import oof_rows
from foldblend.runs.run import Run
from foldblend.scores.by_group import MEAN, attribute_proba, by_group, mixed_group
from foldblend.scores.group_scores import has_several_images
from foldblend.scores.metrics import softmax
from foldblend.scores.rows import Rows
from reports.run.summary import MOST_NAMED

__all__ = ["predictions", "predictions_by_group"]


def predictions(run: Run, calibration: Calibration) -> pd.DataFrame:
    """Return one row per prediction: out of fold, then test images, which have no true class.

    Probabilities are calibrated (see `calibration_of`). The confidence is the probability of the
    predicted class, which offsets per class may have made another than the most probable one.
    """
    names = np.array(run.classes, dtype=object)
    test = plain_test(run)
    plain = {"oof": plain_oof(run), "test": None if test is None else run.logits(test)}
    parts = []
    for part, table in (("oof", run.oof), ("test", run.test)):
        logits_NC = plain[part]
        if table is None or logits_NC is None:
            continue
        proba_NC = calibration.proba(logits_NC)
        predicted_N = run.logits(table).argmax(axis=1)
        columns = table[
            [name for name in ("image_id", "group", "repeat", "fold") if name in table]
        ].assign(part=part)
        if part == "oof":
            columns["true"] = names[table["label"]]
        columns["predicted"] = names[predicted_N]
        columns["confidence"] = proba_NC[np.arange(len(table)), predicted_N]
        # With more classes the file would be huge; the logits are in oof.parquet.
        if len(names) <= MOST_NAMED:
            proba = pd.DataFrame(
                proba_NC, columns=[f"proba_{index}" for index in range(len(names))]
            )
            columns = pd.concat([columns.reset_index(drop=True), proba], axis=1)
        parts.append(columns)
    table = pd.concat(parts, ignore_index=True)
    order = ["part", "image_id", "group", "repeat", "fold", "true", "predicted", "confidence"]
    table = table.astype({"repeat": "Int64", "fold": "Int64"})
    return table[[*order, *(name for name in table if name not in order)]]


def _test_rows(run: Run) -> Rows | None:
    """Return the rows of the test set, or None if its groups are not known; labels are all 0."""
    groups = run.test_groups
    if groups is None or run.test is None:
        return None
    joined = run.test[["image_id"]].merge(groups, on="image_id", how="left")
    group = joined["group"].fillna(joined["image_id"])
    unknown_N = np.zeros(len(group), np.int64)
    return Rows.of(unknown_N, group.to_numpy(), group_name=run.group_name)


@dataclass(frozen=True, slots=True)
class _Source:
    """The images of a part of predictions_by_group.csv."""

    part: str
    classes: Sequence[str]
    rows: Rows
    decided_NC: np.ndarray
    """Probabilities of the logits that decide the class, with offsets if there are any."""
    proba_NC: np.ndarray
    """Calibrated probabilities."""


def _sources(run: Run, calibration: Calibration) -> Iterator[_Source]:
    """Yield the out-of-fold images, then those of the test set if their groups are known."""
    yield _Source(
        "oof",
        run.classes,
        oof_rows(run),
        softmax(run.logits(run.oof)),
        calibration.proba(plain_oof(run)),
    )
    rows = _test_rows(run)
    plain = plain_test(run)
    if rows is not None and run.test is not None and plain is not None:
        decided_NC = softmax(run.logits(run.test))
        proba_NC = calibration.proba(run.logits(plain))
        yield _Source("test", run.classes, rows, decided_NC, proba_NC)


def _part(source: _Source, pool: str, asked: Sequence[Attribute | None]) -> pd.DataFrame:
    """Return the rows of a part's groups; None in `asked` is the class."""
    # Numbers are sorted much faster than names.
    names_G = np.unique(source.rows.group_N)
    rows = source.rows.coded()
    groups, _ = by_group(rows, source.proba_NC, pool)
    columns: dict[str, Any] = {"part": source.part, "group": names_G[groups.group_N]}
    if source.part == "oof":
        columns |= {"repeat": groups.repeat_N, "fold": groups.fold_N}
    keys = pd.DataFrame({"repeat": rows.repeat_N, "group": rows.group_N})
    columns["num_images"] = keys.groupby(["repeat", "group"]).size().to_numpy()
    for one in asked:
        names_C = np.array(source.classes if one is None else one.values, dtype=object)
        of_class = np.arange(len(names_C)) if one is None else np.asarray(one.of_class)
        both = [
            by_group(rows, proba if one is None else attribute_proba(one, proba), pool)[1]
            for proba in (source.decided_NC, source.proba_NC)
        ]
        end = "" if one is None else f"_{one.name}"
        predicted_G = both[0].argmax(axis=1)
        if source.part == "oof":
            columns[f"true{end}"] = names_C[of_class[groups.label_N]]
        columns[f"predicted{end}"] = names_C[predicted_G]
        columns[f"confidence{end}"] = both[1][np.arange(len(predicted_G)), predicted_G]
        if one is None and len(names_C) <= MOST_NAMED:
            columns |= {f"proba_{index}": column for index, column in enumerate(both[1].T)}
    return pd.DataFrame(columns)


def predictions_by_group(run: Run, calibration: Calibration) -> pd.DataFrame | None:
    """Return one row per group: out of fold (in each repeat), then groups of the test set.

    The predictions for a group's images are pooled as the run says (see `by_group`). Columns such
    as `predicted` are of the class, and those such as `predicted_age` of an attribute. They are
    absent where images of a group differ in it.

    Returns None if every group has one image, or if nothing can be said of a group.
    """
    rows = oof_rows(run).coded()
    if not has_several_images(rows):
        return None
    asked: list[Attribute | None] = [None] if mixed_group(rows) is None else []
    asked += [
        one
        for one in run.attributes
        if mixed_group(rows.labelled(np.asarray(one.of_class)[rows.label_N])) is None
    ]
    if not asked:
        return None
    pool = run.info.get("group_pool", MEAN)
    table = pd.concat(
        [_part(one, pool, asked) for one in _sources(run, calibration)], ignore_index=True
    )
    first = [name for name in ("part", "group", "repeat", "fold", "num_images") if name in table]
    table = table.astype({"repeat": "Int64", "fold": "Int64"})
    return table[[*first, *(name for name in table if name not in first)]]
