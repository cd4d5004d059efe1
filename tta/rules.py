"""Rules that take one of the candidate policies, by their scores on held-out groups.

On simulated data sets, the candidate with the best score gains more on new groups than the one
whose views each improve the score by more than one standard error (see docs/tta.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from foldblend.scores.metrics import Metric, softmax
from foldblend.scores.score import Gain, Score, gain, score_of
from tta.policy import IDENTITY, Policy, SavedViews

__all__ = ["FEWEST_GROUPS", "RULES", "SCORE", "SIMPLE", "Candidates", "Choice", "Step", "decide"]

# With fewer groups, scores on held-out groups are too uncertain to decide anything.
FEWEST_GROUPS = 10
SCORE = "score"
SIMPLE = "simple"


@dataclass(frozen=True, slots=True)
class Step:
    """A policy that was compared with another one on held-out groups."""

    policy: Policy
    over: Policy
    """The policy it was compared with."""
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
class Candidates:
    """Candidate policies, identity first, and their logits on held-out groups."""

    policies: Sequence[Policy]
    """Fitted on all rows."""
    held: Sequence[np.ndarray]
    """Logits N x C of each candidate, fitted on the parts without the row's group. Empty where all
    are identity.
    """
    saved: SavedViews
    """Logits of all views of these rows."""
    metric: Metric
    known: dict[int, Score] = field(default_factory=dict)
    """Scores of candidates that were computed already, by their places."""

    @property
    def distinct(self) -> list[int]:
        """The places of the first of equal policies each, without identity."""
        return [
            place
            for place, policy in enumerate(self.policies)
            if policy != IDENTITY and policy not in self.policies[:place]
        ]

    def score(self, place: int) -> Score:
        """Return a candidate's score on held-out groups, with its bootstrap samples."""
        if place not in self.known:
            self.known[place] = score_of(self.metric, self.saved.rows, softmax(self.held[place]))
        return self.known[place]

    def value(self, place: int) -> float:
        """Return a candidate's score on held-out groups; greater is better."""
        return self._value(self.held[place])

    def fitted(self, place: int) -> float:
        """Return the score of a candidate on the rows that it was fitted on; greater is better."""
        policy = self.policies[place]
        return self._value(policy.apply(self.saved.logits_VNC, self.saved.names))

    def gain(self, place: int, over: int = 0) -> Gain:
        """Return a candidate's gain over another one on held-out groups."""
        return gain(self.score(place), self.score(over))

    def _value(self, logits_NC: np.ndarray) -> float:
        proba_NC = softmax(logits_NC)
        return score_of(self.metric, self.saved.rows, proba_NC, resampled=False).value


def _best(candidates: Candidates) -> Choice:
    """Return the candidate with the best score on held-out groups, the cheapest of equal ones.

    Identity stays where no candidate has a better score than it there. A candidate must also score
    no worse than identity on the rows that it was fitted on.
    """
    policies = candidates.policies
    metric = candidates.metric.title
    groups = candidates.saved.rows.groups
    value_of = {place: candidates.value(place) for place in (0, *candidates.distinct)}
    places = [place for place in candidates.distinct if np.isfinite(value_of[place])]
    if not places or not np.isfinite(value_of[0]):
        return Choice(IDENTITY, why=f"{metric} is not defined on held-out {groups}")
    places.sort(key=lambda place: (-value_of[place], policies[place].passes))
    improved = [place for place in places if value_of[place] > value_of[0]]
    kept = [place for place in improved if candidates.fitted(place) >= candidates.fitted(0)]
    first = (kept or places)[0]
    step = Step(policies[first], IDENTITY, *candidates.gain(first), taken=bool(kept))
    if kept:
        among = f" of {len(places)} policies" if len(places) > 1 else ""
        why = f"the best score{among} on held-out {groups}: {metric} improves by {step}"
        return Choice(step.policy, (step,), why)
    missed = f"both on held-out {groups} and on all rows" if improved else f"on held-out {groups}"
    why = (
        f"no policy improves {metric} {missed}. The closest is {step.policy}, with a gain of {step}"
        f" on held-out {groups}"
    )
    return Choice(IDENTITY, (step,), why)


def _climb(candidates: Candidates) -> Choice:
    """Return the candidate that is reached by steps of more than one standard error.

    Candidates are gone through in order of cost. One replaces the current one if its gain on
    held-out groups exceeds the gain's standard error and if the policy fitted on all rows is better
    as well. So views are added one at a time, or as few together as are needed for such a gain.
    """
    policies = candidates.policies
    current = 0
    steps = []
    for place, policy in enumerate(policies):
        if policy in (policies[current], policies[max(place - 1, 0)]):
            continue
        gained = candidates.gain(place, current)
        taken = gained.exceeds() and candidates.fitted(place) > candidates.fitted(current)
        steps.append(Step(policy, policies[current], gained.value, gained.error, taken))
        current = place if taken else current
    why = _why(steps, candidates.metric.title, candidates.saved.rows.groups)
    return Choice(policies[current], tuple(steps), why)


def _why(steps: Sequence[Step], metric: str, groups: str) -> str:
    """Return the gain of each step of `_climb`, or which policy was closest to a gain.

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


RULES: Mapping[str, Callable[[Candidates], Choice]] = {SCORE: _best, SIMPLE: _climb}
"""Rules by their names in --prefer."""


def decide(candidates: Candidates, prefer: str) -> Choice:
    """Return the choice of the rule of this name.

    Examples
    --------
    >>> from foldblend.scores.metrics import METRICS
    >>> from foldblend.scores.rows import Rows
    >>> rows = Rows.of(np.array([0, 1]), np.array(["ann", "bob"]), group_name="person")
    >>> saved = SavedViews(("identity",), np.zeros((1, 2, 2), np.float32), rows)
    >>> print(decide(Candidates([IDENTITY], [], saved, METRICS["accuracy"]), SCORE))
    No augmentation is used: 2 people are too few to choose views.
    """
    rows = candidates.saved.rows
    if rows.num_groups < FEWEST_GROUPS:
        why = f"{rows.num_groups} {rows.groups} are too few to choose views"
        return Choice(IDENTITY, why=why)
    if set(candidates.policies) == {IDENTITY}:
        return Choice(IDENTITY, why="no view lowers the log loss")
    return RULES[prefer](candidates)
