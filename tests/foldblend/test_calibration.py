"""Calibration and confusion on cases with known answers."""

import numpy as np
import pytest

from foldblend.scores.calibration import (
    calibration_error,
    error_by_chance,
    held_out_temperatures,
    reliability_bins,
    summarise_calibration,
)
from foldblend.scores.confusion import confusion_counts, most_confused
from foldblend.scores.metrics import softmax
from foldblend.scores.rows import Rows
from foldblend.scores.temperature import best_temperature, fit_temperature


def simulated(num: int, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return logits whose optimal temperature is `temperature`, and labels.

    Labels are drawn from the probabilities at temperature 1.
    """
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(num, 4)) * 2
    label = (softmax(logits).cumsum(axis=1) > rng.random((num, 1))).argmax(axis=1)
    return logits * temperature, label


def cross_fitted(logits: np.ndarray, rows: Rows) -> np.ndarray | None:
    """Return probabilities, each fold's with the temperature of the other folds."""
    temperatures = held_out_temperatures(logits, rows)
    if temperatures is None:
        return None
    proba = np.full(logits.shape, np.nan)
    for held, temperature in temperatures:
        proba[held] = softmax(logits[held] / temperature)
    return proba


def test_calibration_error_by_hand():
    # Two bins: of confidence 0.9 one of two is right, of confidence 0.6 both are.
    proba = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6]])
    label = np.array([0, 1, 0, 1])
    assert calibration_error(label, proba) == pytest.approx(
        (2 * abs(0.5 - 0.9) + 2 * abs(1 - 0.6)) / 4
    )
    bins = reliability_bins(label, proba)
    assert [(one["rows"], one["accuracy"]) for one in bins] == [(2, 1.0), (2, 0.5)]
    assert [one["confidence"] for one in bins] == pytest.approx([0.6, 0.9])
    assert all(one["low"] < one["confidence"] <= one["high"] for one in bins)


def test_bins_include_their_upper_end_and_the_last_one_includes_certainty():
    proba = np.array([[1.0, 0.0], [10 / 15, 5 / 15]])
    assert [round(one["high"] * 15) for one in reliability_bins(np.array([0, 0]), proba)] == [
        10,
        15,
    ]


def test_calibrated_predictions_have_little_error():
    logits, label = simulated(40_000, 1.0)
    assert calibration_error(label, softmax(logits)) < 0.01
    assert fit_temperature(logits, label) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("temperature", [0.4, 3.0])
def test_the_fitted_temperature_is_the_true_one(temperature):
    logits, label = simulated(40_000, temperature)
    assert fit_temperature(logits, label) == pytest.approx(temperature, rel=0.03)
    fold = np.arange(len(label)) % 5
    found = summarise_calibration(logits, Rows.of(label, np.arange(len(label)), fold_N=fold))
    assert found["ece"] > 0.05 > 0.01 > found["ece_after"]
    assert found["log_loss"] > found["log_loss_after"]


def test_a_fold_gets_a_temperature_fitted_on_the_other_folds():
    logits, label = simulated(300, 2.0)
    fold = np.arange(300) % 3
    group = np.arange(300)
    proba = cross_fitted(logits, Rows.of(label, group, fold_N=fold))
    rows = fold == 1
    other = best_temperature(logits[~rows], label[~rows])
    assert other == pytest.approx(fit_temperature(logits[~rows], label[~rows]), rel=1e-3)
    np.testing.assert_allclose(proba[rows], softmax(logits[rows] / other))
    # The labels of the fold itself do not matter.
    label[rows] = (label[rows] + 1) % 4
    np.testing.assert_array_equal(
        cross_fitted(logits, Rows.of(label, group, fold_N=fold))[rows], proba[rows]
    )
    assert cross_fitted(logits, Rows.of(label, group)) is None


def test_error_by_chance_has_the_stated_level():
    """A calibrated model is below the quantile in 95 % of cases, an overconfident one never."""
    below = {1.0: 0, 2.0: 0}
    for seed in range(60):
        for temperature in below:
            logits, label = simulated(560, temperature, seed)
            group = np.repeat(np.arange(80), 7)
            _, high = error_by_chance(label, softmax(logits), group, seed=seed)
            below[temperature] += calibration_error(label, softmax(logits)) <= high
    assert below[1.0] >= 50  # binomial(60, 0.95) is below 51 once in a hundred
    assert below[2.0] == 0


def test_copies_of_rows_within_a_group_change_nothing():
    logits, label = simulated(100, 1.0)
    once = error_by_chance(label, softmax(logits), np.arange(100), seed=3)
    seven = (label.repeat(7), softmax(logits).repeat(7, axis=0))
    assert error_by_chance(*seven, np.arange(100).repeat(7), seed=3) == pytest.approx(once)
    assert error_by_chance(*seven, np.arange(700), seed=3)[1] < 0.6 * once[1]


def test_most_confused():
    counts = confusion_counts(np.array([0, 0, 0, 1, 2, 2]), np.array([1, 1, 0, 1, 0, 2]), 3)
    assert counts.tolist() == [[1, 2, 0], [0, 1, 0], [1, 0, 1]]
    found = most_confused(counts, ["a", "b", "c"], 9)
    assert [(one["true"], one["predicted"], one["rows"]) for one in found] == [
        ("a", "b", 2),
        ("c", "a", 1),
    ]
    assert [one["share"] for one in found] == pytest.approx([2 / 3, 1 / 2])
    assert most_confused(np.eye(3, dtype=int), ["a", "b", "c"], 9) == []


def test_bins_after_calibration_are_those_of_cross_fitted_probabilities():
    logits, label = simulated(600, 3.0)
    number = np.arange(len(label))
    rows = Rows(label, number // 4, np.zeros_like(number), number // 4 % 3)
    found = summarise_calibration(logits, rows)
    assert found["bins_after"] == reliability_bins(label, cross_fitted(logits, rows))
    off = sum(abs(one["confidence"] - one["accuracy"]) * one["rows"] for one in found["bins_after"])
    assert off / len(label) == pytest.approx(found["ece_after"])
    single = Rows.of(label, number // 4)
    assert summarise_calibration(logits, single)["bins_after"] is None
