"""What could be scored without looking for the rest: knowing one attribute and guessing the
others.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from foldblend.scores.bootstrap import Interval, bootstrap_scores, percentile_interval
from foldblend.scores.metrics import METRICS, Counts, rows_by_repeat
from foldblend.scores.rows import Rows
from foldblend.scores.score import score_of

NOT_ASKED = np.array(np.nan)  # sums that macro F1 does without

__all__ = ["attribute_only_band", "attribute_only_difference", "attribute_only_guess"]


def _guesser(
    label_N: np.ndarray, group_N: np.ndarray, value_of_class: np.ndarray
) -> Callable[[np.random.Generator], np.ndarray]:
    """Return what draws one guess after the other (see `attribute_only_guess`), all that can be
    sorted sorted once.
    """
    value_N = value_of_class[label_N]
    names, group_N = np.unique(group_N, return_inverse=True)
    num_values = int(value_of_class.max()) + 1
    # Rows sorted by place (group, value): a place is then a slice, and so is a value in the second
    # order.
    place_N = group_N * num_values + value_N
    by_place = np.argsort(place_N, kind="stable")
    by_value = np.argsort(value_N, kind="stable")
    place_sizes = np.bincount(place_N, minlength=len(names) * num_values)
    value_sizes = np.bincount(value_N, minlength=num_values)
    place_starts = np.cumsum(place_sizes) - place_sizes
    value_starts = np.cumsum(value_sizes) - value_sizes

    def guess(rng: np.random.Generator) -> np.ndarray:
        taken_for_N = rng.permutation(len(names))[group_N] * num_values + value_N
        pick_N = rng.random(len(label_N))
        has_it_N = place_sizes[taken_for_N] > 0
        from_place = by_place[
            np.minimum(
                place_starts[taken_for_N] + (pick_N * place_sizes[taken_for_N]).astype(int),
                len(label_N) - 1,
            )
        ]
        from_value = by_value[value_starts[value_N] + (pick_N * value_sizes[value_N]).astype(int)]
        return label_N[np.where(has_it_N, from_place, from_value)]

    return guess


def attribute_only_guess(
    label_N: np.ndarray,
    group_N: np.ndarray,
    value_of_class: np.ndarray,
    *,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return classes N guessed by one who sees one attribute perfectly and nothing else.

    Every group is taken for another, drawn at random: each row gets a class that some row of that
    other group with the same value of the attribute has, or, if it has none, that any row has.
    Guesses thus follow the class frequencies, which is the best that can be done for macro F1
    (its expectation is concave in the rates of guessing), and agree within a group as labels do.
    """
    return _guesser(label_N, group_N, value_of_class)(rng)


def attribute_only_band(
    label_N: np.ndarray,
    group_N: np.ndarray,
    value_of_class: np.ndarray,
    *,
    num_draws: int = 400,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Return (low, mean, high) of the macro F1 that one attribute alone can reach.

    Low is the constant guess, the commonest class of each value; mean and high are the mean and the
    99.5 % quantile of `attribute_only_guess`.
    """
    rng = np.random.default_rng(seed)
    value_N = value_of_class[label_N]

    def score(guess_N: np.ndarray) -> float:
        num_classes = len(value_of_class)
        right, truth, predicted = (
            np.bincount(one, minlength=num_classes)
            for one in (label_N[guess_N == label_N], label_N, guess_N)
        )
        f1_macro = METRICS["f1_macro"].of_counts
        assert f1_macro is not None
        return float(f1_macro(Counts(right, truth, predicted, NOT_ASKED, NOT_ASKED)))

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
    """Return macro F1 of the predictions minus what `attribute_only_guess` scores, with its
    interval.

    Paired: on each resample of groups, against the mean of the same `num_draws` guessers.
    """
    metric = METRICS["f1_macro"]
    rng = np.random.default_rng(seed)
    identity = np.eye(len(value_of_class))
    ours = score_of(metric, rows, proba_NC, seed=seed)
    once = rows_by_repeat(rows.repeat_N, len(rows))[0]  # the guessers see each image once
    label_N = rows.label_N[once]
    group_N = rows.group_N[once]
    guess = _guesser(label_N, group_N, value_of_class)
    guesses = [
        guess(rng) for _ in range(num_draws)
    ]  # made one-hot one after the other, for they are many
    guessed = np.mean([metric.score(label_N, identity[guess_N]) for guess_N in guesses])
    resamples = [
        bootstrap_scores(metric, label_N, identity[guess_N], group_N, seed=seed)
        for guess_N in guesses
    ]
    return percentile_interval(
        float(ours.value - guessed), ours.resamples_R - np.mean(resamples, axis=0)
    )
