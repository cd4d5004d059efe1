"""Choosing views, merge and weights on out-of-fold logits, so that what is chosen holds for other
people.

Greedy policy search (Molchanov et al. 2020, "Greedy policy search: a simple baseline for learnable
test-time augmentation") says which view to add next; how many to take is not for the rows that
chose them to say. So groups are dealt to parts, each part is given what the others chose, and only
a gain seen there counts. The best of a dozen useless views looks good where it was found, and
nowhere else.
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
FEWEST_GROUPS = 10  # below, a standard error over groups says nothing
NEGLIGIBLE = (
    0.1  # of an equal share: with less of the say in every class, a view is not worth its pass
)
TEMPERATURES = tuple(2.0 ** (step / 2) for step in range(-2, 5))  # 0.5 to 4

Fit = Callable[[np.ndarray], "Choice"]
"""Row numbers -> what is chosen on them."""


@dataclass(frozen=True, slots=True)
class Step:
    """A policy that was tried over the present one, and what it gained on people who had no say in
    either.
    """

    policy: Policy
    over: Policy
    gain: float
    """Of the metric, positive for better."""
    standard_error: float
    """Of the gain, by bootstrap over groups."""
    taken: bool

    def __str__(self) -> str:
        return f"{self.gain:+.4f} (standard error {self.standard_error:.4f})"


@dataclass(frozen=True, slots=True)
class Choice:
    """A policy, the steps that led to it, and in a line why it is this one."""

    policy: Policy
    steps: tuple[Step, ...] = ()
    why: str = ""

    def __str__(self) -> str:
        return f"{self.policy}: {self.why}" if self.why else str(self.policy)


@dataclass(frozen=True, slots=True)
class Search:
    """The search over saved views; row losses of what needs no fitting are kept, whichever rows are
    asked about.
    """

    saved: SavedViews
    metric: Metric
    budget: int
    merges: Sequence[str]
    weightings: Sequence[str]
    losses: dict[Policy, np.ndarray] = field(default_factory=dict)

    def row_losses(self, policy: Policy, rows: np.ndarray) -> np.ndarray:
        """Return each row's log loss at the temperature that suits the policy best on these rows.

        It is smooth where scores of decisions jump; merges differ in how sure they are, which
        decides nothing.
        """
        if policy not in self.losses:
            logits_NC = policy.apply(self.saved.logits_VNC, self.saved.names)
            own = np.arange(len(logits_NC)), self.saved.rows.label_N
            temperatures = TEMPERATURES if self.metric is not METRICS["log_loss"] else (1.0,)
            losses = [-log_softmax(logits_NC / one)[own] for one in temperatures]
            self.losses[policy] = np.stack(losses, axis=1).astype(np.float32)
        losses_NT = self.losses[policy][rows].astype(np.float64)
        return losses_NT[:, losses_NT.mean(axis=0).argmin()]

    def path(self, rows: np.ndarray) -> list[Policy]:
        """Return identity and what greedy forward search adds to it, a view at a time, while that
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
        """Return policies fitted on these rows: of 1, 2, .. up to `budget` views, then weighted
        ones of the last.
        """
        path = self.path(rows)
        full = [*path, *[path[-1]] * (self.budget - len(path))]
        if len(path) == 1:
            return full + [IDENTITY] * len(self.weightings)
        return full + [
            weighted(self.saved.take(rows), path[-1].views, one) for one in self.weightings
        ]

    def held_out(self, rows: np.ndarray, num_candidates: int) -> list[np.ndarray]:
        """Return each candidate's logits N x C, of every row as the groups of other parts would
        have it.
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
            apart = rows[part_N == part]
            others = rows[part_N != part]
            for logits_NC, policy in zip(held, self.candidates(others), strict=True):
                logits_NC[part_N == part] = policy.apply(saved.logits_VNC[:, apart], saved.names)
        return held

    def __call__(self, rows: np.ndarray) -> Choice:
        """Return the choice on these rows, identity where no candidate earns its place."""
        num_groups = len(np.unique(self.saved.rows.group_N[rows]))
        if num_groups < FEWEST_GROUPS:
            return Choice(IDENTITY, why=f"{num_groups} groups are too few to choose on")
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
        return Choice(
            policy, steps, f"{_why(steps)} of {self.metric.title}, on people not used for choosing"
        )


@dataclass(frozen=True, slots=True)
class _Scored:
    """Scores of a candidate, greater is better: of other people's choices, and of the final
    choice.
    """

    held: Score
    fitted: float


def _climb(
    policies: Sequence[Policy], scored: Callable[[int], _Scored]
) -> tuple[Policy, tuple[Step, ...]]:
    """Return the last candidate that was taken, from the first on, in order of cost; and all that
    were tried.

    One is taken over the present one where its gain on people who had no say in either exceeds the
    gain's standard error, and where the very policy is better on all of them. So views are added
    one at a time, or as few together as earn it.
    """
    present = 0
    steps = []
    for place, policy in enumerate(policies):
        if policy in (policies[present], policies[max(place - 1, 0)]):
            continue
        new = scored(place)
        old = scored(present)
        gained = gain(new.held, old.held)
        taken = gained.exceeds() and new.fitted > old.fitted
        steps.append(Step(policy, policies[present], gained.value, gained.error, taken))
        present = place if taken else present
    return policies[present], tuple(steps)


def _why(steps: Sequence[Step]) -> str:
    """Return what was gained step by step, or what came nearest to a gain."""
    taken = [step for step in steps if step.taken]
    if taken:
        return "gained " + ", then ".join(map(str, taken))
    nearest = max(steps, key=lambda step: step.gain - step.standard_error)
    return (
        f"nothing earned more than its standard error; nearest came {nearest.policy} with {nearest}"
    )


def searched(
    saved: SavedViews,
    *,
    metric: str = "f1_macro",
    budget: int = 4,
    merges: Sequence[str] = tuple(MERGES),
    weightings: Sequence[str] = tuple(WEIGHTINGS),
) -> Search:
    """Return the search for the best policy of at most `budget` forward passes, to be asked about
    any rows.

    Raises ValueError for a budget below 1 or an unknown name.
    """
    if budget < 1:
        raise ValueError(f"budget {budget}: an image is seen at least once")
    named: list[tuple[Sequence[str], Collection[str]]] = [
        ([metric], METRICS),
        (merges, MERGES),
        (weightings, WEIGHTINGS),
    ]
    for names, known in named:
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: unknown; there are {', '.join(known)}")
    return Search(saved, METRICS[metric], min(budget, len(saved.names)), merges, weightings)


def choose(saved: SavedViews, **settings: Any) -> Choice:
    """Return the best policy on all rows; settings are those of `searched`."""
    return searched(saved, **settings)(np.arange(len(saved.rows)))


def weighted(saved: SavedViews, views: Sequence[str], weighting: str) -> Policy:
    """Return the mean of these views with weights learned on all rows; what has next to no say is
    left out.
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
    """Return the fit of weights for given views, to be asked about any rows."""
    return lambda rows: Choice(weighted(saved.take(rows), views, weighting))
