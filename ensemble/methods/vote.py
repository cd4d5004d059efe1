"""Combine the predictions of several models by votes, weighted or unweighted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from foldblend.blocks import in_blocks
from foldblend.image_columns import ImageColumns
from foldblend.scores.metrics import log_softmax, softmax

__all__ = ["POOLS", "RankVote", "Vote", "hard_vote", "log_vote", "soft_vote"]

Pool = Callable[[Iterable[np.ndarray], Sequence[float]], np.ndarray]
"""Function from logits N x C of each model and one weight per model to logits N x C float64.

Models are read one at a time, so that memory does not grow with their number.
"""

# Weight of the mean probability in a hard vote, where it only decides ties.
TIE = 1e-3
NUM_QUANTILES = 1001


def _shares(weights: Iterable[float]) -> np.ndarray:
    weight_M = np.asarray(list(weights), float)
    return weight_M / weight_M.sum()


def _log(share_NC: np.ndarray) -> np.ndarray:
    return np.asarray(np.log(np.maximum(share_NC, np.finfo(np.float64).tiny)))


def _proba(logits_NC: np.ndarray, share: float) -> np.ndarray:
    proba_NC = softmax(logits_NC)
    proba_NC *= share
    return proba_NC


def _log_proba(logits_NC: np.ndarray, share: float) -> np.ndarray:
    return log_softmax(logits_NC) * share


def _votes(logits_NC: np.ndarray, share: float) -> np.ndarray:
    votes_NC = softmax(logits_NC) * (TIE * share)
    votes_NC[np.arange(len(votes_NC)), logits_NC.argmax(axis=1)] += (1 - TIE) * share
    return votes_NC


def _sum(
    of_model: Callable[[np.ndarray, float], np.ndarray],
    logits: Iterable[np.ndarray],
    weights: Sequence[float],
) -> np.ndarray:
    """Return the sum of a function of each model's logits and share, N x C float64."""
    total_NC: np.ndarray | None = None
    for logits_NC, share in zip(logits, _shares(weights), strict=True):
        if total_NC is None:
            total_NC = in_blocks(lambda part_NC, share=share: of_model(part_NC, share), logits_NC)
            continue
        in_blocks(
            lambda sum_NC, part_NC, share=share: sum_NC + of_model(part_NC, share),
            total_NC,
            logits_NC,
            out=total_NC,
        )
    assert total_NC is not None
    return total_NC


def _finished(last: Callable[[np.ndarray], np.ndarray], total_NC: np.ndarray) -> np.ndarray:
    return in_blocks(last, total_NC, out=total_NC)


def soft_vote(logits: Iterable[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Return the log of the weighted mean of the models' probabilities, N x C float64.

    It is finite for finite logits: a mean of 0 becomes the smallest positive float.

    Examples
    --------
    >>> logits = [np.log([[0.8, 0.2]]), np.log([[0.4, 0.6]])]
    >>> np.exp(soft_vote(logits, [1, 1])).round(6).tolist()
    [[0.6, 0.4]]
    """
    return _finished(_log, _sum(_proba, logits, weights))


def log_vote(logits: Iterable[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Return the normalised weighted mean of the models' log-probabilities, N x C float64.

    It is the log of the geometric mean of the probabilities.
    """
    return _finished(log_softmax, _sum(_log_proba, logits, weights))


def hard_vote(logits: Iterable[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Return the log of the share of votes for each class, N x C float64.

    The mean probability decides between classes with equal votes.
    """
    return _finished(_log, _sum(_votes, logits, weights))


POOLS: dict[str, Pool] = {"soft": soft_vote, "log": log_vote, "hard": hard_vote}


@dataclass(frozen=True, slots=True)
class Vote:
    """Weighted vote of members whose logits are divided by temperatures."""

    pool: str
    weights: tuple[float, ...]
    temperatures: tuple[float, ...]

    def __call__(
        self, logits_MNC: Iterable[np.ndarray], columns: ImageColumns | None = None
    ) -> np.ndarray:
        """Return logits N x C float64 from the logits N x C of each member."""
        pairs = zip(logits_MNC, self.temperatures, strict=True)
        # Not dividing by a temperature of 1 keeps unfitted logits equal to the last bit.
        scaled = (
            logits_NC if one == 1 else logits_NC.astype(np.float64) / one
            for logits_NC, one in pairs
        )
        return POOLS[self.pool](scaled, self.weights)

    @property
    def needs(self) -> Mapping[str, str]:
        return {}

    @property
    def shares(self) -> tuple[float, ...]:
        return tuple(_shares(self.weights).tolist())

    def as_dict(self) -> dict[str, Any]:
        return {
            "vote": self.pool,
            "weights": list(self.shares),
            "temperatures": list(self.temperatures),
        }


@dataclass(frozen=True, slots=True)
class RankVote:
    """Mean of ranks: how high a class's probability is among the member's probabilities of it.

    A class is predicted where it is unusually likely, so rare classes count as much as frequent
    ones. Classes that never occur get no rank, because any probability of them would be unusual.
    """

    quantiles_MQC: np.ndarray
    """Quantiles of each member's out-of-fold log-probabilities of each class."""
    occurs_C: np.ndarray
    """Whether a class has rows."""
    temperature: float = 1.0
    """Divides the log of the mean ranks, so that they become probabilities."""

    def __call__(
        self, logits_MNC: Iterable[np.ndarray], columns: ImageColumns | None = None
    ) -> np.ndarray:
        """Return the log of the mean rank, divided by the temperature, N x C float64."""
        level_Q = np.linspace(0, 1, self.quantiles_MQC.shape[1])
        total: np.ndarray | None = None
        for logits_NC, quantiles_QC in zip(logits_MNC, self.quantiles_MQC, strict=True):
            log_NC = log_softmax(logits_NC)
            pairs = zip(log_NC.T, quantiles_QC.T, strict=True)
            rank_NC = np.stack([np.interp(log_N, one_Q, level_Q) for log_N, one_Q in pairs], axis=1)
            # All probabilities above the highest quantile have the same rank, so the probability
            # itself decides between them.
            term = (1 - TIE) * rank_NC * self.occurs_C + TIE * np.exp(log_NC)
            total = term if total is None else total + term
        assert total is not None
        return _log(total / len(self.quantiles_MQC)) / self.temperature

    @property
    def needs(self) -> Mapping[str, str]:
        return {}

    @property
    def shares(self) -> tuple[float, ...]:
        return (1 / len(self.quantiles_MQC),) * len(self.quantiles_MQC)

    def as_dict(self) -> dict[str, Any]:
        return {"vote": "rank", "weights": list(self.shares), "temperature": self.temperature}
