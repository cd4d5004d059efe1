"""Tests of the score by chance."""

import numpy as np
import pytest

from foldblend.scores.baselines import chance_score
from foldblend.scores.by_group import metric_by_group
from foldblend.scores.error_costs import mean_cost
from foldblend.scores.metrics import METRICS
from foldblend.scores.rows import Rows


def shuffled(share: float, num: int = 4000) -> tuple[Rows, np.ndarray]:
    """Return rows of which a share has class 1, and predictions that are all right."""
    label = (np.arange(num) < share * num).astype(int)
    return Rows.of(label, np.arange(num) // 2), np.eye(2)[label]


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_accuracy_by_chance_is_the_chance_that_two_draws_agree(share):
    rows, proba = shuffled(share)
    expected = share**2 + (1 - share) ** 2
    assert chance_score(METRICS["accuracy"], rows, proba) == pytest.approx(expected, abs=0.01)


def test_macro_f1_by_chance_is_one_over_the_classes_where_they_are_even():
    rows, proba = shuffled(0.5)
    assert chance_score(METRICS["f1_macro"], rows, proba) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("confidence", [0.6, 1.0])
def test_log_loss_by_chance_is_the_entropy_of_the_classes(confidence):
    rows, right = shuffled(0.3)
    # An overconfident model would make shuffled predictions arbitrarily bad.
    proba = np.where(right == 1, confidence, 1 - confidence)
    entropy = -(0.3 * np.log(0.3) + 0.7 * np.log(0.7))
    assert chance_score(METRICS["log_loss"], rows, proba) == pytest.approx(entropy)


def test_a_cost_by_chance_is_that_of_the_cheapest_class():
    rows, proba = shuffled(0.3)
    # Taking class 1 for class 0 costs 10, the other error 1: always class 1 costs 0.7.
    metric = mean_cost(np.array([[0.0, 1.0], [10.0, 0.0]]))
    assert chance_score(metric, rows, proba) == pytest.approx(0.7)


def test_a_metric_by_group_shuffles_groups():
    rows, proba = shuffled(0.5)
    metric = metric_by_group(METRICS["accuracy"])
    assert chance_score(metric, rows, proba) == pytest.approx(0.5, abs=0.02)


def test_only_the_first_repeat_counts_and_an_undefined_score_is_none():
    rows, proba = shuffled(0.5, 40)
    twice = Rows(
        np.tile(rows.label_N, 2),
        np.tile(rows.group_N, 2),
        np.repeat([0, 1], 40),
        np.zeros(80, int),
    )
    metric = METRICS["accuracy"]
    both = np.concatenate([proba, 1 - proba])
    assert chance_score(metric, twice, both) == chance_score(metric, rows, proba)
    one_class = Rows.of(np.zeros(4, int), np.arange(4))
    assert chance_score(METRICS["roc_auc_ovr"], one_class, np.full((4, 2), 0.5)) is None
