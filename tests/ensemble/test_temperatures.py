"""Temperatures of members: those of the report where they help, 1 where they do not."""

import numpy as np
import pytest

from ensemble.methods.base import Evidence
from foldblend.scores.metrics import log_softmax, softmax
from foldblend.scores.rows import Rows
from foldblend.scores.temperature import fit_temperature, fit_temperatures


def drawn(temperature, num_groups=1000, per_group=1, num_classes=5, seed=0):
    """Return logits that are overconfident by `temperature`, with labels and groups.

    The rows of a group are copies of one row.
    """
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(num_groups, num_classes)) * 2
    label = (softmax(logits).cumsum(axis=1) > rng.random((num_groups, 1))).argmax(axis=1)
    group = np.repeat(np.arange(num_groups), per_group)
    return (logits * temperature)[group].astype(np.float32), label[group], group


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.5, 3.0, 20.0])
def test_a_temperature_that_helps_is_that_of_the_report(temperature):
    logits, label, group = drawn(temperature)
    (found,) = fit_temperatures([logits], label, group)
    assert found == pytest.approx(fit_temperature(logits, label), rel=1e-3)
    assert found == pytest.approx(temperature, rel=0.15)


def test_each_member_has_a_temperature():
    members = [drawn(temperature)[0] for temperature in (0.5, 3.0)]
    _, label, group = drawn(1.0)
    found = fit_temperatures(members, label, group)
    assert found == tuple(fit_temperatures([one], label, group)[0] for one in members)
    assert Evidence(members, Rows.of(label, group)).temperatures == found


def test_a_calibrated_member_mostly_keeps_a_temperature_of_one():
    found = [
        fit_temperatures([logits], label, group)[0]
        for logits, label, group in map(calibrated, range(40))
    ]
    assert found.count(1.0) > 20
    assert np.abs(np.log(found)).max() < 0.2


def calibrated(seed):
    return drawn(1.0, num_groups=300, seed=seed)


def test_rows_of_a_group_count_once():
    draws = [drawn(1.0, num_groups=60, per_group=50, seed=seed) for seed in range(20)]
    alike = [fit_temperatures([logits], label, group)[0] for logits, label, group in draws]
    apart = [
        fit_temperatures([logits], label, np.arange(len(label)))[0] for logits, label, _ in draws
    ]
    assert alike.count(1.0) >= 10 > apart.count(1.0)
    logits, label, _ = draws[0]
    assert fit_temperatures([logits], label, np.zeros_like(label)) == (1.0,)


def test_the_loss_never_rises_on_the_fitted_rows():
    for seed in range(10):
        logits, label, group = drawn(1.3, num_groups=100, seed=seed)
        (found,) = fit_temperatures([logits], label, group)
        rows = np.arange(len(label))
        assert (
            -log_softmax(logits / found)[rows, label].mean()
            <= -log_softmax(logits)[rows, label].mean()
        )


@pytest.mark.parametrize("size", [0.0, 1e4])
def test_flat_and_huge_logits_have_a_finite_temperature(size):
    rng = np.random.default_rng(0)
    logits = (rng.normal(size=(50, 3)) * size).astype(np.float32)
    label = rng.integers(3, size=50)
    (found,) = fit_temperatures([logits], label, np.arange(50))
    assert 0 < found < np.inf


def test_a_member_that_is_always_right_has_a_finite_temperature():
    label = np.arange(50) % 3
    (found,) = fit_temperatures([np.eye(3, dtype=np.float32)[label]], label, np.arange(50))
    assert 0 < found < 0.1
