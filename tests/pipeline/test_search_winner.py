"""The record, section and note of the choice of a search."""

import numpy as np
import pytest

from foldblend.runs.search import search_note
from foldblend.scores.metrics import METRICS
from foldblend.scores.rows import Rows
from pipeline.search.scoring import Scoring
from pipeline.search.trials import DEFAULT, Counts, Result
from pipeline.search.winner import choose


def chosen(num_groups):
    """Return the choice between two trials."""
    rows = Rows.of(np.arange(12) % 2, np.arange(12) % num_groups)
    right_NC = np.eye(2)[rows.label_N]
    logits_of = {"trial_00001": right_NC, DEFAULT: np.ones((12, 2)) * [1, 0]}
    results = [Result("trial_00001", {"lr": 0.1}, 1.0), Result(DEFAULT, {}, 0.5)]
    return choose(
        Scoring(METRICS["accuracy"], rows, 2),
        results,
        logits_of,
        Counts(complete=2, pruned=0, failed=0, running=0, waiting=0, errors=()),
        best=results[0],
        study="s",
        sampler="TPESampler",
        nested=None,
    )


def test_an_optimism_that_cannot_be_estimated_is_not_called_0():
    made = chosen(num_groups=1)
    assert made.record["optimism"] == {"value": None, "error": None}
    assert "expected" not in made.record
    words, strips, _ = made.section["blocks"]
    assert "it is too high, by an amount that could not be estimated." in words["text"]
    assert [row["name"] for row in strips["rows"]] == [
        "settings of the command",
        "chosen settings, in-sample",
    ]


def test_one_that_can_be_estimated_is_subtracted():
    made = chosen(num_groups=6)
    assert made.record["expected"]["value"] == pytest.approx(1 - made.record["optimism"]["value"])
    assert "score optimistic by about" in search_note(made.record, "accuracy")


@pytest.mark.parametrize("value", [0.0, None])
def test_the_note_of_an_unknown_optimism(value):
    # Earlier versions wrote 0, and what is expected then.
    score = {"value": 0.5, "low": None, "high": None}
    optimism = {"value": value, "error": None}
    record = {"num_trials": 50, "score": score, "optimism": optimism, "expected": score}
    assert search_note(record, "accuracy") == (
        "the settings were chosen from 50 trials on these folds; the optimism of the score could"
        " not be estimated"
    )
