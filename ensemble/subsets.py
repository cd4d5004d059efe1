"""Members within a budget: which ones, what they score on people who had no say in that, and what
they cost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ensemble.budget import Row, frontier, within_budget
from ensemble.crossfit import Split, in_turn
from ensemble.methods.base import Evidence, Fitted, Method
from ensemble.methods.quick_score import quick_score
from ensemble.methods.vote import soft_vote
from foldblend.errors import listed
from foldblend.scores.metrics import softmax
from foldblend.scores.score import score_of

__all__ = ["FewerMembers", "frontier_rows", "within"]

MOST_POINTS = 6  # of a frontier


@dataclass(frozen=True, slots=True)
class FewerMembers:
    """A fitted method that takes only some members."""

    fitted: Fitted
    members: tuple[int, ...]
    num_members: int

    def __call__(self, logits_MNC: Iterable[np.ndarray]) -> np.ndarray:
        """Return logits N x C float64; members without a say are passed over."""
        return self.fitted(one for place, one in enumerate(logits_MNC) if place in self.members)

    @property
    def shares(self) -> tuple[float, ...]:
        found = dict(zip(self.members, self.fitted.shares, strict=True))
        return tuple(found.get(place, 0.0) for place in range(self.num_members))

    def as_dict(self) -> dict[str, Any]:
        return {"members": list(self.members), **self.fitted.as_dict()}


def _few(evidence: Evidence, members: Sequence[int]) -> Evidence:
    return replace(evidence, logits_MNC=[evidence.logits_MNC[one] for one in members])


def _score_of_subset(evidence: Evidence) -> Callable[[tuple[int, ...]], float]:
    """Return what scores the plain mean of some members' probabilities, greater being better."""
    score = quick_score(evidence)
    proba_MNC = [softmax(one).astype(np.float32) for one in evidence.logits_MNC]
    known: dict[tuple[int, ...], float] = {}

    def of(members: tuple[int, ...]) -> float:
        if members not in known:
            total_NC = proba_MNC[members[0]].copy()
            for one in members[1:]:
                total_NC += proba_MNC[one]
            known[members] = score(total_NC / np.float32(len(members)))
        return known[members]

    return of


def within(method: Method, cost_M: np.ndarray, budget: float) -> Method:
    """Return the method on members whose costs sum to no more than the budget, which are part of
    what is fitted.
    """

    def fit(evidence: Evidence) -> Fitted:
        members = tuple(sorted(within_budget(_score_of_subset(evidence), cost_M, budget)))
        return FewerMembers(method.fit(_few(evidence, members)), members, len(cost_M))

    return replace(method, fit=fit, fits=True)


def _spread(costs: Sequence[float]) -> list[float]:
    """Return at most so many of the costs, first and last among them, evenly along the list."""
    if len(costs) <= MOST_POINTS:
        return list(costs)
    return [
        costs[place] for place in np.linspace(0, len(costs) - 1, MOST_POINTS).round().astype(int)
    ]


def frontier_rows(
    evidence: Evidence, splits: Sequence[Split], cost_M: np.ndarray, names: Sequence[str]
) -> list[Row]:
    """Return what soft votes of members within one budget after the other score, chosen on other
    people.

    The budgets are the costs of the frontier that all rows draw; names and costs are those of what
    all rows choose, and say in how many folds the same were chosen.
    """
    everyone = _score_of_subset(evidence)
    budgets = _spread([point.cost for point in frontier(everyone, cost_M)])
    # Several budgets may choose the same.
    choices = {
        tuple(sorted(within_budget(everyone, cost_M, budget))): budget
        for budget in reversed(budgets)
    }
    scores = in_turn(lambda split: _score_of_subset(evidence.take(split.others)), splits)

    def row(choice: tuple[tuple[int, ...], float]) -> Row:
        (chosen, budget) = choice
        same = 0
        logits_NC = np.full((len(evidence.rows), evidence.num_classes), np.nan)
        for split, score in zip(splits, scores, strict=True):
            members = tuple(sorted(within_budget(score, cost_M, budget)))
            same += members == chosen
            held = (evidence.logits_MNC[one][split.rows] for one in members)
            logits_NC[split.rows] = soft_vote(held, [1.0] * len(members))
        headline = score_of(evidence.score, evidence.rows, softmax(logits_NC)).interval()
        name = listed((names[one] for one in chosen), most=9)
        said = "" if same == len(splits) else f" (chosen in {same} of {len(splits)} folds)"
        return Row(
            f"{name}{said}", len(chosen), float(cost_M[list(chosen)].sum()), headline.as_dict()
        )

    return in_turn(row, list(choices.items())[::-1])
