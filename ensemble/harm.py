"""Score a blend without each of its members, and name those without which it is better."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.auto import Blended, Trial, blend_arrays
from ensemble.crossfit import Split, in_turn
from ensemble.leave_out import Without, vote_without, without
from ensemble.methods.base import Evidence, Fitted, Method
from ensemble.methods.vote import Vote
from ensemble.subsets import few
from foldblend.ahead import ahead, threads_for
from foldblend.blocks import in_blocks
from foldblend.errors import UserError
from foldblend.progress import Task, track
from foldblend.scores.metrics import Metric, log_softmax, softmax
from foldblend.scores.rows import Rows
from foldblend.scores.score import Score, left_out_score

__all__ = [
    "Harm",
    "MethodsOf",
    "is_above_0",
    "leave_out_again",
    "leave_out_each",
    "leave_out_of_vote",
]

MethodsOf = Callable[[tuple[int, ...]], Mapping[str, Method]]
"""Function from the members that are left to the methods that are tried on them."""


def is_above_0(gain: Score) -> bool:
    """Return whether the 95 % interval of a difference is above 0, in which greater is better."""
    found = gain.interval()
    return bool(min(gain.sign * found.low, gain.sign * found.high) > 0)


@dataclass(frozen=True, slots=True)
class Harm:
    """The score of a blend without a member."""

    name: str
    score: Score | None
    """None where no blend is left without it."""
    gain: Score | None
    """Its difference to the score of the blend of all members; above 0 the member hurts."""

    @property
    def hurts(self) -> bool:
        """Return whether the interval of the gain lies above 0."""
        return self.gain is not None and is_above_0(self.gain)


@dataclass(frozen=True, slots=True)
class _Part:
    """A fitted method of a blend on the rows that it predicts."""

    method: str
    weight: float
    """Weight of the method in the blend."""
    rows: np.ndarray
    others: np.ndarray
    """Rows that it was fitted on."""
    fitted: Fitted
    leave_out: Without
    logits_NC: np.ndarray
    """Its logits of these rows, before the decision rule."""
    moves_NC: np.ndarray | float
    """What the offsets of the decision rule add to its logits; 0 without offsets."""


def _parts(evidence: Evidence, splits: Sequence[Split], trial: Trial, weight: float) -> list[_Part]:
    """Return the fits of a method on all splits, ready to leave members out."""
    every = np.arange(len(evidence.rows))
    work: list[tuple[Fitted, np.ndarray, np.ndarray]] = [(trial.final, every, every)]
    if trial.parts:
        work = [
            (fitted, split.rows, split.others)
            for fitted, split in zip(trial.parts, splits, strict=True)
        ]

    def part(task: tuple[Fitted, np.ndarray, np.ndarray]) -> _Part:
        fitted, rows, others = task
        logits_NC = evidence.answer(fitted, rows)
        # Offsets stay as they are. Constants of a row do not change its probabilities.
        moves_NC = trial.logits_NC[rows] - log_softmax(logits_NC) if trial.strength else 0.0
        leave_out = without(fitted, evidence.take(others) if trial.parts else evidence)
        return _Part(trial.name, weight, rows, others, fitted, leave_out, logits_NC, moves_NC)

    return in_turn(part, work)


def _subtracted(part: _Part, logits_NC: np.ndarray, member: int) -> np.ndarray | None:
    """Return a vote without a member from the vote of all, which is much faster than a new one.

    It is None for other methods, and where the vote has no other member.
    """
    vote = part.fitted
    if not isinstance(vote, Vote):
        return None
    scaled_NC = logits_NC[part.rows] / vote.temperatures[member]
    return vote_without(vote.pool, part.logits_NC, scaled_NC, vote.shares[member])


def _left_out(
    evidence: Evidence, parts: Sequence[_Part], methods_of: MethodsOf, member: int
) -> Score | None:
    """Return the score of the parts of a blend without a member, or None if nothing is left."""
    left = tuple(one for one in range(len(evidence.logits_MNC)) if one != member)
    others = few(evidence, left)
    proba_NC = np.zeros((len(evidence.rows), evidence.num_classes), np.float32)
    for part in parts:
        logits_NC = _subtracted(part, evidence.logits_MNC[member], member)
        if logits_NC is None:
            fitted = part.leave_out(member)
            if fitted is None:
                try:
                    fitted = methods_of(left)[part.method].fit(others.take(part.others))
                except UserError:  # no member is cheap enough for a budget
                    return None
            logits_NC = others.answer(fitted, part.rows)
        proba_NC[part.rows] += np.float32(part.weight) * softmax(logits_NC + part.moves_NC)
    return left_out_score(evidence.score, evidence.rows, proba_NC)


def leave_out_each(
    evidence: Evidence,
    splits: Sequence[Split],
    blended: Blended,
    methods_of: MethodsOf,
    names: Sequence[str],
) -> list[Harm]:
    """Score a blend without each member, with the weights of methods and offsets that it has.

    Parameters
    ----------
    evidence
        Out-of-fold logits of all members, at least two.
    splits
        The splits on which the blend was cross-fitted.
    blended
        The blend.
    methods_of
        Returns the methods for the members that are left. They are fitted again only where
        `without` cannot leave out a member.
    names
        Names of the members.

    Returns
    -------
    list of Harm
        In the order of the members.
    """
    used = [
        (trial, float(weight))
        for trial, weight in zip(blended.trials, blended.weight_S, strict=True)
        if weight
    ]
    parts = [part for trial, weight in used for part in _parts(evidence, splits, trial, weight)]
    whole = left_out_score(evidence.score, evidence.rows, softmax(blended.chosen.logits_NC))
    with Task("leave out each member", len(names), unit="members") as task:

        def harm(member: int) -> Harm:
            score = _left_out(evidence, parts, methods_of, member)
            task.add()
            return Harm(names[member], score, None if score is None else score.minus(whole))

        return in_turn(harm, range(len(names)))


def leave_out_again(
    evidence: Evidence,
    blended: Blended,
    methods_of: MethodsOf,
    names: Sequence[str],
    *,
    decide: bool,
    prefer: str,
) -> list[Harm]:
    """Blend the other members from the beginning for each member; see `leave_out_each`."""
    found = []
    with Task("blend without each member", len(names), unit="members") as task:
        for member, name in enumerate(names):
            left = tuple(one for one in range(len(names)) if one != member)
            try:
                again = blend_arrays(
                    few(evidence, left), methods_of(left), decide=decide, prefer=prefer
                )
            except UserError:  # no member is cheap enough for a budget
                found.append(Harm(name, None, None))
            else:
                score = again.chosen.nested
                found.append(Harm(name, score, score.minus(blended.chosen.nested)))
            task.add()
    return found


def leave_out_of_vote(
    fitted: Vote,
    vote_NC: np.ndarray,
    logits_MNC: Iterable[np.ndarray],
    rows: Rows,
    metric: Metric,
    names: Sequence[str],
) -> list[Harm]:
    """Score a vote in which nothing was fitted without each member; see `leave_out_each`.

    Members are read one after the other, so that memory does not grow with their number.
    """
    whole = left_out_score(metric, rows, softmax(vote_NC))

    def harm(member: tuple[str, np.ndarray, float]) -> Harm:
        name, logits_NC, share = member
        proba_NC = vote_without(fitted.pool, vote_NC, logits_NC, share)
        score = None
        if proba_NC is not None:
            in_blocks(softmax, proba_NC, out=proba_NC)
            score = left_out_score(metric, rows, proba_NC)
        return Harm(name, score, None if score is None else score.minus(whole))

    members = zip(names, logits_MNC, fitted.shares, strict=True)
    found = ahead(harm, members, num_threads=threads_for(vote_NC.nbytes))
    return [*track(found, "leave out each member", total=len(names), unit="members")]
