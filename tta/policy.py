"""A policy of test-time augmentation: which views, merged how; and the saved logits that it is
chosen on.
"""

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
    """Views in order, the name of their merge, and weights, one a view or C a view; None weighs all
    alike.
    """

    views: tuple[str, ...]
    merge: str = "mean"
    weights: tuple[float, ...] | tuple[tuple[float, ...], ...] | None = None

    def __post_init__(self) -> None:
        if not self.views or len(set(self.views)) < len(self.views):
            raise ValueError(
                f"views {', '.join(self.views) or '(none)'}: name one or more, each once"
            )
        if self.merge not in MERGES:
            raise ValueError(f"merge {self.merge}: there are {', '.join(MERGES)}")
        if self.weights is not None:
            check_weights(np.array(self.weights), len(self.views), np.array(self.weights).shape[-1])

    @property
    def passes(self) -> int:
        """Forward passes per image."""
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
        """Return logits N x C float32 from saved ones of views of these names. Raises ValueError
        for one not saved.
        """
        missing = [view for view in self.views if view not in names]
        if missing:
            raise ValueError(
                f"no logits of {', '.join(missing)}: views saved are {', '.join(names)}"
            )
        weights = None if self.weights is None else np.array(self.weights)
        return MERGES[self.merge](logits_VNC[[names.index(view) for view in self.views]], weights)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON knows it."""
        weights = None if self.weights is None else np.array(self.weights).tolist()
        return {"views": list(self.views), "merge": self.merge, "weights": weights}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Policy:
        """Return the policy of `as_dict`. Raises ValueError for what is none."""
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
    """Out-of-fold logits of every saved view, V x N x C, with names V, and their rows N.

    Raises ValueError for lengths that differ, a name twice, no view "identity", or logits that are
    not finite.
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
            raise ValueError(f"views {', '.join(self.names)}: each once, and identity among them")
        if not np.isfinite(self.logits_VNC).all():
            raise ValueError("logits of views are not finite")

    def take(self, rows: np.ndarray) -> SavedViews:
        """Return these rows alone."""
        return SavedViews(self.names, self.logits_VNC[:, rows], self.rows.take(rows))
