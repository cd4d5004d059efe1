"""Average the predictions of several fitted methods."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ensemble.methods.base import Fitted
from ensemble.methods.vote import soft_vote
from foldblend.image_columns import ImageColumns
from foldblend.scores.metrics import log_softmax

__all__ = ["MIXTURE", "Mixture", "decided", "without_offsets"]

MIXTURE = "mixture"


def decided(logits_NC: np.ndarray, offsets_C: np.ndarray) -> np.ndarray:
    """Return logits N x C after offsets per class are added to the log-probabilities.

    Without offsets, logits stay equal to the last bit.
    """
    if not offsets_C.any():
        return logits_NC
    return log_softmax(log_softmax(logits_NC) + offsets_C)


@dataclass(frozen=True, slots=True)
class Mixture:
    """Weighted mean of the probabilities of several methods, each with its decision rule."""

    names: tuple[str, ...]
    """Names of the methods."""
    parts: tuple[Fitted, ...]
    weights: tuple[float, ...]
    """One weight above 0 per method, with sum 1."""
    offsets_SC: np.ndarray
    """Offsets per class of each method, zeros where it has none."""

    def __call__(
        self, logits_MNC: Iterable[np.ndarray], columns: ImageColumns | None = None
    ) -> np.ndarray:
        """Return logits N x C float64 from the logits N x C of each member."""
        # Every method reads all members.
        logits = list(logits_MNC)
        answers = (
            decided(part(logits, columns), offsets_C)
            for part, offsets_C in zip(self.parts, self.offsets_SC, strict=True)
        )
        return soft_vote(answers, self.weights)

    @property
    def needs(self) -> Mapping[str, str]:
        return {name: kind for part in self.parts for name, kind in part.needs.items()}

    @property
    def shares(self) -> tuple[float, ...]:
        """Share of each member: the mean of its shares in the methods."""
        share_M = sum(
            weight * np.asarray(part.shares)
            for weight, part in zip(self.weights, self.parts, strict=True)
        )
        return tuple(np.asarray(share_M).tolist())

    def as_dict(self) -> dict[str, Any]:
        methods = [
            {"method": name, "weight": weight, "offsets": offsets_C.tolist(), **part.as_dict()}
            for name, weight, offsets_C, part in zip(
                self.names, self.weights, self.offsets_SC, self.parts, strict=True
            )
        ]
        return {MIXTURE: methods}


def without_offsets(fitted: Fitted) -> Fitted:
    """Return a fitted method whose methods, if it is a mean of several, have no offsets."""
    if not isinstance(fitted, Mixture):
        return fitted
    return replace(fitted, offsets_SC=np.zeros_like(fitted.offsets_SC))
