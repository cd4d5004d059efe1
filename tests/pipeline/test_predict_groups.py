"""Tests of predictions of groups, pooled as a run says."""

import numpy as np
import pytest

from foldblend.scores.by_group import POOLS, by_group
from foldblend.scores.calibration import Calibration
from foldblend.scores.metrics import softmax
from foldblend.scores.rows import Rows
from pipeline.predict.answers import Answers
from pipeline.predict.by_group import GroupSums, groups_of_run


@pytest.mark.parametrize("pool", POOLS)
def test_groups_are_pooled_as_the_report_pools_them(pool):
    rng = np.random.default_rng(0)
    logits_NC = rng.normal(size=(24, 3))
    plain_NC = logits_NC - np.array([0.5, 0.0, 0.0])
    names = np.array([f"p{index % 5}" for index in range(24)], dtype=object)
    calibration = Calibration(2.0, 2.0, log_loss=0.5, ece=0.1)
    groups = groups_of_run({"score_by": "group", "group_pool": pool})
    for block in np.array_split(np.arange(24), 3):
        groups.add(names[block].tolist(), logits_NC[block], plain_NC[block])
    table = groups.table(Answers(classes=("a", "b", "c"), calibration=calibration))
    table = table.set_index("group").sort_index()
    rows = Rows.of(np.zeros(24, int), names)
    _, proba_GC = by_group(rows, softmax(plain_NC / 2), pool)
    _, decided_GC = by_group(rows, softmax(logits_NC), pool)
    shown = [f"proba_{name}" for name in "abc"]
    np.testing.assert_allclose(table[shown], proba_GC, rtol=1e-9)
    assert table["class"].tolist() == [("a", "b", "c")[one] for one in decided_GC.argmax(axis=1)]
    assert table["images"].tolist() == [5, 5, 5, 5, 4]


def test_runs_of_earlier_versions_average_logits():
    assert isinstance(groups_of_run({"metric": "f1_macro"}), GroupSums)
