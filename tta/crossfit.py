"""What a stage writes out of fold: each fold's logits by policy and weights of the other folds'
people.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from foldblend.scores.held_out import outer_parts
from tta.choose import Choice, Fit
from tta.policy import Policy, SavedViews

__all__ = ["CrossFit", "Part", "cross_fit", "cross_fit_path"]


@dataclass(frozen=True, slots=True)
class Part:
    """What the rows of one part of a repeat were given, chosen on its other people.

    A part is a fold, where folds keep people whole.
    """

    repeat: int
    part: int
    choice: Choice


@dataclass(frozen=True, slots=True)
class CrossFit:
    """Logits N x C float32 whose policy no label of the row's own people has touched; and what
    suits the test set.
    """

    logits_NC: np.ndarray
    parts: tuple[Part, ...]
    final: Choice
    """Chosen on all rows; for one model's logits of other images (each fold's, before they are
    averaged).
    """


def cross_fit(saved: SavedViews, fit: Fit) -> CrossFit:
    """Return each fold's logits by what `fit` chose on the repeat's other folds, and what it
    chooses on all rows.

    Raises ValueError for a repeat with a single fold.
    """
    logits_NC = np.full(saved.logits_VNC.shape[1:], np.nan, np.float32)
    parts = []
    for repeat, fold, rows, others in outer_parts(saved.rows):
        choice = fit(others)
        logits_NC[rows] = choice.policy.apply(saved.logits_VNC[:, rows], saved.names)
        parts.append(Part(repeat, fold, choice))
    assert np.isfinite(logits_NC).all()
    return CrossFit(logits_NC, tuple(parts), fit(np.arange(len(logits_NC))))


def cross_fit_path(
    saved: SavedViews, path: Callable[[np.ndarray], Sequence[Policy]], num_policies: int
) -> list[np.ndarray]:
    """Return logits N x C of the first, second, .. policy of a path, each fold's by the repeat's
    other folds.

    A path that ended early stays at its last policy.
    """
    found = [np.empty(saved.logits_VNC.shape[1:], np.float32) for _ in range(num_policies)]
    for _, _, rows, others in outer_parts(saved.rows):
        policies = path(others)
        for place, logits_NC in enumerate(found):
            policy = policies[min(place, len(policies) - 1)]
            logits_NC[rows] = policy.apply(saved.logits_VNC[:, rows], saved.names)
    return found
