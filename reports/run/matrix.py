"""Confusion matrices for a page: right predictions in one colour, errors in another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["class_matrix", "matrices", "shades"]

# An error that occurs at all has this much of the colour, so that it can be seen.
LEAST_SHADE = 0.18

Report = Mapping[str, Any]


def shades(counts_CC: np.ndarray) -> np.ndarray:
    """Return the depth of colour of each cell, C x C, from 0 to 1.

    Right predictions are shaded by their share of the true class. Errors are shaded by their share
    too, but relative to the largest share of any error: they would be nearly white otherwise.

    Examples
    --------
    >>> shades(np.array([[90, 10], [0, 50]])).tolist()
    [[0.9, 1.0], [0.0, 1.0]]
    """
    share_CC = counts_CC / np.maximum(counts_CC.sum(axis=1, keepdims=True), 1)
    wrong_CC = share_CC * ~np.eye(len(counts_CC), dtype=bool)
    depth_CC = wrong_CC / max(float(wrong_CC.max(initial=0.0)), 1e-12)
    depth_CC = np.where(wrong_CC > 0, LEAST_SHADE + (1 - LEAST_SHADE) * depth_CC, 0.0)
    depth_CC[np.diag_indices_from(depth_CC)] = share_CC.diagonal()
    return np.asarray(depth_CC)


def _matrix(confusion: Mapping[str, Any], names: Sequence[str], what: str) -> dict[str, Any] | None:
    """Return a confusion matrix for the template, without values that never occur."""
    if confusion["counts"] is None:
        return None
    counts_CC = np.array(confusion["counts"])
    sizes_C = counts_CC.sum(axis=1)
    # Values that occur in neither labels nor predictions would be empty rows and columns.
    shown = np.flatnonzero(counts_CC.sum(axis=0) + sizes_C)
    shade_CC = shades(counts_CC)
    rows = []
    for true in shown.tolist():
        cells = [
            {
                "predicted": predicted,
                "count": int(counts_CC[true, predicted]),
                "share": counts_CC[true, predicted] / max(sizes_C[true], 1),
                "shade": shade_CC[true, predicted],
                "title": f"true {names[true]}, predicted {names[predicted]}",
            }
            for predicted in shown.tolist()
        ]
        rows.append({"true": true, "name": names[true], "size": int(sizes_C[true]), "cells": cells})
    return {
        "what": what,
        "rows": rows,
        "columns": [names[column] for column in shown.tolist()],
        "total": int(sizes_C.sum()),
    }


def class_matrix(report: Report) -> dict[str, Any] | None:
    """Return the confusion matrix of the classes, or None if there are too many."""
    return _matrix(report["confusion"], report["class_names"], "class")


def matrices(report: Report) -> list[dict[str, Any]]:
    """Return the confusion matrices of attributes and, last, of classes.

    "which" is the number of the attribute, or -1 for classes; the script needs it.
    """
    found = [
        *(
            _matrix(one["confusion"], one["value_names"], one["name"])
            for one in report["attributes"]
        ),
        class_matrix(report),
    ]
    which = [*range(len(report["attributes"])), -1]
    return [
        one | {"which": index} for one, index in zip(found, which, strict=True) if one is not None
    ]
