"""Scores of simulated configurations, and of what is chosen or blended from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ensemble.methods.greedy import greedy_picks
from foldblend.scores.intervals import jackknife_error
from foldblend.scores.metrics import Metric
from foldblend.scores.optimism import selection_optimism
from foldblend.scores.race import leads_of_scores
from foldblend.scores.score import Gain, Score, left_out_score
from tests.makers.portfolios import NUM_FOLDS, Portfolio

__all__ = ["Board", "error_of_lead", "optimism"]

NUM_NEW = 3000
NUM_PICKS = 15


class Board:
    """Scores of a portfolio's configurations, each computed once."""

    def __init__(self, portfolio: Portfolio, metric: Metric) -> None:
        self.metric = metric
        self.cost_M = portfolio.cost_M
        self.rows, self.tables = portfolio.draw(portfolio.num_groups, 1)
        self.new, self.new_tables = portfolio.draw(NUM_NEW, 2)
        # Out-of-fold scores are over the classes that occur, so true ones must be too.
        occurs_N = np.isin(self.new.label_N, np.unique(self.rows.label_N))
        self.new = self.new.take(occurs_N)
        self.new_tables = [proba_NC[occurs_N] for proba_NC in self.new_tables]
        self.until = [np.flatnonzero(self.rows.fold_N <= fold) for fold in range(NUM_FOLDS)]
        self.true_M = np.array([self.true(proba_NC) for proba_NC in self.new_tables])
        self.kept: dict[tuple[Any, ...], Any] = {}

    def true(self, proba_NC: np.ndarray) -> float:
        """Return the score on new people; greater is better."""
        return self.metric.sign * self.metric.score(self.new.label_N, proba_NC)

    def score(self, one: int, num_folds: int) -> Score:
        """Return the score of a configuration on its first folds."""
        at = self.until[num_folds - 1]
        key = "score", one, num_folds
        if key not in self.kept:
            found = left_out_score(self.metric, self.rows.take(at), self.tables[one][at])
            self.kept[key] = found
        return self.kept[key]

    def leads(self, configurations: Sequence[int], num_folds: int) -> list[Gain]:
        """Return the leads of the best configuration."""
        return leads_of_scores([self.score(one, num_folds) for one in configurations])

    def helpful(self, configurations: Sequence[int], num_folds: int) -> list[int]:
        """Return what `foldblend.scores.race.helpful` would."""
        best = self.best(configurations, num_folds)
        others = [(place, one) for place, one in enumerate(configurations) if one != best]
        alone = self.score(best, num_folds).value
        return [place for place, one in others if self.mean(best, one, num_folds) > alone]

    def mean(self, one: int, other: int, num_folds: int) -> float:
        """Return the score of the mean of two configurations."""
        key = "mean", min(one, other), max(one, other), num_folds
        if key not in self.kept:
            at = self.until[num_folds - 1]
            mean_NC = (self.tables[one][at] + self.tables[other][at]) / 2
            value = self.metric.score(self.rows.label_N[at], mean_NC)
            self.kept[key] = self.metric.sign * value
        return self.kept[key]

    def best(self, configurations: Sequence[int], num_folds: int = NUM_FOLDS) -> int:
        """Return the configuration with the best score."""
        return max(configurations, key=lambda one: self.score(one, num_folds).value)

    def blend(self, configurations: Sequence[int]) -> float:
        """Return the true score of a greedy blend."""
        used = tuple(sorted(configurations))
        key = "blend", *used
        if key not in self.kept:
            proba_MNC = np.stack([self.tables[one] for one in used])
            picks, _ = greedy_picks(
                proba_MNC, self.rows.label_N, num_picks=NUM_PICKS, metric=self.metric
            )
            total_NC = np.sum([self.new_tables[used[place]] for place in picks], axis=0)
            self.kept[key] = self.true(total_NC / NUM_PICKS)
        return self.kept[key]

    def outcome(self, finished: Sequence[int], share: float) -> dict[str, float]:
        """Return what became of a race."""
        best = int(self.true_M.argmax())
        blend_of_all = self.blend(range(len(self.tables)))
        vote_NC = np.mean([self.new_tables[one] for one in finished], axis=0)
        return {
            "regret": self.true_M[best] - self.true_M[self.best(finished)],
            "blend": self.blend(finished) - blend_of_all,
            "vote": self.true(vote_NC) - blend_of_all,
            "time": share,
            "best stopped": float(best not in finished),
            "finished": len(finished),
        }


def optimism(board: Board, finished: Sequence[int]) -> dict[str, float]:
    """Return the optimism of the best score, in truth and as estimated in two ways.

    The error of the truly best configuration is subtracted, because its score is not too high by
    choice.
    """
    score_M = np.array([board.score(one, NUM_FOLDS).value for one in range(len(board.tables))])
    chosen = board.best(finished)
    best = int(board.true_M.argmax())
    error_M = score_M - board.true_M
    tables = [board.tables[one] for one in finished]
    estimated = selection_optimism(board.metric, board.rows, tables)
    crossed_NC = np.empty_like(board.tables[0])
    for fold in range(NUM_FOLDS):
        held_N = board.rows.fold_N == fold
        others = board.rows.label_N[~held_N]
        values = [board.metric.sign * board.metric.score(others, one[~held_N]) for one in tables]
        crossed_NC[held_N] = tables[int(np.argmax(values))][held_N]
    crossed = board.metric.sign * board.metric.score(board.rows.label_N, crossed_NC)
    return {
        "true": error_M[chosen] - error_M[best],
        "estimated": estimated.value,
        "standard error": estimated.error,
        "cross-fitted": score_M[chosen] - crossed,
    }


def error_of_lead(board: Board) -> dict[str, float]:
    """Return the lead of one configuration over another on the first fold, and its true value."""
    labels = np.unique(board.rows.label_N[board.until[0]])
    at = np.flatnonzero((board.new.fold_N == 0) & np.isin(board.new.label_N, labels))
    scores = [board.score(one, 1) for one in (0, 1)]
    truths = [
        left_out_score(board.metric, board.new.take(at), board.new_tables[one][at])
        for one in (0, 1)
    ]
    lead, truth = (one.minus(other) for one, other in (scores, truths))
    return {
        "lead": lead.value,
        "error": jackknife_error(lead.left_out_G),
        "true": truth.value,
        "error of the true one": jackknife_error(truth.left_out_G),
    }
