"""Report section on columns of the images: what methods gain by them, beside those without."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ensemble.auto import Blended, Trial, blend_arrays
from ensemble.columns import BlendColumns
from ensemble.methods.base import Evidence
from ensemble.methods.registry import METHODS, WITHOUT
from foldblend.image_columns import ImageColumns, is_empty
from reports.blocks import section, strips_block, table_block, text_block
from reports.text import num, signed

__all__ = ["columns_section"]


def _without(evidence: Evidence, trial: Trial, tried: Mapping[str, Trial], prefer: str) -> Trial:
    """Return the method without columns; one that was not tried is made on the same folds."""
    name = WITHOUT[trial.name]
    if name in tried:
        return tried[name]
    return blend_arrays(evidence, {name: METHODS[name]}, prefer=prefer).chosen


def _used(trial: Trial) -> str:
    """Return in how many folds the columns were used, and whether for the test set."""
    num_used = sum(bool(part.needs) for part in trial.parts)
    final = "yes" if trial.final.needs else "no"
    return f"{num_used} of {len(trial.parts)} folds, test set: {final}"


def _cells(columns: ImageColumns) -> dict[str, tuple[str, str]]:
    """Return the kind of each column with its range, and the share of empty cells."""
    found = {}
    for name, kind in columns.kinds.items():
        values_N = columns.values[name]
        empty_N = is_empty(values_N)
        known_N = values_N[~empty_N]
        what = f"{len(np.unique(known_N.astype(str)))} values"
        if kind == "number":
            what = f"{known_N.min():.4g} to {known_N.max():.4g}"
        found[name] = (f"{kind}, {what}", f"{empty_N.mean():.1%}")
    return found


def columns_section(
    evidence: Evidence, blended: Blended, columns: BlendColumns, prefer: str
) -> dict[str, Any]:
    """Return the section that compares methods with columns and without.

    `prefer` is how offsets are chosen, a key of PREFERS.
    """
    tried = {trial.name: trial for trial in blended.trials}
    sign = evidence.score.sign
    rows = []
    differences = {}
    for name in [name for name in tried if name in WITHOUT]:
        trial = tried[name]
        base = _without(evidence, trial, tried, prefer)
        gain = trial.nested.minus(base.nested).interval().as_dict()
        scores = [num(sign * one.nested.value) for one in (trial, base)]
        rows.append([name, *scores, signed(gain), _used(trial)])
        differences[f"{name} - {base.name}"] = gain
    of_test = {} if columns.test is None else _cells(columns.test)
    cells = [
        [name, what, empty, of_test[name][1] if name in of_test else ""]
        for name, (what, empty) in _cells(columns.rows).items()
    ]
    compared = [
        strips_block(differences, xlabel=f"difference in {evidence.score.title}", line=0),
        table_block(["", "with columns", "without", "difference", "columns used in"], rows),
    ]
    return section(
        "Columns of the images beside the predictions (--meta-cols)",
        *compared,
        table_block(["column", "what it has", "empty", "empty in the test set"], cells),
        *(text_block(f"{note[0].upper()}{note[1:]}.") for note in columns.notes),
        text_block(
            "Both are cross-fitted on the same folds, and scored on the same"
            f" {evidence.rows.groups}. A fold uses the columns only if they lower the log loss on"
            f" held-out {evidence.rows.groups} of the other folds by more than one standard error;"
            " otherwise the method is the one without columns. An empty cell, and a word that"
            " the rows of a fit do not have, count as an average image."
        ),
        screen=compared[1:],
    )
