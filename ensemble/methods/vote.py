"""Voting: several models' predictions into one, row by row, weighted or not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from foldblend.scores.metrics import log_softmax, softmax

__all__ = ["POOLS", "RankVote", "Vote", "hard_vote", "log_vote", "soft_vote"]

Pool = Callable[[Iterable[np.ndarray], Sequence[float]], np.ndarray]
"""(logits N x C of each model, one weight each) -> logits N x C float64. Models are looked at one
at a time, so that memory does not grow with their number.
"""

TIE = 1e-3  # of a vote: what the mean probability may decide among classes with equal votes
NUM_QUANTILES = 1001


def _shares(weights: Iterable[float]) -> np.ndarray:
    weight_M = np.asarray(list(weights), float)
    return weight_M / weight_M.sum()


def _log(share_NC: np.ndarray) -> np.ndarray:
    return np.asarray(np.log(np.maximum(share_NC, np.finfo(np.float64).tiny)))


def soft_vote(logits: Iterable[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Return log(weighted mean of the models' probabilities), N x C float64.

    Finite for any finite logits: what no model gives any probability is as unlikely as a float can
    say.
    """
    total_NC: np.ndarray | None = None
    for logits_NC, share in zip(logits, _shares(weights), strict=True):
        proba_NC = softmax(logits_NC)
        proba_NC *= share
        total_NC = proba_NC if total_NC is None else np.add(total_NC, proba_NC, out=total_NC)
    assert total_NC is not None
    return _log(total_NC)


def log_vote(logits: Iterable[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Return the weighted mean of the models' log-probabilities (a geometric mean), normalised, N x
    C float64.
    """
    total: np.ndarray | None = None
    for logits_NC, share in zip(logits, _shares(weights), strict=True):
        term = log_softmax(logits_NC) * share
        total = term if total is None else total + term
    assert total is not None
    return log_softmax(total)


def hard_vote(logits: Iterable[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """Return log of the share of votes for each class, N x C float64; equal votes go by the mean
    probability.
    """
    votes_NC: np.ndarray | None = None
    for logits_NC, share in zip(logits, _shares(weights), strict=True):
        term = softmax(logits_NC) * (TIE * share)
        term[np.arange(len(term)), logits_NC.argmax(axis=1)] += (1 - TIE) * share
        votes_NC = term if votes_NC is None else votes_NC + term
    assert votes_NC is not None
    return _log(votes_NC)


POOLS: dict[str, Pool] = {"soft": soft_vote, "log": log_vote, "hard": hard_vote}


@dataclass(frozen=True, slots=True)
class Vote:
    """A weighted vote of members, each at its own temperature."""

    pool: str
    weights: tuple[float, ...]
    temperatures: tuple[float, ...]

    def __call__(self, logits_MNC: Iterable[np.ndarray]) -> np.ndarray:
        """Return logits N x C float64, from N x C of each member."""
        pairs = zip(logits_MNC, self.temperatures, strict=True)
        # A temperature of 1 is not divided by: what is not fitted stays to the bit.
        scaled = (
            logits_NC if one == 1 else logits_NC.astype(np.float64) / one
            for logits_NC, one in pairs
        )
        return POOLS[self.pool](scaled, self.weights)

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
    """The mean over members of how high a class's probability ranks among those that the member
    gave it out of fold.

    It asks what is unusually likely, so rare classes count as much as frequent ones; but those that
    never occur, all of which would be unusual, have no rank.
    """

    quantiles_MQC: np.ndarray
    """Of each member's log-probabilities of each class."""
    occurs_C: np.ndarray
    temperature: float = 1.0
    """What turns mean ranks into probabilities."""

    def __call__(self, logits_MNC: Iterable[np.ndarray]) -> np.ndarray:
        """Return log of the mean rank over the temperature, N x C float64, from logits N x C of
        each member.
        """
        level_Q = np.linspace(0, 1, NUM_QUANTILES)
        total: np.ndarray | None = None
        for logits_NC, quantiles_QC in zip(logits_MNC, self.quantiles_MQC, strict=True):
            log_NC = log_softmax(logits_NC)
            columns = zip(log_NC.T, quantiles_QC.T, strict=True)
            rank_NC = np.stack(
                [np.interp(log_N, one_Q, level_Q) for log_N, one_Q in columns], axis=1
            )
            # Above the highest that was ever given, all rank alike: then the probability itself
            # decides.
            term = (1 - TIE) * rank_NC * self.occurs_C + TIE * np.exp(log_NC)
            total = term if total is None else total + term
        assert total is not None
        return _log(total / len(self.quantiles_MQC)) / self.temperature

    @property
    def shares(self) -> tuple[float, ...]:
        return (1 / len(self.quantiles_MQC),) * len(self.quantiles_MQC)

    def as_dict(self) -> dict[str, Any]:
        return {"vote": "rank", "weights": list(self.shares), "temperature": self.temperature}
