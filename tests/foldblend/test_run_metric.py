"""The metric of a run and of several, from the content of their run.json."""

import numpy as np
import pytest

from foldblend.errors import UserError
from foldblend.scores.error_costs import ErrorCosts
from foldblend.scores.metrics import METRICS
from foldblend.scores.run_metric import common_metric, costs_among, metric_of

NAMES = ("cat", "dog", "owl")
COSTS = ((0, 0.5, 5), (2, 0, 1), (1, 1, 0))  # in the order of NAMES


def info_of(costs=None, metric="mean_cost", name="a"):
    return {"name": name, "classes": list(NAMES), "metric": metric, "costs": costs}


def test_the_metric_of_a_run():
    label_N = np.array([0, 1, 2])
    metric = metric_of(info_of(COSTS))
    assert metric.score(label_N, np.eye(3)[[2, 1, 2]]) == pytest.approx(5 / 3)
    assert metric_of({"metric": "accuracy"}) is METRICS["accuracy"]
    with pytest.raises(UserError, match=r"run.json of a: costs"):
        metric_of(info_of())
    with pytest.raises(UserError, match="'later' is unknown"):
        metric_of(info_of(metric="later"))


def test_the_metric_of_several_runs():
    other = 1 - np.eye(3)
    plain = info_of(metric="f1_macro")
    assert common_metric([plain, plain]) is METRICS["f1_macro"]
    assert common_metric([plain, info_of(COSTS)]) is None
    assert common_metric([info_of(COSTS), info_of(other.tolist())]) is None
    assert common_metric([info_of(COSTS), info_of(COSTS)]).name == "mean_cost"
    assert costs_among([plain, info_of(COSTS)]) == ErrorCosts(NAMES, COSTS)
    with pytest.raises(UserError, match="no run has costs"):
        costs_among([plain])
    with pytest.raises(UserError, match="of a, b differ"):
        costs_among([info_of(COSTS), info_of(other.tolist(), name="b")])
