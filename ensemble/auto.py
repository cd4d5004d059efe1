"""Several ways of combining members, each scored on people who had no say in it, and the one that is taken."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.choose import Score, choosing_flatters, gain, score_of, simplest
from ensemble.method import Evidence, Fitted, Method
from ensemble.nested import Split, cross_fit, cross_fit_offsets, in_turn, splits_of
from reports.metrics import log_softmax

__all__ = ["Blended", "Trial", "apply", "blend_arrays", "nested_once_more"]

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Trial:
    """A method, with its decision rule where that earns its place."""

    name: str
    logits_NC: np.ndarray
    """Cross-fitted stage by stage, float32: each stage was fitted on other people's rows of the stage before."""
    nested: Score
    in_sample: float
    """The score of what is fitted on all rows, on those rows; greater is better."""
    final: Fitted
    offsets_C: np.ndarray
    """Zeros where the decision rule brings nothing."""
    offsets_gain: tuple[float, float]
    """What offsets gain on other people, and the standard error of that, whether they are kept or not."""


@dataclass(frozen=True, slots=True)
class Blended:
    """All that were tried, in the order of METHODS, which was taken, and what taking it so is worth."""

    trials: tuple[Trial, ...]
    chosen: Trial
    flatters: float
    """By how much choosing among them is expected to flatter the chosen one's score."""
    logits_NC: np.ndarray
    """Cross-fitted, float32: each fold's by the method, and the decision rule, that the other folds' people choose."""
    nested: Score
    """Of these, so of choosing too."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A method's cross-fitted logits N x C, the same with offsets if any were fitted, and all rows' offsets C."""

    plain_NC: np.ndarray
    moved_NC: np.ndarray | None
    offsets_C: np.ndarray


def apply(fitted: Fitted, offsets_C: np.ndarray, logits: Iterable[np.ndarray]) -> np.ndarray:
    """Return a fitted method's logits N x C float64, with its decision rule."""
    blended_NC = fitted(logits)
    # Where there is no decision rule, logits stay to the bit.
    return log_softmax(log_softmax(blended_NC) + offsets_C) if offsets_C.any() else blended_NC


@dataclass(frozen=True, slots=True)
class _Judged:
    """A candidate's logits on some rows, with offsets if these rows say so."""

    logits_NC: np.ndarray
    score: Score
    has_offsets: bool
    gained: tuple[float, float]


def _judge(evidence: Evidence, candidate: _Candidate, rows: np.ndarray | None = None) -> _Judged:
    """Return a candidate as all rows, or these, would have it: offsets must gain more than their standard error."""
    truth = evidence if rows is None else evidence.without_members(rows)
    at = slice(None) if rows is None else rows
    plain_NC = candidate.plain_NC[at]
    plain = score_of(truth, plain_NC)
    if candidate.moved_NC is None:
        return _Judged(plain_NC, plain, False, (0.0, 0.0))
    moved_NC = candidate.moved_NC[at]
    moved = score_of(truth, moved_NC)
    gained = gain(moved, plain)
    # What other people's rows say of a fold's offsets is in its logits already; all rows' must not be zeros.
    wanted = rows is not None or candidate.offsets_C.any()
    if wanted and gained[0] > gained[1]:
        return _Judged(moved_NC, moved, True, gained)
    return _Judged(plain_NC, plain, False, gained)


def _crossed(
    evidence: Evidence, splits: Sequence[Split], candidates: Sequence[_Candidate], chosen_NC: np.ndarray
) -> np.ndarray:
    """Return logits N x C, every split's of the method that its other people choose, with offsets if they say so."""
    if not splits or (len(candidates) == 1 and candidates[0].moved_NC is None):
        return chosen_NC

    def choose(split: Split) -> np.ndarray:
        judged = [_judge(evidence, one, split.others) for one in candidates]
        place = simplest([one.score for one in judged])
        found = candidates[place].moved_NC if judged[place].has_offsets else candidates[place].plain_NC
        assert found is not None
        return np.asarray(found[split.rows])

    logits_NC = np.full_like(chosen_NC, np.nan)
    for split, found_NC in zip(splits, in_turn(choose, splits), strict=True):
        logits_NC[split.rows] = found_NC
    return logits_NC


