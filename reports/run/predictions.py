"""Predictions of a run as tables: one row per image, and one row per group."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from foldblend.attributes import Attribute
from foldblend.blocks import block_starts
from foldblend.runs.calibrated import Calibration, plain_oof, plain_test
from foldblend.runs.ids import codes_of
from foldblend.runs.oof import coded_rows
from foldblend.runs.run import Run
from foldblend.scores.by_group import MEAN, attribute_proba, by_group, mixed_group
from foldblend.scores.group_scores import has_several_images
from foldblend.scores.metrics import softmax
from foldblend.scores.rows import Rows
from reports.run.summary import MOST_NAMED

__all__ = ["prediction_blocks", "predictions", "predictions_by_group"]

COLUMNS = ("part", "image_id", "group", "repeat", "fold", "true", "predicted", "confidence")
# The type of texts: "str", or objects before pandas 3, where "str" would write "None" for no text.
TEXT = pd.Series(["text"]).dtype
TEXTS = dict.fromkeys(("part", "image_id", "group", "true", "predicted"), TEXT)


def predictions(run: Run, calibration: Calibration) -> pd.DataFrame:
    """Return one row per prediction: out of fold, then test images, which have no true class.

    Probabilities are calibrated (see `calibration_of`). The confidence is the probability of the
    predicted class, which offsets per class may have made another than the most probable one.
    """
    return pd.concat(prediction_blocks(run, calibration), ignore_index=True)


def prediction_blocks(run: Run, calibration: Calibration) -> Iterator[pd.DataFrame]:
    """Yield the rows of `predictions` block by block."""
    names = np.array(run.classes, dtype=object)
    test = plain_test(run)
    plain = {"oof": plain_oof(run), "test": None if test is None else run.logits(test)}
    for part, table in (("oof", run.oof), ("test", run.test)):
        logits_NC = plain[part]
        if table is None or logits_NC is None:
            continue
        decided_NC = run.logits(table)
        own = [one for one in ("image_id", "group", "repeat", "fold") if one in table]
        for rows in block_starts(len(table)):
            proba_NC = calibration.proba(logits_NC[rows])
            predicted_N = decided_NC[rows].argmax(axis=1)
            block = table[own].iloc[rows].reset_index(drop=True).assign(part=part)
            block["true"] = names[table["label"].iloc[rows]] if part == "oof" else None
            block["predicted"] = names[predicted_N]
            block["confidence"] = proba_NC[np.arange(len(block)), predicted_N]
            # With more classes the file would be huge; the logits are in oof.parquet.
            if len(names) <= MOST_NAMED:
                columns = [f"proba_{index}" for index in range(len(names))]
                block = pd.concat([block, pd.DataFrame(proba_NC, columns=columns)], axis=1)
            others = [name for name in block if name not in COLUMNS]
            # A part without groups, repeats and folds has them too, empty.
            block = block.reindex(columns=[*COLUMNS, *others])
            yield block.astype({**TEXTS, "repeat": "Int64", "fold": "Int64"})


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
    """With groups as numbers."""
    names_G: np.ndarray
    """Names of the groups."""
    decided: Callable[[], np.ndarray]
    """Makes the probabilities of the logits that decide the class, with offsets if any."""
    proba: Callable[[], np.ndarray]
    """Makes the calibrated probabilities."""


def _sources(run: Run, calibration: Calibration) -> Iterator[_Source]:
    """Yield the out-of-fold images, then those of the test set if their groups are known."""
    yield _Source(
        "oof",
        run.classes,
        coded_rows(run.oof, run.group_name),
        codes_of(run.oof["group"])[1],
        lambda: softmax(run.logits(run.oof)),
        lambda: calibration.proba(plain_oof(run)),
    )
    rows = _test_rows(run)
    test = run.test
    plain = plain_test(run)
    if rows is not None and test is not None and plain is not None:
        yield _Source(
            "test",
            run.classes,
            rows.coded(),
            np.unique(rows.group_N),
            lambda: softmax(run.logits(test)),
            lambda: calibration.proba(run.logits(plain)),
        )


def _part(source: _Source, pool: str, asked: Sequence[Attribute | None]) -> pd.DataFrame:
    """Return the rows of a part's groups; None in `asked` is the class."""
    rows = source.rows
    pooled: list[list[tuple[Rows, np.ndarray]]] = []
    for make in (source.decided, source.proba):
        proba_NC = make()
        seen = (proba_NC if one is None else attribute_proba(one, proba_NC) for one in asked)
        pooled.append([by_group(rows, one_NC, pool) for one_NC in seen])
        del proba_NC
    groups, _ = pooled[0][0]
    columns: dict[str, Any] = {"part": source.part, "group": source.names_G[groups.group_N]}
    if source.part == "oof":
        columns |= {"repeat": groups.repeat_N, "fold": groups.fold_N}
    keys = pd.DataFrame({"repeat": rows.repeat_N, "group": rows.group_N})
    columns["num_images"] = keys.groupby(["repeat", "group"]).size().to_numpy()
    for one, (_, decided_GC), (_, proba_GC) in zip(asked, *pooled, strict=True):
        names_C = np.array(source.classes if one is None else one.values, dtype=object)
        of_class = np.arange(len(names_C)) if one is None else np.asarray(one.of_class)
        end = "" if one is None else f"_{one.name}"
        predicted_G = decided_GC.argmax(axis=1)
        if source.part == "oof":
            columns[f"true{end}"] = names_C[of_class[groups.label_N]]
        columns[f"predicted{end}"] = names_C[predicted_G]
        columns[f"confidence{end}"] = proba_GC[np.arange(len(predicted_G)), predicted_G]
        if one is None and len(names_C) <= MOST_NAMED:
            columns |= {f"proba_{index}": column for index, column in enumerate(proba_GC.T)}
    return pd.DataFrame(columns)


def predictions_by_group(run: Run, calibration: Calibration) -> pd.DataFrame | None:
    """Return one row per group: out of fold (in each repeat), then groups of the test set.

    The predictions for a group's images are pooled as the run says (see `by_group`). Columns such
    as `predicted` are of the class, and those such as `predicted_age` of an attribute. They are
    absent where images of a group differ in it.

    Returns None if every group has one image, or if nothing can be said of a group.
    """
    rows = coded_rows(run.oof, run.group_name)
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
