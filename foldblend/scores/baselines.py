"""Baseline scores: guesses by chance, and guesses with one attribute known perfectly."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from foldblend.scores.by_group import pooled
from foldblend.scores.intervals import Interval, jackknife_interval
from foldblend.scores.jackknife import left_out_of_classes, left_out_scores
from foldblend.scores.metrics import (
    METRICS,
    Counts,
    Metric,
    f1_macro_of,
    mean_score,
    rows_by_repeat,
)
from foldblend.scores.rows import Rows

UNUSED = np.array(np.nan)  # in place of sums that macro F1 does not need

NUM_DRAWS = 400
LEAST_DRAWS = 40
MOST_GUESSED = 400_000_000  # rows of all draws

# Classes, the most frequent first, that are tried as a constant prediction.
MOST_CONSTANTS = 20

__all__ = [
    "attribute_only_band",
    "attribute_only_difference",
    "attribute_only_guess",
    "chance_score",
]


def _best_constant(metric: Metric, label_N: np.ndarray, num_classes: int) -> float | None:
    """Return the lowest score of predicting class frequencies or one class for all rows."""
    share_C = np.bincount(label_N, minlength=num_classes) / len(label_N)
    frequent_C = np.argsort(-share_C, kind="stable")[:MOST_CONSTANTS]
    constants = [share_C, *np.eye(num_classes)[frequent_C]]
    scores = [metric.score(label_N, np.tile(one, (len(label_N), 1))) for one in constants]
    known = [one for one in scores if np.isfinite(one)]
    return float(min(known)) if known else None


def chance_score(
    metric: Metric, rows: Rows, proba_NC: np.ndarray, *, num_draws: int = 20, seed: int = 0
) -> float | None:
    """Return the score of predictions that say nothing about their image.

    Where greater is better, that is the mean score of the same predictions shuffled over the
    images, which keep how often each class is predicted. For a loss or a cost, which shuffled
    predictions of an overconfident model make arbitrarily bad, it is the best score of a constant
    prediction: the class frequencies, or always the same class. For a metric by group, images
    stand for groups.

    Parameters
    ----------
    metric
        The score.
    rows
        Labels and groups of N rows; only the first repeat is used.
    proba_NC
        Probabilities of the rows.
    num_draws
        Number of shuffles.
    seed
        Seed of the shuffles.

    Returns
    -------
    float or None
        None if the score is undefined in every draw.
    """
    first = rows_by_repeat(rows.repeat_N, len(rows))[0]
    scored, proba = pooled(metric, rows.take(first), proba_NC[first])
    if not metric.greater_is_better:
        return _best_constant(metric, scored.label_N, proba.shape[1])
    if metric.of_counts is not None:
        # Only the predicted classes count, which are much smaller than the probabilities.
        proba = np.eye(proba.shape[1], dtype=bool)[proba.argmax(axis=1)]
    rng = np.random.default_rng(seed)
    draws = [
        metric.score(scored.label_N, proba[rng.permutation(len(proba))]) for _ in range(num_draws)
    ]
    known = [one for one in draws if np.isfinite(one)]
    return float(np.mean(known)) if known else None


def _guesser(
    label_N: np.ndarray, group_N: np.ndarray, value_of_class: np.ndarray
) -> Callable[[np.random.Generator], np.ndarray]:
    """Return a function that draws guesses (see `attribute_only_guess`), after sorting once."""
    value_N = value_of_class[label_N]
    names, group_N = np.unique(group_N, return_inverse=True)
    num_values = int(value_of_class.max()) + 1
    # The rows of a place, which is a group and a value, are a slice of the first order; the rows of
    # a value are a slice of the second.
    place_N = group_N * num_values + value_N
    by_place = np.argsort(place_N, kind="stable")
    by_value = np.argsort(value_N, kind="stable")
    place_sizes = np.bincount(place_N, minlength=len(names) * num_values)
    value_sizes = np.bincount(value_N, minlength=num_values)
    place_starts = np.cumsum(place_sizes) - place_sizes
    value_starts = np.cumsum(value_sizes) - value_sizes
    # What does not depend on the draws is looked up once, because there are hundreds of them.
    label_of_both = np.concatenate([label_N[by_place], label_N[by_value]])
    from_value_N = len(label_N) + value_starts[value_N]
    size_of_value_N = value_sizes[value_N]

    def guess(rng: np.random.Generator) -> np.ndarray:
        taken_for_N = rng.permutation(len(names))[group_N] * num_values + value_N
        pick_N = rng.random(len(label_N))
        size_N = place_sizes[taken_for_N]
        has_it_N = size_N > 0
        start_N = np.where(has_it_N, place_starts[taken_for_N], from_value_N)
        size_N = np.where(has_it_N, size_N, size_of_value_N)
        return label_of_both[start_N + (pick_N * size_N).astype(int)]

    return guess


def attribute_only_guess(
    label_N: np.ndarray,
    group_N: np.ndarray,
    value_of_class: np.ndarray,
    *,
    rng: np.random.Generator,
) -> np.ndarray:
    """Guess the class of each row from the true value of one attribute only.

    Groups are permuted at random. Each row gets the class of a random row in its substitute group
    with the same attribute value or, if there is none, of any random row with that value. Guesses
    therefore follow the class frequencies, which is optimal for macro F1 (its expectation is
    concave in the guessing rates), and are as alike within a group as labels are.

    Parameters
    ----------
    label_N
        True class of each row.
    group_N
        Group of each row.
    value_of_class
        Attribute value of each class (see `foldblend.attributes.Attribute`).
    rng
        Generator, whose state advances.

    Returns
    -------
    np.ndarray
        Guessed class of each row, N.
    """
    return _guesser(label_N, group_N, value_of_class)(rng)


def attribute_only_band(
    label_N: np.ndarray,
    group_N: np.ndarray,
    value_of_class: np.ndarray,
    *,
    num_draws: int | None = None,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Return the range (low, mean, high) of macro F1 for guesses from one attribute only.

    Low is the score of always guessing the most frequent class of each value, or the 0.5 %
    quantile of `attribute_only_guess` if that is lower. Mean and high are the mean and the 99.5 %
    quantile over `num_draws` such guesses: 400, or fewer of more than a million rows, whose guesses
    score nearly alike. See `attribute_only_guess` for the other parameters.
    """
    if num_draws is None:
        num_draws = min(NUM_DRAWS, max(LEAST_DRAWS, MOST_GUESSED // max(1, len(label_N))))
    rng = np.random.default_rng(seed)
    value_N = value_of_class[label_N]

    num_classes = len(value_of_class)
    truth = np.bincount(label_N, minlength=num_classes)

    def score(guess_N: np.ndarray) -> float:
        right, predicted = (
            np.bincount(one, minlength=num_classes)
            for one in (label_N[guess_N == label_N], guess_N)
        )
        f1_macro = METRICS["f1_macro"].of_counts
        assert f1_macro is not None
        return float(f1_macro(Counts(right, truth, predicted, UNUSED, UNUSED)))

    commonest = np.zeros(int(value_of_class.max()) + 1, int)
    for value in np.unique(value_N):
        commonest[value] = np.bincount(label_N[value_N == value]).argmax()
    guess = _guesser(label_N, group_N, value_of_class)
    draws = [score(guess(rng)) for _ in range(num_draws)]
    low = min(score(commonest[value_N]), float(np.quantile(draws, 0.005)))
    return low, float(np.mean(draws)), float(np.quantile(draws, 0.995))


def attribute_only_difference(
    rows: Rows,
    proba_NC: np.ndarray,
    value_of_class: np.ndarray,
    *,
    num_draws: int = 20,
    seed: int = 0,
) -> Interval:
    """Return the macro F1 of predictions minus that of `attribute_only_guess`, with interval.

    The difference is paired: the same groups are left out of the predictions and of the mean of
    `num_draws` guesses.
    """
    metric = METRICS["f1_macro"]
    rng = np.random.default_rng(seed)
    num_classes = len(value_of_class)
    # Guesses use each image once, so one repeat is enough.
    once = rows_by_repeat(rows.repeat_N, len(rows))[0]
    label_N = rows.label_N[once]
    group_N = rows.group_N[once]
    guess = _guesser(label_N, group_N, value_of_class)
    scores = []
    scores_G = []
    for _ in range(num_draws):
        guess_N = guess(rng)
        scores.append(f1_macro_of(label_N, guess_N, num_classes))
        scores_G.append(left_out_of_classes(metric, label_N, guess_N, group_N, num_classes))
    guessed = np.mean(scores)
    guessed_G = np.mean(scores_G, axis=0)
    ours = mean_score(metric, rows.label_N, proba_NC, rows.repeat_N)
    ours_G = left_out_scores(metric, rows.label_N, proba_NC, rows.group_N, repeat_N=rows.repeat_N)
    return jackknife_interval(float(ours - guessed), ours_G - guessed_G)