def _tried(
    evidence: Evidence, splits: Sequence[Split], methods: Mapping[str, Method], *, decide: bool, say: Say
) -> tuple[list[_Candidate], tuple[Trial, ...], int]:
    """Return every method cross-fitted, what becomes of it, and the place of the one that all rows choose."""
    found = cross_fit(evidence, splits, methods, say=say)
    moved: Sequence[tuple[np.ndarray | None, np.ndarray]] = [(None, np.zeros(evidence.num_classes))] * len(found)
    if decide:
        moved = cross_fit_offsets(evidence, splits, [one.logits_NC for one in found.values()])
        say("fitted decision rules")
    candidates = [_Candidate(one.logits_NC, *both) for one, both in zip(found.values(), moved, strict=True)]
    judged = in_turn(lambda one: _judge(evidence, one), candidates)
    trials = []
    for (name, one), candidate, verdict in zip(found.items(), candidates, judged, strict=True):
        offsets_C = candidate.offsets_C if verdict.has_offsets else np.zeros(evidence.num_classes)
        in_sample = score_of(evidence, apply(one.final, offsets_C, evidence.logits_MNC), resampled=False).value
        trials.append(Trial(name, verdict.logits_NC, verdict.score, in_sample, one.final, offsets_C, verdict.gained))
    return candidates, tuple(trials), simplest([trial.nested for trial in trials])


def _splits(evidence: Evidence, fold_N: np.ndarray, methods: Mapping[str, Method], *, decide: bool) -> Sequence[Split]:
    """Return the splits that are needed: none where nothing is fitted or chosen, or a choice has but one fold."""
    fits = decide or any(method.fits for method in methods.values())
    chooses = len(methods) > 1 and len(np.unique(fold_N)) > 1
    return splits_of(evidence, fold_N) if fits or chooses else ()


def blend_arrays(
    evidence: Evidence,
    fold_N: np.ndarray,
    methods: Mapping[str, Method],
    *,
    decide: bool = True,
    say: Say = lambda _: None,
) -> Blended:
    """Return every method cross-fitted and scored on people who had no say in it, and the simplest of the best.

    `fold_N` are the folds of the cross-validation; with `decide` the decision rule is tried on each method, and
    kept where it gains more than its standard error on other people. The choice is a stage like any other: what is
    written for a fold is by the method that the other folds choose. Raises ValueError where there is but one fold.
    """
    splits = _splits(evidence, fold_N, methods, decide=decide)
    candidates, trials, place = _tried(evidence, splits, methods, decide=decide, say=say)
    flatters = choosing_flatters([trial.nested for trial in trials])
    logits_NC = _crossed(evidence, splits, candidates, trials[place].logits_NC)
    return Blended(trials, trials[place], flatters, logits_NC, score_of(evidence, logits_NC))


def nested_once_more(
    evidence: Evidence,
    fold_N: np.ndarray,
    methods: Mapping[str, Method],
    *,
    decide: bool = True,
    say: Say = lambda _: None,
) -> Score:
    """Return the score of the whole procedure, choice of the method included, on people who had no say in any of it.

    Everything is done anew on the people of all folds but one, for each fold: as often as there are folds.
    """
    logits_NC = np.full((len(evidence.label_N), evidence.num_classes), np.nan, np.float32)
    for split in splits_of(evidence, fold_N):
        inner, inner_folds = evidence.rows(split.others), fold_N[split.others]
        splits = _splits(inner, inner_folds, methods, decide=decide)
        _, trials, place = _tried(inner, splits, methods, decide=decide, say=lambda _: None)
        held = [one[split.rows] for one in evidence.logits_MNC]
        logits_NC[split.rows] = apply(trials[place].final, trials[place].offsets_C, held)
        say(f"without repeat {split.repeat} fold {split.fold}: {trials[place].name}")
    return score_of(evidence, logits_NC)
