"""Several ways of combining members, each scored on people who had no say in it, and the one that
is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.choose import choosing_flatters, score_logits, simplest
from ensemble.crossfit import CrossFitted, Split, cross_fit, cross_fit_offsets, in_turn, splits_of
from ensemble.methods.base import Evidence, Fitted, Method
from foldblend.cli import Say
from foldblend.scores.metrics import log_softmax
from foldblend.scores.score import Gain, Score, gain

__all__ = ["Blended", "Trial", "apply", "blend_arrays", "nested_once_more"]


# Standard errors that offsets must gain on other people. They were searched for, so one is easily
# had by chance: of 94 simulated worlds (benchmarks/honesty.py, seeds from 10,200 on) 42 kept them
# by one, and were no better for it.
ENOUGH = 2.5


@dataclass(frozen=True, slots=True)
class Trial:
    """A method, with its decision rule where that earns its place."""

    name: str
    logits_NC: np.ndarray
    """Cross-fitted stage by stage, float32: each stage was fitted on other people's rows of the
    stage before.
    """
    nested: Score
    in_sample: float
    """The score of what is fitted on all rows, on those rows; greater is better."""
    final: Fitted
    offsets_C: np.ndarray
    """Zeros where the decision rule brings nothing."""
    offsets_gain: Gain
    """What offsets gain on other people, whether they are kept or not."""

    @property
    def label(self) -> str:
        return f"{self.name} + offsets" if self.offsets_C.any() else self.name


@dataclass(frozen=True, slots=True)
class Blended:
    """All that were tried, in the order of METHODS, and which was taken."""

    trials: tuple[Trial, ...]
    chosen: Trial
    flatters: float
    """By how much choosing among them is expected to flatter the chosen one's score."""

    @property
    def expected(self) -> Score:
        """The chosen one's score, less that."""
        return self.chosen.nested.minus(self.flatters)


def apply(fitted: Fitted, offsets_C: np.ndarray, logits: Iterable[np.ndarray]) -> np.ndarray:
    """Return a fitted method's logits N x C float64, with its decision rule."""
    blended_NC = fitted(logits)
    # Where there is no decision rule, logits stay to the bit.
    return log_softmax(log_softmax(blended_NC) + offsets_C) if offsets_C.any() else blended_NC


def _trial(
    evidence: Evidence,
    name: str,
    found: CrossFitted,
    moved_NC: np.ndarray | None,
    wanted_C: np.ndarray,
) -> Trial:
    """Return a method with the offsets C that all rows want, if what they make of its logits N x C
    gains enough.
    """
    logits_NC = found.logits_NC
    nested = score_logits(evidence, found.logits_NC)
    offsets_C = np.zeros(evidence.num_classes)
    gained = Gain(0.0, 0.0)
    if moved_NC is not None:
        moved = score_logits(evidence, moved_NC)
        gained = gain(moved, nested)
        if wanted_C.any() and gained.exceeds(ENOUGH):
            logits_NC = moved_NC
            nested = moved
            offsets_C = wanted_C
    fitted_NC = apply(found.final, offsets_C, evidence.logits_MNC)
    in_sample = score_logits(evidence, fitted_NC, resampled=False).value
    return Trial(name, logits_NC, nested, in_sample, found.final, offsets_C, gained)


def blend_arrays(
    evidence: Evidence,
    methods: Mapping[str, Method],
    *,
    decide: bool = True,
    say: Say = lambda _: None,
) -> Blended:
    """Return every method cross-fitted and scored on people who had no say in it, and the simplest
    of the best.

    With `decide` the decision rule is tried on each method, and kept where it gains 2.5 standard
    errors on other people. Raises ValueError where something is to be fitted and a repeat has but
    one fold.
    """
    fits = decide or any(method.fits for method in methods.values())
    splits: Sequence[Split] = splits_of(evidence) if fits else ()
    found = cross_fit(evidence, splits, methods, say=say)
    moved: Sequence[tuple[np.ndarray | None, np.ndarray]] = [
        (None, np.zeros(evidence.num_classes))
    ] * len(found)
    if decide:
        moved = cross_fit_offsets(evidence, splits, [one.logits_NC for one in found.values()])
        say("fitted decision rules")
    tasks = [(name, one, *both) for (name, one), both in zip(found.items(), moved, strict=True)]
    trials = tuple(in_turn(lambda task: _trial(evidence, *task), tasks))
    scores = [trial.nested for trial in trials]
    return Blended(trials, trials[simplest(scores)], choosing_flatters(scores))


def nested_once_more(
    evidence: Evidence,
    methods: Mapping[str, Method],
    *,
    decide: bool = True,
    say: Say = lambda _: None,
) -> Score:
    """Return the score of the whole procedure, choice of the method included, on people who had no
    say in any of it.

    Everything is done anew on the people of all folds but one, for each fold: as often as there are
    folds.
    """
    logits_NC = np.full((len(evidence.rows), evidence.num_classes), np.nan, np.float32)
    for split in splits_of(evidence):
        inner = blend_arrays(evidence.take(split.others), methods, decide=decide).chosen
        held = [one[split.rows] for one in evidence.logits_MNC]
        logits_NC[split.rows] = apply(inner.final, inner.offsets_C, held)
        say(f"without repeat {split.repeat} fold {split.fold}: {inner.name}")
    return score_logits(evidence, logits_NC)
