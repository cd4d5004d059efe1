"""Voting: several models' probabilities into one, weighted."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from reports.metrics import log_softmax

__all__ = ["soft_vote"]


def soft_vote(logits: Iterable[np.ndarray], weights: Iterable[float]) -> np.ndarray:
    """Return log(weighted mean of the models' probabilities), N x C float64.

    Takes one N x C array of logits a model, one at a time, so that memory does not grow with their
    number. Summed in log space: finite for any finite logits.
    """
    weights = np.asarray(list(weights), float)
    log_weights = np.log(weights / weights.sum(), out=np.full(len(weights), -np.inf), where=weights > 0)
    total: np.ndarray | None = None
    for logits_NC, log_weight in zip(logits, log_weights, strict=True):
        term = log_softmax(logits_NC) + log_weight
        total = term if total is None else np.logaddexp(total, term)
    assert total is not None
    return total
