"""Coverage of sets of classes on out-of-fold rows, each fold's compared with the other folds'."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from foldblend.scores.conformal import Conformal
from foldblend.scores.held_out import outer_parts
from foldblend.scores.intervals import Interval, Limits, jackknife_interval
from foldblend.scores.rows import Rows

__all__ = ["LEVELS", "Coverage", "out_of_fold_coverage"]

LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)
"""Wanted coverages whose coverage out of fold an exported file tells."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """Coverage of sets of classes: how often they have the true one, and how many they have."""

    share: Interval
    """Share of images whose set contains the true class, with its 95 % interval over groups."""
    width: float
    """Mean number of classes in a set."""

    def as_dict(self) -> dict[str, Any]:
        """Return the content for JSON."""
        return {"share": self.share.as_dict(), "width": self.width}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Coverage:
        """Return what `as_dict` was made from; None is not a number.

        Examples
        --------
        >>> found = Coverage(Interval(0.91, 0.88, 0.94), width=2.5)
        >>> Coverage.from_dict(found.as_dict()) == found
        True
        """
        parts = (values["share"][name] for name in ("value", "low", "high"))
        share = Interval(*(float("nan") if part is None else float(part) for part in parts))
        return cls(share, float(values["width"]))


def out_of_fold_coverage(
    logits_NC: np.ndarray,
    rows: Rows,
    coverage: float,
    *,
    temperature: float = 1.0,
    by_class: bool = False,
) -> Coverage | None:
    """Return the coverage of sets of classes for the rows of each fold.

    The rows of a fold are compared with those of the other folds of its repeat. Every group weighs
    the same.

    Parameters
    ----------
    logits_NC
        Out-of-fold logits without offsets.
    rows
        Their labels, groups, repeats and folds.
    coverage
        Wanted coverage, between 0 and 1.
    temperature
        That of the calibration.
    by_class
        Compare classes with rows of the same class, if it has 1 / (1 - coverage) groups or more.

    Returns
    -------
    Coverage or None
        None for a single fold or group.
    """
    hit_N = np.zeros(len(rows))
    width_N = np.zeros(len(rows))
    try:
        parts = list(outer_parts(rows))
    except ValueError:
        return None
    for _, _, held, others in parts:
        against = Conformal.of(logits_NC[others], rows.take(others), temperature=temperature)
        # One array of logits is compared with all of the other folds' rows.
        inside_NC = against.sets([logits_NC[held]], coverage, by_class=by_class)
        hit_N[held] = inside_NC[np.arange(len(held)), rows.label_N[held]]
        width_N[held] = inside_NC.sum(axis=1)
    code_N = np.unique(rows.group_N, return_inverse=True)[1]
    size_G = np.bincount(code_N)
    hit_G = np.bincount(code_N, hit_N) / size_G
    num = len(hit_G)
    left_out_G = (hit_G.sum() - hit_G) / max(num - 1, 1)
    share = jackknife_interval(float(hit_G.mean()), left_out_G, Limits(0.0, 1.0, num))
    return Coverage(share, float((np.bincount(code_N, width_N) / size_G).mean()))
