"""Policies of test-time augmentation, and the saved logits that they are chosen on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from foldblend.scores.rows import Rows
from tta.merge import MERGES, check_weights

__all__ = ["IDENTITY", "Policy", "SavedViews"]


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy: which views are merged, and how.

    Raises ValueError for a view given twice, an unknown merge, or weights that do not fit.
    """

    views: tuple[str, ...]
    merge: str = "mean"
    """Name in `tta.merge.MERGES`."""
    weights: tuple[float, ...] | tuple[tuple[float, ...], ...] | None = None
    """One per view, or one per view and class; None weighs all views equally."""

    def __post_init__(self) -> None:
        if not self.views or len(set(self.views)) < len(self.views):
            raise ValueError(
                f"views {', '.join(self.views) or '(none)'}: give one or more, each once"
            )
        if self.merge not in MERGES:
            raise ValueError(f"merge {self.merge}: unknown; pass {', '.join(MERGES)}")
        if self.weights is not None:
            check_weights(np.array(self.weights), len(self.views), np.array(self.weights).shape[-1])

    @property
    def passes(self) -> int:
        """The number of forward passes per image."""
        return len(self.views)

    def __str__(self) -> str:
        if self.passes == 1:
            return self.views[0]
        kinds = {0: "", 1: ", weights per view", 2: ", weights per class and view"}
        return (
            f"{' + '.join(self.views)}"
            f" ({self.merge}{kinds[np.ndim(self.weights) if self.weights else 0]})"
        )

    def apply(self, logits_VNC: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """Return merged logits N x C float32.

        Parameters
        ----------
        logits_VNC
            Logits of the saved views.
        names
            Names of the V saved views, in the same order.

        Raises
        ------
        ValueError
            For a view of the policy that is not among the saved ones.
        """
        missing = [view for view in self.views if view not in names]
        if missing:
            raise ValueError(
                f"there are no logits of {', '.join(missing)}; the saved views are"
                f" {', '.join(names)}"
            )
        weights = None if self.weights is None else np.array(self.weights)
        return MERGES[self.merge](logits_VNC[[names.index(view) for view in self.views]], weights)

    def as_dict(self) -> dict[str, Any]:
        """Return the policy as data for JSON."""
        weights = None if self.weights is None else np.array(self.weights).tolist()
        return {"views": list(self.views), "merge": self.merge, "weights": weights}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Policy:
        """Return the policy that `as_dict` described. Raises ValueError for other data."""
        if set(saved) != {"views", "merge", "weights"}:
            raise ValueError(
                f"a policy has views, merge and weights, not {', '.join(map(str, saved))}"
            )
        weights = saved["weights"]
        if weights is not None:
            weights = tuple(
                tuple(map(float, one)) if np.ndim(one) else float(one) for one in weights
            )
        return cls(tuple(saved["views"]), saved["merge"], weights)


IDENTITY = Policy(("identity",))


@dataclass(frozen=True, slots=True)
class SavedViews:
    """Out-of-fold logits of all saved views of a run.

    Raises ValueError for lengths that differ, a name given twice, a missing view "identity", or
    logits that are not finite.
    """

    names: tuple[str, ...]
    logits_VNC: np.ndarray
    rows: Rows

    def __post_init__(self) -> None:
        shape = self.logits_VNC.shape
        if len(shape) != 3 or shape[0] != len(self.names) or shape[1] != len(self.rows):
            raise ValueError(
                f"logits {shape} for {len(self.names)} views and {len(self.rows)} rows"
            )
        if "identity" not in self.names or len(set(self.names)) < len(self.names):
            raise ValueError(
                f"views {', '.join(self.names)}: give each once, and identity among them"
            )
        if not np.isfinite(self.logits_VNC).all():
            raise ValueError("logits of views are not finite")

    def take(self, rows: np.ndarray) -> SavedViews:
        """Return the saved views of these rows only."""
        return SavedViews(self.names, self.logits_VNC[:, rows], self.rows.take(rows))
