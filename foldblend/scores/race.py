"""Compare configurations on equal folds, stop clear losers early, and estimate what choosing costs.

A configuration is a set of settings whose cross-validation is a run. Configurations are raced: each
gets its first fold, those that are clearly worse than the best one stop, the others get the next
fold, and so on (successive halving). All predictions are on the same held-out rows, so differences
of scores are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from foldblend.scores.by_group import pooled
from foldblend.scores.held_out import group_parts
from foldblend.scores.intervals import jackknife_error
from foldblend.scores.metrics import Metric, mean_score
from foldblend.scores.rows import Rows
from foldblend.scores.score import Gain, Score, left_out_score

__all__ = [
    "ERRORS",
    "NONE",
    "PAIRED",
    "PLAIN",
    "RULES",
    "Optimism",
    "Race",
    "best_of",
    "clear_losers",
    "leads",
    "race",
    "selection_optimism",
]

ERRORS = 2.0
"""Standard errors by which the best configuration must lead before another one is stopped."""
LEAST_GROUPS = 5
"""With fewer groups, standard errors are taken as unknown, and nothing is stopped."""
NUM_PARTS = 5  # of the groups, where the rows are of a single fold

PAIRED = "paired"
PLAIN = "plain"
NONE = "none"


def best_of(values: Sequence[float]) -> int | None:
    """Return the place of the greatest value, the first of equal ones; None if all are NaN.

    Examples
    --------
    >>> best_of([0.7, float("nan"), 0.8]), best_of([float("nan")])
    (2, None)
    """
    known = [place for place, value in enumerate(values) if not np.isnan(value)]
    return max(known, key=lambda place: values[place]) if known else None


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
    rows = rows.coded()
    scores = [left_out_score(metric, rows, proba_NC) for proba_NC in proba_MNC]
    best = best_of([score.value for score in scores])
    if best is None:
        return [Gain(np.nan, np.inf)] * len(scores)
    return [
        Gain(0.0, 0.0) if place == best else _lead(scores[best], score)
        for place, score in enumerate(scores)
    ]


def _lead(best: Score, other: Score) -> Gain:
    """Return the paired lead of the best score, with its standard error over groups."""
    difference = best.minus(other)
    known = np.isfinite(difference.left_out_G).sum() >= LEAST_GROUPS
    return Gain(difference.value, jackknife_error(difference.left_out_G) if known else np.inf)


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
        out = {running[place] for place in stop(found)}
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


class Optimism(NamedTuple):
    """By how much a score is expected to be too high, and the standard error of this estimate."""

    value: float
    error: float


def selection_optimism(metric: Metric, rows: Rows, proba_MNC: Sequence[np.ndarray]) -> Optimism:
    """Return by how much the score of the best of M configurations on these rows is too high.

    The rows that score the configurations also choose among them. Here each fold is predicted by
    the configuration that is best on the other folds. The optimism is the score of the best one
    minus the score of these cross-fitted predictions.

    Parameters
    ----------
    metric
        The score; a metric by group pools the images of each group first.
    rows
        Labels, groups, repeats and folds of the rows. If they are of a single fold, or if folds
        split groups, parts of the groups are used instead of folds.
    proba_MNC
        Class probabilities N x C of each configuration on these rows.

    Returns
    -------
    Optimism
        In units of the metric, greater is more optimistic for every metric; 0 for one
        configuration and where no score is defined.

    Examples
    --------
    >>> from foldblend.scores.metrics import METRICS
    >>> rows = Rows.of(np.arange(100) % 2, np.arange(100))
    >>> rng = np.random.default_rng(0)
    >>> guesses = [rng.dirichlet([1, 1], 100) for _ in range(20)]
    >>> 0 < selection_optimism(METRICS["accuracy"], rows, guesses).value < 0.2
    True
    """
    pairs = [pooled(metric, rows.coded(), proba_NC) for proba_NC in proba_MNC]
    rows = pairs[0][0]
    tables = [proba_NC for _, proba_NC in pairs]
    metric = metric.by_image
    best = _best_on(metric, rows, tables, np.arange(len(rows)))
    part_N = _parts(rows)
    if best is None or len(tables) < 2 or len(np.unique(part_N)) < 2:
        return Optimism(0.0, 0.0)
    crossed_NC = tables[best].copy()
    for part in np.unique(part_N):
        held = part_N == part
        chosen = _best_on(metric, rows, tables, np.flatnonzero(~held))
        crossed_NC[held] = tables[best if chosen is None else chosen][held]
    difference = left_out_score(metric, rows, tables[best]).minus(
        left_out_score(metric, rows, crossed_NC)
    )
    return Optimism(difference.value, jackknife_error(difference.left_out_G))


def _parts(rows: Rows) -> np.ndarray:
    """Return the part of each row, N: its fold, or the part of its group if folds do not suit."""
    folds = np.unique(rows.fold_N)
    pairs = np.unique(np.stack([rows.group_N, rows.fold_N]), axis=1).shape[1]
    if len(folds) > 1 and pairs == rows.num_groups:
        return rows.fold_N
    num_parts = min(NUM_PARTS, rows.num_groups)
    return group_parts(rows.label_N, rows.group_N, num_parts=num_parts)


def _best_on(
    metric: Metric, rows: Rows, tables: Sequence[np.ndarray], at: np.ndarray
) -> int | None:
    """Return the place of the configuration that is best on some rows."""
    some = rows.take(at)
    return best_of(
        [
            metric.sign * mean_score(metric, some.label_N, proba_NC[at], some.repeat_N)
            for proba_NC in tables
        ]
    )
