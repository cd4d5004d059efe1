"""Compare configurations on equal folds, and stop clear losers early.

A configuration is a set of settings whose cross-validation is a run. Configurations are raced: each
gets its first fold, those that are clearly worse than the best one stop, the others get the next
fold, and so on (successive halving). All predictions are on the same held-out rows, so differences
of scores are paired. `benchmarks/halving.py` measures the rules on simulated data sets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from foldblend.scores.intervals import jackknife_error
from foldblend.scores.metrics import Metric
from foldblend.scores.optimism import Optimism, selection_optimism
from foldblend.scores.rows import Rows
from foldblend.scores.score import Gain, Score, left_out_score, score_of

__all__ = [
    "ERRORS",
    "NONE",
    "PAIRED",
    "PLAIN",
    "RULES",
    "Optimism",
    "Race",
    "clear_losers",
    "helpful",
    "leads",
    "leads_of_scores",
    "race",
    "selection_optimism",
]

ERRORS = 2.0
"""Standard errors by which the best configuration must lead before another one is stopped."""
LEAST_GROUPS = 5
"""With fewer groups, standard errors are taken as unknown, and nothing is stopped."""

PAIRED = "paired"
PLAIN = "plain"
NONE = "none"


def leads(metric: Metric, rows: Rows, proba_MNC: Sequence[np.ndarray]) -> list[Gain]:
    """Return by how much the best of M configurations leads over each of them on the same rows.

    Parameters
    ----------
    metric
        The score; a metric by group pools the images of each group first.
    rows
        Labels, groups, repeats and folds of the held-out rows.
    proba_MNC
        Class probabilities N x C of each configuration on these rows.

    Returns
    -------
    list[Gain]
        For each configuration the paired score of the best one minus its own, at least 0, with the
        standard error over groups by the jackknife. It is in units of the metric, and greater is
        worse for every metric. The best one has `Gain(0, 0)`. The error is infinite where it is
        unknown, such as with fewer than 5 groups; the lead over a configuration without a score
        (ROC AUC on rows of one class) is NaN.

    Examples
    --------
    >>> from foldblend.scores.metrics import METRICS
    >>> rows = Rows.of(np.arange(20) % 2, np.arange(20))
    >>> right_NC = np.eye(2)[rows.label_N]
    >>> half_NC = np.eye(2)[np.where(np.arange(20) < 10, rows.label_N, 0)]
    >>> [tuple(round(one, 3) for one in lead)
    ...  for lead in leads(METRICS["accuracy"], rows, [half_NC, right_NC])]
    [(0.25, 0.099), (0.0, 0.0)]
    """
    return leads_of_scores(_scores(metric, rows, proba_MNC))


def leads_of_scores(scores: Sequence[Score]) -> list[Gain]:
    """Return the `leads` of configurations whose scores on the same rows are known already.

    Parameters
    ----------
    scores
        What `left_out_score` returns for each configuration.
    """
    best = _best(scores)
    if best is None:
        return [Gain(np.nan, np.inf)] * len(scores)
    return [
        Gain(0.0, 0.0) if place == best else _gain(scores[best], score)
        for place, score in enumerate(scores)
    ]


def _scores(metric: Metric, rows: Rows, proba_MNC: Sequence[np.ndarray]) -> list[Score]:
    """Return the score of each configuration, with its values without each group."""
    rows = rows.coded()
    return [left_out_score(metric, rows, proba_NC) for proba_NC in proba_MNC]


def _best(scores: Sequence[Score]) -> int | None:
    """Return the place of the best score, the first of equal ones; None if all are NaN."""
    known = [place for place, score in enumerate(scores) if not np.isnan(score.value)]
    return max(known, key=lambda place: scores[place].value) if known else None


def _gain(new: Score, old: Score) -> Gain:
    """Return the paired gain of a score, with its standard error over groups by the jackknife."""
    difference = new.minus(old)
    is_known = np.isfinite(difference.left_out_G).sum() >= LEAST_GROUPS
    return Gain(difference.value, jackknife_error(difference.left_out_G) if is_known else np.inf)


def helpful(metric: Metric, rows: Rows, proba_MNC: Sequence[np.ndarray]) -> list[int]:
    """Return the places of the configurations that would improve a blend with the best one.

    A configuration that is clearly worse than the best one can still correct its errors. Where
    finished runs are blended, such configurations should not be stopped.

    Parameters
    ----------
    metric, rows, proba_MNC
        Those of `leads`.

    Returns
    -------
    list[int]
        Places of the configurations whose mean with the best one scores higher than the best one.

    Examples
    --------
    The second configuration is right where the first one is unsure; the third one never is:

    >>> from foldblend.scores.metrics import METRICS
    >>> rows = Rows.of(np.zeros(10, int), np.arange(10))
    >>> first_N = np.array([0.9] * 6 + [0.4] * 4)
    >>> second_N = np.array([0.4] * 5 + [0.9] * 5)
    >>> third_N = np.full(10, 0.1)
    >>> proba_MNC = [np.stack([one, 1 - one], axis=1) for one in (first_N, second_N, third_N)]
    >>> helpful(METRICS["accuracy"], rows, proba_MNC)
    [1]
    """
    rows = rows.coded()
    values = [score_of(metric, rows, proba_NC, resampled=False) for proba_NC in proba_MNC]
    best = _best(values)
    if best is None:
        return []

    def together(place: int) -> float:
        mean_NC = (proba_MNC[best] + proba_MNC[place]) / 2
        return score_of(metric, rows, mean_NC, resampled=False).value

    others = (place for place in range(len(values)) if place != best)
    return [place for place in others if together(place) > values[best].value]


def clear_losers(leads: Sequence[Gain], *, errors: float = ERRORS) -> list[int]:
    """Return the places of the configurations over which the best one leads clearly.

    Parameters
    ----------
    leads
        What `leads` returns.
    errors
        Standard errors by which the lead must exceed 0.

    Returns
    -------
    list[int]
        Places to stop. The best configuration, configurations as good as it, and those whose lead
        or error is unknown are never among them.

    Examples
    --------
    >>> clear_losers([Gain(0.0, 0.0), Gain(0.10, 0.02), Gain(0.02, 0.02), Gain(0.3, np.inf)])
    [1]
    """
    return [
        place
        for place, lead in enumerate(leads)
        if np.isfinite(lead.error) and lead.exceeds(errors)
    ]


def _unknown_last(lead: Gain) -> float:
    """Return the value by which leads are sorted: small ones first, unknown ones last."""
    return np.inf if np.isnan(lead.value) else lead.value


def _worse_half(leads: Sequence[Gain]) -> list[int]:
    """Return the places of the worse half, as in successive halving; unknown leads are worst.

    References
    ----------
    Jamieson and Talwalkar 2016, "Non-stochastic best arm identification and hyperparameter
    optimization".
    """
    order = sorted(
        range(len(leads)), key=lambda place: np.nan_to_num(leads[place].value, nan=np.inf)
    )
    return sorted(order[(len(leads) + 1) // 2 :])


def _nobody(leads: Sequence[Gain]) -> list[int]:
    """Return no places: every configuration gets all folds."""
    return []


RULES: dict[str, Callable[[Sequence[Gain]], list[int]]] = {
    PAIRED: clear_losers,
    PLAIN: _worse_half,
    NONE: _nobody,
}
"""Rules by name: functions of the leads that return the places of the configurations to stop."""


@dataclass(frozen=True, slots=True)
class Race:
    """Which folds each configuration got, and in which order."""

    steps: tuple[tuple[int, int], ...]
    """Configuration and fold, in the order in which they were evaluated."""
    stopped: tuple[int, ...]
    """Configurations that the rule stopped, in the order in which they stopped."""
    skipped: tuple[int, ...]
    """Configurations of which a fold could not be evaluated."""
    finished: tuple[int, ...]
    """Configurations with all folds, in the order in which they were finished."""


def race(
    num_configurations: int,
    num_folds: int,
    evaluate: Callable[[int, int], bool],
    compare: Callable[[Sequence[int], int], Sequence[Gain]],
    *,
    rule: str | Callable[[Sequence[Gain]], list[int]] = PAIRED,
    rounds: int | None = None,
    keep: Callable[[Sequence[int], int], Sequence[int]] | None = None,
    on_stop: Callable[[int, int, Gain], object] = lambda *_: None,
) -> Race:
    """Evaluate configurations fold by fold, and stop some of them between folds.

    In each round every remaining configuration gets the next fold. Then they are compared, and the
    rule stops some of them. The best one comes first in the next round.

    Parameters
    ----------
    num_configurations
        Number of configurations, M. The first round takes them in the order of their numbers.
    num_folds
        Number of folds of each.
    evaluate
        Function of a configuration and a fold, which trains and predicts this fold, or finds that
        it is done already. It returns False if the fold could not be evaluated, for example because
        the time would not suffice; the configuration then gets no more folds.
    compare
        Function of some configurations and a number of folds; it returns their `leads` on the rows
        of the folds from 0 to this number, exclusive.
    rule
        A key of RULES, or such a function.
    rounds
        Number of rounds after which configurations may be stopped (default: all). After them,
        each of the others gets its remaining folds at once, the best one first, so that runs are
        finished one after the other.
    keep
        Function with the arguments of `compare` that returns the places of configurations which
        are not stopped in any case, such as those that are `helpful` in a blend. It is called only
        where some would be stopped.
    on_stop
        Called with a configuration that stops, its number of folds, and the lead over it.

    Returns
    -------
    Race
        What was evaluated and stopped. The result depends on what `evaluate` and `compare` return
        only, so that a race that was interrupted goes on if it is started again.

    Examples
    --------
    >>> score_M = np.array([0.5, 0.8, 0.79])
    >>> def compare(configurations, num_folds):
    ...     value_M = score_M[list(configurations)]
    ...     return [Gain(float(value_M.max() - value), 0.02) for value in value_M]
    >>> race(3, 2, lambda configuration, fold: True, compare).steps
    ((0, 0), (1, 0), (2, 0), (1, 1), (2, 1))
    """
    stop = RULES[rule] if isinstance(rule, str) else rule
    rounds = num_folds - 1 if rounds is None else min(rounds, num_folds - 1)
    running = list(range(num_configurations))
    steps: list[tuple[int, int]] = []
    stopped: list[int] = []
    skipped: list[int] = []

    def is_done(configuration: int, fold: int) -> bool:
        if not evaluate(configuration, fold):
            skipped.append(configuration)
            return False
        steps.append((configuration, fold))
        return True

    for fold in range(rounds):
        running = [one for one in running if is_done(one, fold)]
        if not running:
            break
        found = compare(running, fold + 1)
        places = set(stop(found))
        if places and keep is not None:
            places -= set(keep(running, fold + 1))
        for place in sorted(places):
            on_stop(running[place], fold + 1, found[place])
        out = {running[place] for place in places}
        stopped += [one for one in running if one in out]
        lead_over = dict(zip(running, found, strict=True))
        running = sorted(
            (one for one in running if one not in out),
            key=lambda one: _unknown_last(lead_over[one]),
        )
    finished = [
        one for one in running if all(is_done(one, fold) for fold in range(rounds, num_folds))
    ]
    return Race(tuple(steps), tuple(stopped), tuple(skipped), tuple(finished))
