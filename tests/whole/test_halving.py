"""The simulation of rules that stop configurations early."""

import numpy as np
import pytest

from foldblend.scores.metrics import METRICS
from tests.makers.constants import ROOT


@pytest.fixture
def halving(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import halving

    return halving


def test_a_random_part_takes_the_time_it_is_given(halving):
    share_M = np.array([0.1, 0.15, 0.2, 0.25, 0.3])
    rng = np.random.default_rng(0)
    times = [share_M[halving.in_time(share_M, 0.7, rng)].sum() for _ in range(2000)]
    assert np.mean(times) == pytest.approx(0.7, abs=0.01)
    assert halving.in_time(share_M, 0.0, rng) == [0]


def test_what_pruning_saves_and_costs(halving):
    found = halving.measure_pruning(0, METRICS["accuracy"], (80, 80), similar=False)["pruning"]
    assert 1 <= found["finished"] < halving.NUM_TRIALS
    assert 0.2 < found["time"] < 1
    assert found["best of all folds stopped"] or found["regret minus that without pruning"] == 0
