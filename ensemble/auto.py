"""Try several methods of blending, score each by nested cross-validation, and choose or average."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.choose import (
    averaging_optimism,
    chances,
    score_logits,
    selection_optimism,
    simplest,
)
from ensemble.crossfit import CrossFitted, Split, cross_fit, cross_fit_offsets, in_turn, splits_of
from ensemble.methods.base import Evidence, Fitted, Method
from ensemble.methods.mixture import MIXTURE, Mixture, decided
from ensemble.methods.vote import soft_vote
from foldblend.image_columns import ImageColumns
from foldblend.progress import track
from foldblend.scores.averaged import over_repeats
from foldblend.scores.metrics import KAPPA, log_softmax, softmax
from foldblend.scores.score import Gain, Score, gain, score_of

__all__ = [
    "PREFERS",
    "SCORE",
    "SIMPLE",
    "Blended",
    "Trial",
    "Tried",
    "apply",
    "blend_arrays",
    "blend_cross_fitted",
    "nested_once_more",
]

SCORE = "score"
SIMPLE = "simple"
# Standard errors that offsets must gain on held-out groups, where simple blends are preferred. One
# is not enough, because offsets are searched for and easily gain as much by chance: with one, 42 of
# 94 simulated data sets (benchmarks/honesty.py, seeds from 10,200 on) used offsets, and scored no
# better on new data.
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
    """What offsets in full strength gain on held-out groups, whether they are used or not."""
    strength: float = 0.0
    """Factor from 0 to 1 by which the fitted offsets are multiplied."""
    parts: tuple[Fitted, ...] = ()
    """The fit on the other folds of each split; none for a method that fits nothing."""
    without_offsets_NC: np.ndarray | None = None
    """Out-of-fold logits without offsets; None if `logits_NC` has none."""

    def plain(self) -> np.ndarray:
        """Return the out-of-fold logits without offsets, N x C float32."""
        return self.logits_NC if self.without_offsets_NC is None else self.without_offsets_NC

    @property
    def label(self) -> str:
        if self.name == MIXTURE:
            return "a mean of methods"
        return f"{self.name} + offsets" if self.offsets_C.any() else self.name


@dataclass(frozen=True, slots=True)
class Blended:
    """All methods that were tried, in the order of METHODS, and what is made of them."""

    trials: tuple[Trial, ...]
    chosen: Trial
    """One of the trials, or the mean of several."""
    weight_S: np.ndarray
    """Weight of each trial in the chosen one; the sum is 1."""
    optimism: float
    """How much too high the chosen one's score is expected to be, because it was chosen."""
    of_means: bool = False
    """Whether weights follow the scores of means over repeats, which a submission has too."""

    @property
    def is_choice(self) -> bool:
        """True if one of the trials was chosen, False for a mean of several."""
        return bool(np.count_nonzero(self.weight_S) == 1)

    @property
    def expected(self) -> Score:
        """The score of the chosen method, corrected for the optimism."""
        return self.chosen.nested.minus(self.optimism)


def apply(
    fitted: Fitted,
    offsets_C: np.ndarray,
    logits: Iterable[np.ndarray],
    columns: ImageColumns | None = None,
) -> np.ndarray:
    """Return the logits N x C float64 of a fitted method with its decision rule."""
    return decided(fitted(logits, columns), offsets_C)


def _share_of_samples(moved: Score, plain: Score) -> float:
    """Return the share of bootstrap samples in which offsets raise the score."""
    gain_B = moved.minus(plain).resamples_B
    gain_B = gain_B[np.isfinite(gain_B)]
    return float((gain_B > 0).mean()) if len(gain_B) else 0.0


def _all_or_nothing(moved: Score, plain: Score) -> float:
    """Return 1 if offsets raise the score by 2.5 standard errors, and 0 otherwise."""
    return float(gain(moved, plain).exceeds(ENOUGH))


@dataclass(frozen=True, slots=True)
class Tried:
    """A cross-fitted method with its cross-fitted offsets, before it is decided how strong."""

    name: str
    found: CrossFitted
    moved_NC: np.ndarray | None
    """Its logits with offsets in full strength; None where all offsets are zero."""
    offsets_C: np.ndarray
    """The offsets fitted on all rows."""


