"""Cross-fitting: each fold's logits are merged by a policy chosen on the other folds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from foldblend.scores.held_out import outer_parts
from tta.choose import Fit
from tta.policy import Policy, SavedViews
from tta.rules import Choice

__all__ = ["CrossFit", "Part", "cross_fit", "cross_fit_path"]


@dataclass(frozen=True, slots=True)
class Part:
    """The choice for one part of a repeat, made on the repeat's other parts.

    A part is a fold if the folds keep groups together; if they do not, rows are dealt to new parts
    that do.
    """

    repeat: int
    part: int
    choice: Choice


@dataclass(frozen=True, slots=True)
class CrossFit:
    """Cross-fitted logits, and the policy for the test set."""

    logits_NC: np.ndarray
    """Float32; no label of a row's own group influenced how the row was merged."""
    parts: tuple[Part, ...]
    final: Choice
    """Chosen on all rows. It applies to each model's test logits, before models are averaged."""


def cross_fit(saved: SavedViews, fit: Fit) -> CrossFit:
    """Return the cross-fitted logits of a fit, and its choice on all rows.

    Parameters
    ----------
    saved
        Out-of-fold logits of all views.
    fit
        Function from row numbers to a choice. It is called once per fold with the rows of the
        repeat's other folds, and once with all rows.

    Raises
    ------
    ValueError
        For a repeat with a single fold.
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
    """Return the cross-fitted logits N x C of the first, second, .. policy of a path.

    Each fold gets the path found on the repeat's other folds. A path that ends early keeps its last
    policy.
    """
    found = [np.empty(saved.logits_VNC.shape[1:], np.float32) for _ in range(num_policies)]
    for _, _, rows, others in outer_parts(saved.rows):
        policies = path(others)
        for place, logits_NC in enumerate(found):
            policy = policies[min(place, len(policies) - 1)]
            logits_NC[rows] = policy.apply(saved.logits_VNC[:, rows], saved.names)
    return found
