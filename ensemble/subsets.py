"""Blend subsets of the members that fit a budget, and score them by cross-validation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ensemble.budget import Row, frontier, within_budget
from ensemble.crossfit import Split, in_turn
from ensemble.methods.base import Evidence, Fitted, Method
from ensemble.methods.quick_score import quick_score
from ensemble.methods.vote import soft_vote
from foldblend.errors import listed
from foldblend.image_columns import ImageColumns
from foldblend.scores.metrics import softmax
from foldblend.scores.score import score_interval

__all__ = ["FewerMembers", "few", "frontier_rows", "of_members", "within"]

MOST_POINTS = 6  # in the plot of score against cost


@dataclass(frozen=True, slots=True)
class FewerMembers:
    """A fitted method that uses only some members."""

    fitted: Fitted
    members: tuple[int, ...]
    num_members: int

    def __call__(
        self, logits_MNC: Iterable[np.ndarray], columns: ImageColumns | None = None
    ) -> np.ndarray:
        """Return logits N x C float64, from those of all members; the unused ones are skipped."""
        used = (one for place, one in enumerate(logits_MNC) if place in self.members)
        return self.fitted(used, columns)

    @property
    def needs(self) -> Mapping[str, str]:
        return self.fitted.needs

    @property
    def shares(self) -> tuple[float, ...]:
        found = dict(zip(self.members, self.fitted.shares, strict=True))
        return tuple(found.get(place, 0.0) for place in range(self.num_members))

    def as_dict(self) -> dict[str, Any]:
        return {"members": list(self.members), **self.fitted.as_dict()}


def few(evidence: Evidence, members: Sequence[int]) -> Evidence:
    """Return the evidence of only these members, by number."""
    return replace(evidence, logits_MNC=[evidence.logits_MNC[one] for one in members])


def _score_of_subset(evidence: Evidence) -> Callable[[tuple[int, ...]], float]:
    """Return a function that scores the mean probabilities of a subset; greater is better."""
    score = quick_score(evidence)
    # With float32 the probabilities of many members take half the memory.
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


def of_members(method: Method, members: tuple[int, ...]) -> Method:
    """Return the method restricted to these members, by number."""

    def fit(evidence: Evidence) -> Fitted:
        fitted = method.fit(few(evidence, members))
        num_members = len(evidence.logits_MNC)
        # Where members were dropped from these, their numbers are places among these.
        if isinstance(fitted, FewerMembers):
            kept = tuple(members[place] for place in fitted.members)
            return FewerMembers(fitted.fitted, kept, num_members)
        return FewerMembers(fitted, members, num_members)

    return replace(method, fit=fit, fits=True)


def within(method: Method, cost_M: np.ndarray, budget: float) -> Method:
    """Return the method restricted to members whose costs sum to no more than the budget.

    The members are chosen as a part of every fit, so the choice is cross-fitted too.
    """

    def fit(evidence: Evidence) -> Fitted:
        members = tuple(sorted(within_budget(_score_of_subset(evidence), cost_M, budget)))
        return of_members(method, members).fit(evidence)

    return replace(method, fit=fit, fits=True)


def _spread(costs: Sequence[float]) -> list[float]:
    """Return at most MOST_POINTS of the costs, evenly spaced, with the first and the last."""
    if len(costs) <= MOST_POINTS:
        return list(costs)
    return [
        costs[place] for place in np.linspace(0, len(costs) - 1, MOST_POINTS).round().astype(int)
    ]


def frontier_rows(
    evidence: Evidence, splits: Sequence[Split], cost_M: np.ndarray, names: Sequence[str]
) -> list[Row]:
    """Return cross-validated scores of unweighted soft votes within increasing budgets.

    The budgets are the costs of `frontier` on all rows. For each budget and fold, members are
    chosen on the other folds. A row has the name and cost of the members chosen on all rows. The
    name includes the number of folds with the same choice, unless that is all folds.

    Parameters
    ----------
    evidence
        Out-of-fold logits of all members.
    splits
        The folds.
    cost_M
        Cost of each member.
    names
        Names of the members.
    """
    everyone = _score_of_subset(evidence)
    budgets = _spread([point.cost for point in frontier(everyone, cost_M)])
    # Several budgets may choose the same members: the lowest of these budgets is kept.
    choices = {
        tuple(sorted(within_budget(everyone, cost_M, budget))): budget
        for budget in reversed(budgets)
    }
    scores = in_turn(lambda split: _score_of_subset(evidence.take(split.others)), splits)

    def row(choice: tuple[tuple[int, ...], float]) -> Row:
        chosen, budget = choice
        same = 0
        logits_NC = np.full((len(evidence.rows), evidence.num_classes), np.nan)
        for split, score in zip(splits, scores, strict=True):
            members = tuple(sorted(within_budget(score, cost_M, budget)))
            same += members == chosen
            held = (evidence.logits_MNC[one][split.rows] for one in members)
            logits_NC[split.rows] = soft_vote(held, [1.0] * len(members))
        headline = score_interval(evidence.score, evidence.rows, softmax(logits_NC))
        name = listed((names[one] for one in chosen), most=9)
        note = "" if same == len(splits) else f" (chosen in {same} of {len(splits)} folds)"
        return Row(
            f"{name}{note}", len(chosen), float(cost_M[list(chosen)].sum()), headline.as_dict()
        )

    return in_turn(row, list(choices.items())[::-1])