def _trial(
    evidence: Evidence,
    tried: Tried,
    strength_of: Callable[[Score, Score], float] = _share_of_samples,
) -> Trial:
    """Return a method with offsets as strong as held-out groups suggest.

    `strength_of` takes the scores with and without offsets.
    """
    logits_NC = tried.found.logits_NC
    moved_NC = tried.moved_NC
    nested = score_logits(evidence, logits_NC)
    gained = Gain(0.0, 0.0)
    strength = 0.0
    if moved_NC is not None:
        moved = score_logits(evidence, moved_NC)
        gained = gain(moved, nested)
        strength = strength_of(moved, nested) if tried.offsets_C.any() else 0.0
        if strength == 1:
            logits_NC = moved_NC
            nested = moved
        elif strength:
            plain_NC = log_softmax(logits_NC)
            part_NC = strength * (log_softmax(moved_NC) - plain_NC)
            logits_NC = log_softmax(plain_NC + part_NC).astype(np.float32)
            nested = score_logits(evidence, logits_NC)
    final = tried.found.final
    offsets_C = strength * tried.offsets_C
    fitted_NC = decided(evidence.answer(final), offsets_C)
    in_sample = score_logits(evidence, fitted_NC, resampled=False).value
    parts = tried.found.parts
    return Trial(
        tried.name,
        logits_NC,
        nested,
        in_sample,
        final,
        offsets_C,
        gained,
        strength,
        parts,
        tried.found.logits_NC if offsets_C.any() else None,
    )


def _mean_of(evidence: Evidence, trials: Sequence[Trial]) -> Blended:
    """Average the trials' probabilities, weighted by how often each would score best.

    A test set is predicted by the mean of several models. Where a repeated cross-validation shows
    what such a mean scores, the weights are by this score.
    """
    proba_SNC = np.stack([softmax(trial.logits_NC).astype(np.float32) for trial in trials])
    scores = [trial.nested for trial in trials]
    averaged = [over_repeats(evidence.rows, proba_NC) for proba_NC in proba_SNC]
    of_means = averaged[0] is not None
    if of_means:
        scores = [score_of(evidence.score, *one) for one in averaged if one is not None]
    weight_S = chances(scores)
    # The weights follow `scores`; the optimism is that of the score which is reported.
    optimism = averaging_optimism(evidence, proba_SNC, scores, weight_S)
    used = np.flatnonzero(weight_S).tolist()
    if len(used) == 1:
        return Blended(tuple(trials), trials[used[0]], weight_S, optimism, of_means)
    final = Mixture(
        tuple(trials[place].name for place in used),
        tuple(trials[place].final for place in used),
        tuple(weight_S[used].tolist()),
        np.stack([trials[place].offsets_C for place in used]),
    )
    logits = (trials[place].logits_NC for place in used)
    logits_NC = soft_vote(logits, final.weights).astype(np.float32)
    in_sample = score_logits(evidence, evidence.answer(final), resampled=False).value
    mean = Trial(
        MIXTURE,
        logits_NC,
        score_logits(evidence, logits_NC),
        in_sample,
        final,
        np.zeros(evidence.num_classes),
        Gain(0.0, 0.0),
        without_offsets_NC=_plain_mean(trials, weight_S) if final.offsets_SC.any() else None,
    )
    return Blended(tuple(trials), mean, weight_S, optimism, of_means)


def _plain_mean(trials: Sequence[Trial], weight_S: np.ndarray) -> np.ndarray:
    """Return the soft vote of the trials' logits without offsets, N x C float32."""
    used = np.flatnonzero(weight_S).tolist()
    logits = (trials[place].plain() for place in used)
    return soft_vote(logits, weight_S[used].tolist()).astype(np.float32)


def _simplest_of(evidence: Evidence, trials: Sequence[Trial]) -> Blended:
    """Choose the simplest trial within one standard error of the best."""
    scores = [trial.nested for trial in trials]
    place = simplest(scores)
    weight_S = np.eye(len(trials))[place]
    return Blended(tuple(trials), trials[place], weight_S, selection_optimism(scores))


