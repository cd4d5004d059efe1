"""Runs of one data set beside each other: scores, who is best, paired differences, pictures that changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from foldblend.attributes import Attribute, attribute_view
from foldblend.scores.bootstrap import bootstrap_scores, percentile_interval
from foldblend.scores.metrics import METRICS, mean_score, softmax

__all__ = ["Scored", "all_differences", "changed_pictures", "difference", "differing", "rank", "score_run"]


@dataclass(frozen=True, slots=True)
class Scored:
    """What a run scored: the value, its resamples, and macro F1 of each attribute."""

    value: float
    resamples_R: np.ndarray
    attributes: Mapping[str, float]

    def headline(self) -> dict[str, float | None]:
        """Return value, low and high."""
        return percentile_interval(self.value, self.resamples_R).as_dict()


def score_run(
    metric: str,
    label_N: np.ndarray,
    logits_NC: np.ndarray,
    group_N: np.ndarray,
    repeat_N: np.ndarray,
    attributes: Sequence[Attribute],
    *,
    seed: int = 0,
) -> Scored:
    """Score a run's out-of-fold rows, all of them in every repeat.

    Runs of equal groups, metric and seed can be compared, whatever the order of their rows and the number
    of their repeats: the same groups are drawn for each.
    """
    chosen, proba_NC = METRICS[metric], softmax(logits_NC)
    f1_of = {}
    for attribute in attributes:
        truth_N, as_proba = attribute_view(attribute, label_N, proba_NC)
        f1_of[attribute.name] = mean_score(METRICS["f1_macro"], truth_N, as_proba, repeat_N)
    return Scored(
        mean_score(chosen, label_N, proba_NC, repeat_N),
        bootstrap_scores(chosen, label_N, proba_NC, group_N, repeat_N=repeat_N, seed=seed),
        f1_of,
    )


def rank(scored: Sequence[Scored], honest: Sequence[bool], metric: str) -> list[int]:
    """Return the numbers of the runs, best first; a score that is not honest comes after all that are.

    The first is the one that others are compared to.
    """
    sign = -METRICS[metric].sign

    def key(index: int) -> tuple[bool, bool, float]:
        value = scored[index].value
        return not honest[index], bool(np.isnan(value)), sign * value

    return sorted(range(len(scored)), key=key)


def difference(one: Scored, other: Scored) -> dict[str, float | None]:
    """Return one score minus the other, with its paired interval."""
    return percentile_interval(one.value - other.value, one.resamples_R - other.resamples_R).as_dict()


def all_differences(scored: Sequence[Scored]) -> list[list[dict[str, float | None]]]:
    """Return, for each run, itself minus each of those after it."""
    return [[difference(one, other) for other in scored[index + 1 :]] for index, one in enumerate(scored)]


def changed_pictures(label_N: np.ndarray, first_N: np.ndarray, second_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that only the first prediction has right, and those that only the second has."""
    right_first, right_second = first_N == label_N, second_N == label_N
    return np.flatnonzero(right_first & ~right_second), np.flatnonzero(right_second & ~right_first)


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names that not all of the mappings hold with one value, in the order they come in."""
    absent = object()
    names = dict.fromkeys(name for one in settings for name in one)
    return [name for name in names if any(one.get(name, absent) != settings[0].get(name, absent) for one in settings)]
