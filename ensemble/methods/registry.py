"""List the methods of blending, simplest first."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from ensemble.methods import column_stack, column_trees, greedy, single, stack, trees, weights
from ensemble.methods.base import Evidence, Fitted, Method
from ensemble.methods.vote import NUM_QUANTILES, RankVote, Vote
from foldblend.scores.metrics import log_softmax
from foldblend.scores.temperature import fit_temperatures

__all__ = ["METHODS", "WITHOUT", "WITH_COLUMNS", "method_of", "weighted_vote"]


def weighted_vote(pool: str, given: Sequence[float] | None = None) -> Callable[[Evidence], Fitted]:
    """Return the fit of a vote with equal or given weights, which learns nothing from labels."""

    def fit(evidence: Evidence) -> Fitted:
        equal = (1.0,) * len(evidence.logits_MNC)
        return Vote(pool, equal if given is None else tuple(given), equal)

    return fit


def _tempered(evidence: Evidence) -> Fitted:
    return Vote("soft", (1.0,) * len(evidence.logits_MNC), evidence.temperatures)


def _rank(evidence: Evidence) -> Fitted:
    levels = np.linspace(0, 1, NUM_QUANTILES)
    quantiles_MQC = np.stack(
        [np.quantile(log_softmax(one), levels, axis=0) for one in evidence.logits_MNC]
    )
    vote = RankVote(
        quantiles_MQC, np.bincount(evidence.rows.label_N, minlength=evidence.num_classes) > 0
    )
    # Mean ranks are far from probabilities until they are scaled.
    [temperature] = fit_temperatures(
        [vote(evidence.logits_MNC)], evidence.rows.label_N, evidence.rows.group_N
    )
    return dataclasses.replace(vote, temperature=temperature)


# The order matters: of methods within one standard error of the best, the first is chosen, and of
# methods with the same score the first counts as the best.
METHODS: dict[str, Method] = {
    "single": Method("best single member", single.fit),
    "soft": Method("mean of probabilities", weighted_vote("soft"), fits=False),
    "log": Method("mean of log-probabilities", weighted_vote("log"), fits=False),
    "hard": Method("one vote per member", weighted_vote("hard"), fits=False, of_shares=True),
    "rank": Method("mean of the ranks of each class's probability", _rank),
    "tempered": Method("mean of probabilities after temperature scaling", _tempered),
    "weights": Method("weighted mean of probabilities, by log loss", weights.fit_log_loss),
    "greedy": Method("greedy selection with replacement, bagged", greedy.fit),
    "weights-metric": Method("weighted mean of probabilities, by the metric", weights.fit_metric),
    "stack": Method("multinomial regression on log-probabilities, shrunk to the vote", stack.fit),
    "trees": Method(
        "boosted trees on summary features, mixed with the vote", trees.fit, thorough=True
    ),
}
# Methods that learn from columns of the images (--meta-cols) too.
WITH_COLUMNS: dict[str, Method] = {
    "stack-columns": Method("stack with columns of the images", column_stack.fit),
    "trees-columns": Method(
        "boosted trees that see columns of the images", column_trees.fit, thorough=True
    ),
}
WITHOUT = {"stack-columns": "stack", "trees-columns": "trees"}
"""The method without columns beside which each of these is shown, and which it is at worst."""


def method_of(name: str) -> Method:
    """Return a method by its name; raise KeyError for an unknown one."""
    return WITH_COLUMNS[name] if name in WITH_COLUMNS else METHODS[name]
