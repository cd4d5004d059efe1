"""What could be scored without looking for the rest: knowing one attribute and guessing the others."""

from __future__ import annotations

import numpy as np

from reports.metrics import METRICS

__all__ = ["attribute_only_band", "attribute_only_guess"]


def attribute_only_guess(
    label_N: np.ndarray, group_N: np.ndarray, value_of_class: np.ndarray, *, rng: np.random.Generator
) -> np.ndarray:
    """Return classes N guessed by one who sees one attribute perfectly and nothing else.

    Every group is taken for another, drawn at random: each row gets a class that some row of that
    other group with the same value of the attribute has, or, if it has none, that any row has.
    Guesses thus follow the class frequencies, which is the best that can be done for macro F1
    (its expectation is concave in the rates of guessing), and agree within a group as labels do.
    """
    value_N = value_of_class[label_N]
    names, group_N = np.unique(group_N, return_inverse=True)
    taken_for = rng.permutation(len(names))[group_N]
    by_place: dict[tuple[int, int], list[int]] = {}
    for group, value, label in zip(group_N.tolist(), value_N.tolist(), label_N.tolist(), strict=True):
        by_place.setdefault((group, value), []).append(label)
    anywhere = {value: label_N[value_N == value] for value in np.unique(value_N).tolist()}
    picks_N = rng.random(len(label_N))
    guess_N = np.empty_like(label_N)
    for row, (group, value) in enumerate(zip(taken_for.tolist(), value_N.tolist(), strict=True)):
        pool = by_place.get((group, value), anywhere[value])
        guess_N[row] = pool[int(picks_N[row] * len(pool))]
    return guess_N


def attribute_only_band(
    label_N: np.ndarray, group_N: np.ndarray, value_of_class: np.ndarray, *, num_draws: int = 400, seed: int = 0
) -> tuple[float, float, float]:
    """Return (low, mean, high) of the macro F1 that one attribute alone can reach.

    Low is the constant guess, the commonest class of each value; mean and high are the mean and the
    99.5 % quantile of `attribute_only_guess`.
    """
    rng, identity = np.random.default_rng(seed), np.eye(len(value_of_class))
    value_N = value_of_class[label_N]
    score = METRICS["f1_macro"].score
    commonest = {value: np.bincount(label_N[value_N == value]).argmax() for value in np.unique(value_N).tolist()}
    constant = score(label_N, identity[[commonest[value] for value in value_N.tolist()]])
    draws = [
        score(label_N, identity[attribute_only_guess(label_N, group_N, value_of_class, rng=rng)])
        for _ in range(num_draws)
    ]
    return min(constant, float(np.quantile(draws, 0.005))), float(np.mean(draws)), float(np.quantile(draws, 0.995))
