"""Drop the members that hurt a method, as a part of every fit, so that this is cross-fitted too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ensemble.harm import is_above_0
from ensemble.leave_out import without
from ensemble.methods.base import Evidence, Fitted, Method
from ensemble.subsets import few, of_members
from foldblend.scores.held_out import group_parts
from foldblend.scores.metrics import softmax
from foldblend.scores.score import Score, left_out_score

__all__ = ["dropping", "kept"]

NUM_PARTS = 3  # on which a fitted method is cross-fitted to see which members hurt it


@dataclass(frozen=True, slots=True)
class _Held:
    """A method fitted on some rows, which scores members on others."""

    fitted: Fitted
    fitted_on: np.ndarray
    rows: np.ndarray


def _held(method: Method, evidence: Evidence) -> list[_Held]:
    """Cross-fit a method within the evidence; a method that fits nothing needs one part."""
    rows = evidence.rows
    every = np.arange(len(rows))
    num_parts = min(NUM_PARTS, rows.num_groups)
    if not method.fits or num_parts < 2:
        return [_Held(method.fit(evidence), every, every)]
    part_N = group_parts(rows.label_N, rows.group_N, num_parts=num_parts)
    found = []
    for part in range(num_parts):
        on = np.flatnonzero(part_N != part)
        found.append(_Held(method.fit(evidence.take(on)), on, np.flatnonzero(part_N == part)))
    return found


def _score(evidence: Evidence, held: Sequence[_Held]) -> Score:
    proba_NC = np.empty((len(evidence.rows), evidence.num_classes), np.float32)
    for one in held:
        proba_NC[one.rows] = softmax(evidence.answer(one.fitted, one.rows))
    return left_out_score(evidence.score, evidence.rows, proba_NC)


def _fewer(evidence: Evidence, held: Sequence[_Held]) -> Callable[[int], list[_Held] | None]:
    """Return a function that leaves a member out of all parts, or None if one has no other."""
    each = [without(one.fitted, evidence.take(one.fitted_on)) for one in held]

    def leave_out(member: int) -> list[_Held] | None:
        fewer = []
        for one, leave in zip(held, each, strict=True):
            fitted = leave(member)
            if fitted is None:
                return None
            fewer.append(replace(one, fitted=fitted))
        return fewer

    return leave_out


def kept(method: Method, evidence: Evidence) -> tuple[int, ...]:
    """Return the members that do not hurt a method, by number.

    Of the members without which the method scores better, with an interval above 0, the one is
    dropped that raises the score most, and so on. A fitted method is fitted on two thirds of the
    groups and scored on the others in turn, and it is not fitted again without a member (see
    `ensemble.leave_out.without`). At least one member is kept.
    """
    left = list(range(len(evidence.logits_MNC)))
    if len(left) == 1:
        return (0,)
    held = _held(method, evidence)
    score = _score(evidence, held)
    while len(left) > 1:
        leave_out = _fewer(evidence, held)
        best: tuple[float, int, Score, list[_Held]] | None = None
        for place in range(len(left)):
            fewer = leave_out(place)
            if fewer is None:
                continue
            new = _score(few(evidence, [*range(place), *range(place + 1, len(left))]), fewer)
            gain = new.minus(score)
            if is_above_0(gain) and (best is None or gain.value > best[0]):
                best = gain.value, place, new, fewer
        if best is None:
            break
        _, place, score, held = best
        del left[place]
        evidence = few(evidence, [*range(place), *range(place + 1, len(left) + 1)])
    return tuple(left)


def dropping(method: Method) -> Method:
    """Return the method without the members that hurt it, which are found anew in every fit.

    Members hurt some methods and help others: a member that sees only some classes lowers a mean of
    probabilities and raises a stack. So each method drops its own.
    """

    def fit(evidence: Evidence) -> Fitted:
        members = kept(method, evidence)
        if len(members) == len(evidence.logits_MNC):
            return method.fit(evidence)
        return of_members(method, members).fit(evidence)

    return replace(method, fit=fit, fits=True)
