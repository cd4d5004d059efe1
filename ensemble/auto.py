"""Try several methods of blending, score each by nested cross-validation, and choose one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.choose import score_logits, selection_optimism, simplest
from ensemble.crossfit import CrossFitted, Split, cross_fit, cross_fit_offsets, in_turn, splits_of
from ensemble.methods.base import Evidence, Fitted, Method
from foldblend.progress import track
from foldblend.scores.metrics import log_softmax
from foldblend.scores.score import Gain, Score, gain

__all__ = ["Blended", "Trial", "apply", "blend_arrays", "nested_once_more"]

# Standard errors that offsets must gain on held-out groups. One is not enough, because offsets
# are searched for and easily gain as much by chance: with one, 42 of 94 simulated data sets
# (benchmarks/honesty.py, seeds from 10,200 on) used offsets, and scored no better on new data.
ENOUGH = 2.5


@dataclass(frozen=True, slots=True)
class Trial:
    """A method that was tried, with its cross-fitted logits, scores and decision rule."""

    name: str
    logits_NC: np.ndarray
    """Out-of-fold logits, float32. Each stage is cross-fitted on the output of the stage before."""
    nested: Score
    """The score of these logits (nested cross-validation); greater is better."""
    in_sample: float
    """The score on all rows of the method fitted on all rows; greater is better."""
    final: Fitted
    offsets_C: np.ndarray
    """One per class, added to log-probabilities; zeros where offsets are not used."""
    offsets_gain: Gain
    """What offsets gain on held-out groups, whether they are used or not."""

    @property
    def label(self) -> str:
        return f"{self.name} + offsets" if self.offsets_C.any() else self.name


@dataclass(frozen=True, slots=True)
class Blended:
    """All methods that were tried, in the order of METHODS, and the chosen one."""

    trials: tuple[Trial, ...]
    chosen: Trial
    optimism: float
    """How much too high the chosen method's score is expected to be, because it was chosen."""

    @property
    def expected(self) -> Score:
        """The score of the chosen method, corrected for the optimism."""
        return self.chosen.nested.minus(self.optimism)


def apply(fitted: Fitted, offsets_C: np.ndarray, logits: Iterable[np.ndarray]) -> np.ndarray:
    """Return the logits N x C float64 of a fitted method with its decision rule."""
    blended_NC = fitted(logits)
    # Without offsets, logits stay equal to the last bit.
    return log_softmax(log_softmax(blended_NC) + offsets_C) if offsets_C.any() else blended_NC


def _trial(
    evidence: Evidence,
    name: str,
    found: CrossFitted,
    moved_NC: np.ndarray | None,
    final_C: np.ndarray,
) -> Trial:
    """Return a method as a trial, with offsets if they gain enough on held-out groups.

    `moved_NC` are its logits with cross-fitted offsets, or None; `final_C` are the offsets fitted
    on all rows.
    """
    logits_NC = found.logits_NC
    nested = score_logits(evidence, found.logits_NC)
    offsets_C = np.zeros(evidence.num_classes)
    gained = Gain(0.0, 0.0)
    if moved_NC is not None:
        moved = score_logits(evidence, moved_NC)
        gained = gain(moved, nested)
        if final_C.any() and gained.exceeds(ENOUGH):
            logits_NC = moved_NC
            nested = moved
            offsets_C = final_C
    fitted_NC = apply(found.final, offsets_C, evidence.logits_MNC)
    in_sample = score_logits(evidence, fitted_NC, resampled=False).value
    return Trial(name, logits_NC, nested, in_sample, found.final, offsets_C, gained)


def blend_arrays(
    evidence: Evidence,
    methods: Mapping[str, Method],
    *,
    decide: bool = True,
) -> Blended:
    """Cross-fit and score every method, and choose the simplest of the best.

    The simplest method within one standard error of the best score is chosen (see `simplest`).

    Parameters
    ----------
    evidence
        Out-of-fold logits of the members, with labels, groups and folds.
    methods
        The methods to try, simplest first.
    decide
        Try offsets per class for each method, and use them where they gain more than 2.5 standard
        errors on held-out groups.

    Returns
    -------
    Blended
        A trial of each method, the chosen one, and the optimism of the choice.

    Raises
    ------
    ValueError
        If something has to be fitted and a repeat has a single fold.
    """
    fits = decide or any(method.fits for method in methods.values())
    splits: Sequence[Split] = splits_of(evidence) if fits else ()
    found = cross_fit(evidence, splits, methods)
    moved: Sequence[tuple[np.ndarray | None, np.ndarray]] = [
        (None, np.zeros(evidence.num_classes))
    ] * len(found)
    if decide:
        moved = cross_fit_offsets(evidence, splits, [one.logits_NC for one in found.values()])
    # The bootstrap of each method is the slow part, so methods are scored in parallel.
    tasks = [(name, one, *both) for (name, one), both in zip(found.items(), moved, strict=True)]
    trials = tuple(in_turn(lambda task: _trial(evidence, *task), tasks))
    scores = [trial.nested for trial in trials]
    return Blended(trials, trials[simplest(scores)], selection_optimism(scores))


def nested_once_more(
    evidence: Evidence,
    methods: Mapping[str, Method],
    *,
    decide: bool = True,
) -> Score:
    """Return the score of the whole procedure, including the choice of the method.

    For each fold, `blend_arrays` runs on the other folds only, and the method that it chooses
    predicts this fold. So it takes as many times as long as there are folds.
    """
    logits_NC = np.full((len(evidence.rows), evidence.num_classes), np.nan, np.float32)
    for split in track(splits_of(evidence), "cross-validate the choice", unit="folds"):
        inner = blend_arrays(evidence.take(split.others), methods, decide=decide).chosen
        held = [one[split.rows] for one in evidence.logits_MNC]
        logits_NC[split.rows] = apply(inner.final, inner.offsets_C, held)
    return score_logits(evidence, logits_NC)
