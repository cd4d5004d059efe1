"""Costs of errors: what a table must have, and the mean cost as a metric."""

import numpy as np
import pytest

from foldblend.errors import UserError
from foldblend.scores.bootstrap import bootstrap_scores
from foldblend.scores.error_costs import ErrorCosts, mean_cost, read_error_costs
from foldblend.scores.metrics import METRICS, softmax
from foldblend.scores.rows import Rows
from foldblend.scores.score import score_of

NAMES = ("cat", "dog", "owl")
TABLE = """true,owl,cat,dog
dog,1,2,0
cat,5,0,0.5
owl,0,1,1
"""
COSTS = ((0, 0.5, 5), (2, 0, 1), (1, 1, 0))  # in the order of NAMES


@pytest.fixture
def drawn():
    rng = np.random.default_rng(0)
    proba_NC = softmax(rng.normal(size=(120, 3)))
    return rng.integers(3, size=120), proba_NC, np.repeat(np.arange(30), 4)


@pytest.fixture
def written(tmp_path):
    """Write a text as a table, and return the path of its file."""

    def write(text, name="costs.csv"):
        file = tmp_path / name
        file.write_text(text, encoding="utf-8")
        return file

    return write


def error_of(file):
    with pytest.raises(UserError) as found:
        read_error_costs(file).of(NAMES, place=f"--costs {file}")
    message = str(found.value)
    assert "\n" not in message
    assert str(file) in message
    return message


def test_a_table_may_have_any_order_and_delimiter(written):
    for text in (TABLE, TABLE.replace(",", ";"), TABLE.replace(",", "\t")):
        found = read_error_costs(written(text)).of(NAMES, place="here")
        assert found.classes == NAMES
        assert found.rows == COSTS


def test_the_first_header_cell_may_be_blank(written):
    file = written(TABLE.replace("true,", ","))
    assert read_error_costs(file).of(NAMES, place="here").rows == COSTS


def test_costs_survive_a_dict():
    costs = ErrorCosts(NAMES, COSTS)
    assert ErrorCosts.from_dict(costs.as_dict(), place="here") == costs
    for damaged in (None, {}, {"classes": ["a"], "rows": [[0]]}, {"classes": 3, "rows": "x"}):
        with pytest.raises(UserError, match=r"^here: costs"):
            ErrorCosts.from_dict(damaged, place="here")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("true,cat,dog,owl\n", "only in the header"),
        (TABLE.replace("owl,0,1,1\n", ""), "'owl' is only in the header"),
        (TABLE.replace("owl", "own"), "no class 'own'; did you mean owl?"),
        ("true,cat,dog\ncat,0,1\ndog,1,0\n", "no costs of 'owl'"),
        (TABLE + "cat,0,1,2\n", "'cat' occurs twice"),
        (
            "true,owl,cat,dog,dog\n" + "dog,1,2,0,0\ncat,5,0,1,1\nowl,0,1,1,1\n",
            "'dog' occurs twice",
        ),
        ("cat,owl,cat,dog\n" + TABLE.split("\n", 1)[1], "first cell of the header"),
        (TABLE.replace("cat,5", "cat,much"), "line 3: 'much' is not a finite number"),
        (TABLE.replace("cat,5", "cat,"), "line 3: '' is not a finite number"),
        (TABLE.replace("cat,5", "cat,nan"), "line 3: 'nan' is not a finite number"),
        (TABLE.replace("cat,5", "cat,inf"), "line 3: 'inf' is not a finite number"),
        (TABLE.replace("0.5", "0,5"), "line 3 has 5 fields"),
        ("true,cat,dog,owl\ncat,1,1,1\ndog,1,1,1\nowl,1,1,1\n", "every prediction costs the same"),
        ("true,cat,dog,owl\ncat,1,1,1\ndog,2,2,2\nowl,3,3,3\n", "every prediction costs the same"),
        ("true,cat\ncat,0\n", "not a square table"),
    ],
)
def test_bad_tables(written, text, words):
    assert words in error_of(written(text))


def test_a_missing_table(tmp_path):
    assert "No such file" in error_of(tmp_path / "gone.csv")


def test_the_mean_cost_is_the_mean_over_rows(drawn):
    label_N, proba_NC, _ = drawn
    metric = ErrorCosts(NAMES, COSTS).metric
    wanted = np.mean(
        [COSTS[true][guess] for true, guess in zip(label_N, proba_NC.argmax(1), strict=True)]
    )
    assert metric.score(label_N, proba_NC) == pytest.approx(wanted, abs=1e-12)
    assert metric.sign == -1


def test_a_cost_of_one_for_every_error_is_one_minus_accuracy(drawn):
    label_N, proba_NC, group_N = drawn
    metric = mean_cost(1 - np.eye(3))
    accuracy = METRICS["accuracy"]
    assert metric.score(label_N, proba_NC) == pytest.approx(1 - accuracy.score(label_N, proba_NC))
    found_B = bootstrap_scores(metric, label_N, proba_NC, group_N)
    np.testing.assert_allclose(found_B, 1 - bootstrap_scores(accuracy, label_N, proba_NC, group_N))


def test_bootstrap_samples_are_scores_of_the_drawn_rows(drawn):
    label_N, proba_NC, group_N = drawn
    metric = ErrorCosts(NAMES, COSTS).metric
    found_B = bootstrap_scores(metric, label_N, proba_NC, group_N, seed=1)
    rng = np.random.default_rng(1)
    for found in found_B[:5]:
        rows = np.concatenate([np.flatnonzero(group_N == one) for one in rng.integers(30, size=30)])
        assert found == pytest.approx(metric.score(label_N[rows], proba_NC[rows]), abs=1e-12)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (",a,b\na,0,1e200\nb,1,0\n", "at most 1e"),
        (",a,b\na,0,1,2\nb,1,0\n", "double quotes"),
        ("\ta, x\tb\na, x\t0\t1\nb\t1\t0\n,,,", "double quotes"),
    ],
)
def test_tables_that_look_right_but_are_not(tmp_path, text, words):
    file = tmp_path / "costs.csv"
    file.write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        read_error_costs(file)
    assert "\n" not in str(caught.value)
    assert "--sep" not in str(caught.value)


def test_a_blank_name_names_the_flag():
    with pytest.raises(UserError, match="--costs: pass the name of a file"):
        read_error_costs(" ")


def test_costs_below_zero_move_the_interval_and_do_not_cut_it():
    rng = np.random.default_rng(0)
    label_N = rng.integers(0, 2, 200)
    proba_NC = np.eye(2)[np.where(rng.random(200) < 0.8, label_N, 1 - label_N)]
    rows = Rows.of(label_N, np.arange(200) // 4)
    cost_CC = np.array([[0.0, 1.0], [2.0, 0.0]])
    plain, moved = (
        score_of(mean_cost(cost_CC - less), rows, proba_NC).interval() for less in (0, 3)
    )
    assert moved.low == pytest.approx(plain.low - 3)
    assert moved.high == pytest.approx(plain.high - 3)
