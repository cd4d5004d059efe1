"""Choice of views, merge and weights on out-of-fold logits, tested on held-out groups.

Greedy policy search decides which view to add next. How many views to take is decided by nested
cross-validation: groups are dealt to parts, the search runs on all parts but one, and only the gain
on the part left out counts. The best of a dozen useless views looks good on the rows where it was
found, and on no others.

References
----------
Molchanov et al. 2020, "Greedy policy search: a simple baseline for learnable test-time
augmentation".
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from foldblend.scores.held_out import group_parts
from foldblend.scores.metrics import METRICS, Metric, log_softmax, softmax
from foldblend.scores.score import Score, gain, score_of
from tta.learn import WEIGHTINGS
from tta.merge import MERGES
from tta.policy import IDENTITY, Policy, SavedViews

__all__ = ["Choice", "Fit", "Search", "Step", "choose", "learned", "searched", "weighted"]

NUM_PARTS = 5
# With fewer groups, a standard error over groups is too uncertain to decide anything.
FEWEST_GROUPS = 10
# In shares of an equal weight. A view whose weight is smaller in every class is not worth a forward
# pass.
NEGLIGIBLE = 0.1
TEMPERATURES = tuple(2.0 ** (step / 2) for step in range(-2, 5))  # 0.5 to 4

Fit = Callable[[np.ndarray], "Choice"]
"""Function from row numbers to the choice made on these rows."""


@dataclass(frozen=True, slots=True)
class Step:
    """A policy that was compared with the current one on held-out groups."""

    policy: Policy
    over: Policy
    """The policy that was current then."""
    gain: float
    """Improvement of the metric on groups used for neither policy; positive is better."""
    standard_error: float
    """Standard error of the gain, by bootstrap over groups."""
    taken: bool

    def __str__(self) -> str:
        return f"{self.gain:+.4f} (standard error {self.standard_error:.4f})"


@dataclass(frozen=True, slots=True)
class Choice:
    """A policy, the steps that led to it, and the reason for it."""

    policy: Policy
    steps: tuple[Step, ...] = ()
    why: str = ""
    """A clause for reports; empty for a policy that was given, not chosen."""

    def __str__(self) -> str:
        if self.policy == IDENTITY:
            return f"No augmentation is used{': ' if self.why else ''}{self.why}."
        if self.why:
            return f"Views chosen: {self.policy}; {self.why}."
        return f"Views merged: {self.policy}."


@dataclass(frozen=True, slots=True)
class Search:
    """The search for the best policy over saved views, callable on any of their rows."""

    saved: SavedViews
    metric: Metric
    budget: int
    merges: Sequence[str]
    weightings: Sequence[str]
    losses: dict[Policy, np.ndarray] = field(default_factory=dict)
    """Losses of policies without fitted weights, for all rows: rows x temperatures."""

    def row_losses(self, policy: Policy, rows: np.ndarray) -> np.ndarray:
        """Return each row's log loss at the best temperature for the policy on these rows.

        Log loss changes smoothly, while scores of decisions jump. The temperature removes
        differences in confidence between merges, which do not change any decision.
        """
        if policy not in self.losses:
            logits_NC = policy.apply(self.saved.logits_VNC, self.saved.names)
            own = np.arange(len(logits_NC)), self.saved.rows.label_N
            temperatures = TEMPERATURES if self.metric is not METRICS["log_loss"] else (1.0,)
            losses = [-log_softmax(logits_NC / one)[own] for one in temperatures]
            self.losses[policy] = np.stack(losses, axis=1).astype(np.float32)
        losses_NT = self.losses[policy][rows].astype(np.float64)  # T temperatures
        return losses_NT[:, losses_NT.mean(axis=0).argmin()]

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

    def __call__(self, rows: np.ndarray) -> Choice:
        """Return the choice on these rows; identity where no candidate improves the score."""
        num_groups = len(np.unique(self.saved.rows.group_N[rows]))
        groups = self.saved.rows.groups
        if num_groups < FEWEST_GROUPS:
            return Choice(IDENTITY, why=f"{num_groups} {groups} are too few to choose views")
        policies = self.candidates(rows)
        one = self.saved.take(rows)
        if set(policies) == {IDENTITY}:
            return Choice(IDENTITY, why="no view lowers the log loss")
        held = self.held_out(rows, len(policies))

        @functools.cache
        def scored(place: int) -> _Scored:
            proba_NC = softmax(held[place])
            fitted_NC = softmax(policies[place].apply(one.logits_VNC, one.names))
            held_out = score_of(self.metric, one.rows, proba_NC)
            return _Scored(
                held_out, score_of(self.metric, one.rows, fitted_NC, resampled=False).value
            )

        policy, steps = _climb(policies, scored)
        return Choice(policy, steps, _why(steps, self.metric.title, groups))


@dataclass(frozen=True, slots=True)
class _Scored:
    """Scores of a candidate; greater is better."""

    held: Score
    """Of the cross-fitted candidate."""
    fitted: float
    """Of the candidate that was fitted on all rows."""


def _climb(
    policies: Sequence[Policy], scored: Callable[[int], _Scored]
) -> tuple[Policy, tuple[Step, ...]]:
    """Return the best candidate and all steps, going through candidates in order of cost.

    A candidate replaces the current one if its gain on held-out groups exceeds the gain's standard
    error and if the policy fitted on all rows is better as well. So views are added one at a time,
    or as few together as are needed for such a gain.
    """
    current = 0
    steps = []
    for place, policy in enumerate(policies):
        if policy in (policies[current], policies[max(place - 1, 0)]):
            continue
        new = scored(place)
        old = scored(current)
        gained = gain(new.held, old.held)
        taken = gained.exceeds() and new.fitted > old.fitted
        steps.append(Step(policy, policies[current], gained.value, gained.error, taken))
        current = place if taken else current
    return policies[current], tuple(steps)


def _why(steps: Sequence[Step], metric: str, groups: str) -> str:
    """Return the gain of each step, or which policy was closest to a gain.

    `groups` is what groups are, in the plural.
    """
    on_whom = f"on {groups} not used for choosing"
    taken = [step for step in steps if step.taken]
    if taken:
        return f"{metric} improves by {', then '.join(map(str, taken))}, {on_whom}"
    closest = max(steps, key=lambda step: step.gain - step.standard_error)
    missed = (
        "by more than one standard error"
        if closest.gain <= closest.standard_error
        else f"both on held-out {groups} and on all rows"
    )
    return (
        f"no view improves the score {missed}. The closest is {closest.policy}, with a gain in"
        f" {metric} of {closest}, {on_whom}"
    )


def searched(
    saved: SavedViews,
    *,
    metric: str = "f1_macro",
    budget: int = 4,
    merges: Sequence[str] = tuple(MERGES),
    weightings: Sequence[str] = tuple(WEIGHTINGS),
) -> Search:
    """Return the search for the best policy of at most `budget` forward passes per image.

    Parameters
    ----------
    saved
        Out-of-fold logits of all views.
    metric
        Name of the metric that has to improve.
    budget
        Most forward passes per image, 1 or more.
    merges, weightings
        Names of the merges and learned weightings to try.

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
        ([metric], METRICS),
        (merges, MERGES),
        (weightings, WEIGHTINGS),
    ]
    for names, known in given:
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: unknown; there are {', '.join(known)}")
    return Search(saved, METRICS[metric], min(budget, len(saved.names)), merges, weightings)


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
