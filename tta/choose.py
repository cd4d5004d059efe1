"""Choice of views, merge and weights on out-of-fold logits, tested on held-out groups.

Greedy policy search decides which view to add next. How many views to take is decided by nested
cross-validation: groups are dealt to parts, the search runs on all parts but one, and only the
score on the part left out counts (see `tta.rules`). The best of a dozen useless views looks good on
the rows where it was found, and on no others.

References
----------
Molchanov et al. 2020, "Greedy policy search: a simple baseline for learnable test-time
augmentation".
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from foldblend.scores.by_group import by_group, group_codes
from foldblend.scores.held_out import group_parts
from foldblend.scores.metrics import (
    LOG_LOSS,
    METRICS,
    Metric,
    as_metric,
    log_softmax,
    row_log_loss,
    softmax,
)
from tta.learn import WEIGHTINGS
from tta.merge import MERGES
from tta.policy import IDENTITY, Policy, SavedViews
from tta.rules import FEWEST_GROUPS, RULES, SCORE, Candidates, Choice, decide

__all__ = ["Choice", "Fit", "Search", "choose", "learned", "searched", "weighted"]

NUM_PARTS = 5
# In shares of an equal weight. A view whose weight is smaller in every class is not worth a forward
# pass.
NEGLIGIBLE = 0.1
TEMPERATURES = tuple(2.0 ** (step / 2) for step in range(-2, 5))  # 0.5 to 4

Fit = Callable[[np.ndarray], "Choice"]
"""Function from row numbers to the choice made on these rows."""


@dataclass(frozen=True, slots=True)
class Search:
    """The search for the best policy over saved views, callable on any of their rows."""

    saved: SavedViews
    metric: Metric
    budget: int
    merges: Sequence[str]
    weightings: Sequence[str]
    prefer: str = SCORE
    """Name of the rule in `tta.rules.RULES`."""
    losses: dict[Policy, np.ndarray] = field(default_factory=dict)
    """Losses of policies without fitted weights, for all rows: rows x temperatures."""

    def row_losses(self, policy: Policy, rows: np.ndarray) -> np.ndarray:
        """Return each row's log loss at the best temperature for the policy on these rows.

        For a metric by group it is the loss of the row's group, which counts once. Log loss changes
        smoothly, while scores of decisions jump. The temperature removes differences in confidence
        between merges, which do not change any decision.
        """
        if policy not in self.losses:
            logits_NC = policy.apply(self.saved.logits_VNC, self.saved.names)
            temperatures = TEMPERATURES if self.metric.name != LOG_LOSS else (1.0,)
            losses = [self._losses(logits_NC / one) for one in temperatures]
            self.losses[policy] = np.stack(losses, axis=1).astype(np.float32)
        losses_NT = self.losses[policy][rows].astype(np.float64)  # T temperatures
        return losses_NT[:, losses_NT.mean(axis=0).argmin()]

    def _losses(self, logits_NC: np.ndarray) -> np.ndarray:
        """Return the log loss of each row, N; for a metric by group, that of its group."""
        rows = self.saved.rows
        if not self.metric.pool:
            return -log_softmax(logits_NC)[np.arange(len(rows)), rows.label_N]
        groups, proba_GC = by_group(rows, softmax(logits_NC), self.metric.pool)
        loss_G = row_log_loss(groups.label_N, proba_GC)
        code_N = group_codes(rows)
        # The mean over rows is then that over groups.
        weight_G = len(rows) / len(groups) / np.bincount(code_N)
        return (weight_G * loss_G)[code_N]

    def path(self, rows: np.ndarray) -> list[Policy]:
        """Return the policies of a greedy forward search, from identity on.

        Each policy has one view more than the one before. The search ends when no further view
        lowers the loss.
        """
        path = [IDENTITY]
        loss = float(self.row_losses(IDENTITY, rows).mean())
        while len(path) < self.budget:
            present = path[-1].views
            further = [
                Policy((*present, view), merge)
                for merge in self.merges
                for view in self.saved.names
                if view not in present
            ]
            losses = [float(self.row_losses(policy, rows).mean()) for policy in further]
            if min(losses) >= loss:
                break
            loss = min(losses)
            path.append(further[losses.index(loss)])
        return path

    def candidates(self, rows: np.ndarray) -> list[Policy]:
        """Return the candidate policies fitted on these rows, cheapest first.

        They have 1, 2, .. up to `budget` views; then follow versions of the last one with learned
        weights. The list always has the same length, so that candidates of different rows match.
        """
        path = self.path(rows)
        full = [*path, *[path[-1]] * (self.budget - len(path))]
        if len(path) == 1:
            return full + [IDENTITY] * len(self.weightings)
        return full + [
            weighted(self.saved.take(rows), path[-1].views, one) for one in self.weightings
        ]

    def held_out(self, rows: np.ndarray, num_candidates: int) -> list[np.ndarray]:
        """Return each candidate's cross-fitted logits N x C on these rows.

        Each row gets the logits of the candidate that was fitted on the parts without its group.
        """
        saved = self.saved
        held = [
            np.empty((len(rows), saved.logits_VNC.shape[2]), np.float32)
            for _ in range(num_candidates)
        ]
        part_N = group_parts(
            saved.rows.label_N[rows], saved.rows.group_N[rows], num_parts=NUM_PARTS
        )
        for part in np.unique(part_N):
            left_out = rows[part_N == part]
            others = rows[part_N != part]
            for logits_NC, policy in zip(held, self.candidates(others), strict=True):
                logits_NC[part_N == part] = policy.apply(saved.logits_VNC[:, left_out], saved.names)
        return held

    def compared(self, rows: np.ndarray) -> Candidates:
        """Return the candidates of these rows and their logits on held-out groups."""
        one = self.saved.take(rows)
        enough = one.rows.num_groups >= FEWEST_GROUPS
        policies = self.candidates(rows) if enough else [IDENTITY]
        held = [] if set(policies) == {IDENTITY} else self.held_out(rows, len(policies))
        return Candidates(policies, held, one, self.metric)

    def __call__(self, rows: np.ndarray) -> Choice:
        """Return the choice on these rows; identity where no candidate improves the score."""
        return decide(self.compared(rows), self.prefer)


def searched(
    saved: SavedViews,
    *,
    metric: str | Metric = "f1_macro",
    budget: int = 4,
    merges: Sequence[str] = tuple(MERGES),
    weightings: Sequence[str] = tuple(WEIGHTINGS),
    prefer: str = SCORE,
) -> Search:
    """Return the search for the best policy of at most `budget` forward passes per image.

    Parameters
    ----------
    saved
        Out-of-fold logits of all views.
    metric
        The metric that has to improve, or its name.
    budget
        Most forward passes per image, 1 or more.
    merges, weightings
        Names of the merges and learned weightings to try.
    prefer
        "score" takes the candidate with the best score on held-out groups; "simple" takes a further
        view only for a gain of more than one standard error there.

    Returns
    -------
    Search
        Call it with row numbers to get the choice on these rows.

    Raises
    ------
    ValueError
        For a budget below 1 or an unknown name.
    """
    if budget < 1:
        raise ValueError(f"budget {budget}: pass 1 or more")
    given: list[tuple[Sequence[str], Collection[str]]] = [
        ([metric] if isinstance(metric, str) else [], METRICS),
        (merges, MERGES),
        (weightings, WEIGHTINGS),
        ([prefer], RULES),
    ]
    for names, known in given:
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: unknown; there are {', '.join(known)}")
    most = min(budget, len(saved.names))
    return Search(saved, as_metric(metric), most, merges, weightings, prefer)


def choose(saved: SavedViews, **settings: Any) -> Choice:
    """Return the best policy on all rows; settings are those of `searched`."""
    return searched(saved, **settings)(np.arange(len(saved.rows)))


def weighted(saved: SavedViews, views: Sequence[str], weighting: str) -> Policy:
    """Return the mean of these views with weights learned on all rows.

    Views with negligible weights are left out.
    """
    logits_VNC = saved.logits_VNC[[saved.names.index(view) for view in views]]
    weights = WEIGHTINGS[weighting](logits_VNC, saved.rows.label_N, saved.rows.group_N)
    counts_V = weights.reshape(len(views), -1).max(axis=1) >= NEGLIGIBLE / len(views)
    kept = weights[counts_V].tolist()
    rows = tuple(tuple(one) if isinstance(one, list) else one for one in kept)
    return Policy(
        tuple(itertools.compress(views, counts_V)), "mean", rows if len(rows) > 1 else None
    )


def learned(saved: SavedViews, views: Sequence[str], weighting: str) -> Fit:
    """Return a function that learns weights of given views on any rows."""
    return lambda rows: Choice(weighted(saved.take(rows), views, weighting))