@dataclass(frozen=True, slots=True)
class Prefer:
    """Preference of a blend: how trials become one prediction, and how strong offsets are."""

    choose: Callable[[Evidence, Sequence[Trial]], Blended]
    strength_of: Callable[[Score, Score], float]
    averaged: bool
    """Whether the factor of offsets is averaged over bootstrap samples (see `fit_offsets`)."""
    without_offsets: tuple[str, ...] = ()
    """Metrics for which no offsets are tried."""


PREFERS: dict[str, Prefer] = {
    SCORE: Prefer(_mean_of, _share_of_samples, averaged=True),
    # Earlier versions, whose blends this repeats, had no offsets for quadratic kappa.
    SIMPLE: Prefer(_simplest_of, _all_or_nothing, averaged=False, without_offsets=(KAPPA,)),
}


def blend_arrays(
    evidence: Evidence,
    methods: Mapping[str, Method],
    *,
    decide: bool = True,
    prefer: str = SCORE,
) -> Blended:
    """Cross-fit and score every method, and average them or choose one.

    Parameters
    ----------
    evidence
        Out-of-fold logits of the members, with labels, groups and folds.
    methods
        The methods to try, simplest first.
    decide
        Try offsets per class for each method.
    prefer
        A key of PREFERS. With "score" the methods' probabilities are averaged, each weighted by the
        share of bootstrap samples of groups in which it scores best (see `chances`), and offsets
        are multiplied by the share of samples in which they help. With "simple" the simplest method
        within one standard error of the best is chosen (see `simplest`), and offsets are used where
        they gain more than 2.5 standard errors on held-out groups.

    Returns
    -------
    Blended
        A trial of each method, what was made of them, and its optimism.

    Raises
    ------
    ValueError
        If something has to be fitted and a repeat has a single fold.
    """
    fits = decide or any(method.fits for method in methods.values())
    splits: Sequence[Split] = splits_of(evidence) if fits else ()
    found = cross_fit(evidence, splits, methods)
    return blend_cross_fitted(evidence, splits, found, decide=decide, prefer=prefer)


def blend_cross_fitted(
    evidence: Evidence,
    splits: Sequence[Split],
    found: Mapping[str, CrossFitted],
    *,
    decide: bool = True,
    prefer: str = SCORE,
) -> Blended:
    """Add offsets to cross-fitted methods, and average them or choose one; see `blend_arrays`."""
    how = PREFERS[prefer]
    moved: Sequence[tuple[np.ndarray | None, np.ndarray]] = [
        (None, np.zeros(evidence.num_classes))
    ] * len(found)
    if decide and evidence.score.name not in how.without_offsets:
        logits = [one.logits_NC for one in found.values()]
        moved = cross_fit_offsets(evidence, splits, logits, averaged=how.averaged)
    tried = [
        Tried(name, one, *both) for (name, one), both in zip(found.items(), moved, strict=True)
    ]
    # The bootstrap of each method is the slow part, so methods are scored in parallel.
    trials = in_turn(lambda one: _trial(evidence, one, how.strength_of), tried)
    return how.choose(evidence, trials)


def nested_once_more(
    evidence: Evidence,
    methods: Mapping[str, Method],
    *,
    decide: bool = True,
    prefer: str = SCORE,
) -> Score:
    """Return the score of the whole procedure, including the choice of the method.

    For each fold, `blend_arrays` runs on the other folds only, and what it makes of the methods
    predicts this fold. So it takes as many times as long as there are folds. The other folds are
    of one repeat, so weights follow the scores of single models here.
    """
    logits_NC = np.full((len(evidence.rows), evidence.num_classes), np.nan, np.float32)
    for split in track(splits_of(evidence), "cross-validate the choice", unit="folds"):
        on = evidence.take(split.others)
        inner = blend_arrays(on, methods, decide=decide, prefer=prefer).chosen
        held_NC = evidence.answer(inner.final, split.rows)
        logits_NC[split.rows] = decided(held_NC, inner.offsets_C)
    return score_logits(evidence, logits_NC)
