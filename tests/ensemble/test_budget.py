"""Members within a budget, and score against cost: known answers, and few calls of the score."""

import itertools
import math

import numpy as np
import pytest

from ensemble.budget import Row, costs_of, frontier, frontier_section, within_budget
from ensemble.config import parse_budget
from foldblend.errors import UserError
from foldblend.runs.run import Run
from foldblend.scores.metrics import METRICS
from reports.block_kinds import section_html, section_lines
from tests.makers.small_runs import GPU, LABELS, folds, write_run

WORTH = (0.5, 0.1, 0.3, 0.2)


class Asked:
    """A score that records its calls."""

    def __init__(self, of):
        self.of = of
        self.asked = []

    def __call__(self, members):
        assert list(members) == sorted(set(members))
        self.asked.append(members)
        return self.of(members)


def covered(members):
    """Sum of the members' worths, best first, divided by 1, 2, 3, ..."""
    worths = sorted((WORTH[one] for one in members), reverse=True)
    return sum(worth / place for place, worth in enumerate(worths, 1))


@pytest.mark.parametrize(
    ("text", "budget"), [("3x", 3), ("2.5x", 2.5), ("3", 3), (" 1X", 1), ("10.0", 10)]
)
def test_a_budget_is_a_multiple_of_the_cheapest_cost(text, budget):
    assert parse_budget(text) == budget


@pytest.mark.parametrize(
    "text", ["", "x", "0.5x", "-2x", "3xx", "3 ms", "nan", "inf", "9" * 400, "1e3", "٣x"]
)
def test_a_text_that_is_not_a_budget(text):
    with pytest.raises(UserError, match=r"^--budget .*: pass a multiple .* such as 3x or 2\.5x$"):
        parse_budget(text)


def three(tmp_path, *changes):
    return [
        Run(write_run(tmp_path / name, LABELS, **one))
        for name, one in zip("abc", changes, strict=True)
    ]


def test_costs_are_measured_where_all_are_on_one_device(tmp_path):
    """Four passes an image each, at 100, 50 and 400 a second: 40, 80 and 10 ms."""
    config = {"device": "cuda:0"}
    runs = three(
        tmp_path,
        *(
            {"config": config, "folds": folds(speed, speed, machine=GPU)}
            for speed in (100, 50, 400)
        ),
    )
    cost_M, unit = costs_of(runs)
    np.testing.assert_allclose(cost_M, [4, 8, 1])
    assert unit == "10 ms per image, measured on Big"


def test_costs_are_counted_where_they_cannot_be_compared(tmp_path):
    here, there = (
        {"config": {"device": f"cuda:{gpu}"}, "folds": folds(9, 9, machine=GPU)} for gpu in (0, 1)
    )
    single = {"views": ["identity"], "config": {"finetune": "head"}}
    cost_M, unit = costs_of(three(tmp_path / "one", here, here, single))
    np.testing.assert_array_equal(cost_M, [4, 4, 1])
    assert (
        unit
        == "1 forward pass per image, counted because no speed on a known device is recorded for c"
    )
    cost_M, unit = costs_of(three(tmp_path / "two", here, there, there | {"views": ["identity"]}))
    np.testing.assert_array_equal(cost_M, [2, 2, 1])
    assert unit.startswith(
        "2 forward passes per image, counted because speeds were measured on different devices: Big"
    )


@pytest.mark.parametrize(
    ("budget", "taken"),
    [
        (1, (1,)),
        (2, (2,)),
        (3, (2, 1)),
        (5, (0,)),
        (6, (0, 1)),
        (7, (0, 2)),
        (8, (0, 2, 1)),
        (99, (0, 2, 3, 1)),
    ],
)
def test_within_a_budget_the_best_that_fits_comes_first(budget, taken):
    assert within_budget(covered, np.array([5.0, 1, 2, 4]), budget) == taken


def test_nothing_that_lowers_the_score_is_taken():
    assert within_budget(lambda members: -abs(sum(members) - 3), np.ones(4), 4) == (3, 0)
    # Of equal scores the cheaper member comes first.
    assert within_budget(lambda members: 1.0, np.array([3.0, 1, 2]), 6) == (1, 2, 0)


def test_rounding_of_costs_does_not_matter():
    assert within_budget(len, np.array([0.1, 0.1, 0.1]) / 0.1, 3) == (0, 1, 2)
    assert len(within_budget(len, np.full(3, 0.7) / 0.7 + 1e-12, 3)) == 3


def test_no_member_fits():
    with pytest.raises(UserError, match="--budget 1: the cheapest member costs 2"):
        within_budget(covered, np.array([2.0, 3]), 1)


def test_no_cheaper_subset_reaches_a_point_of_the_frontier():
    """No subset is better at these budgets; there are few enough to try all."""
    cost_M = np.array([5.0, 1, 2, 4])
    found = frontier(covered, cost_M)
    assert [point.members for point in found] == [
        (1,),
        (2,),
        (1, 2),
        (0,),
        (0, 2),
        (0, 1, 2),
        (0, 1, 2, 3),
    ]
    assert all(
        later.cost > first.cost and later.score > first.score
        for first, later in itertools.pairwise(found)
    )
    for point in found:
        assert point.cost == cost_M[list(point.members)].sum()
        assert point.score == covered(point.members)
    subsets = [some for size in range(1, 5) for some in itertools.combinations(range(4), size)]
    best_of = {
        cost: max(covered(s) for s in subsets if cost_M[list(s)].sum() <= cost)
        for cost in (1, 2, 3, 5, 7, 8, 12)
    }
    for cost, best in best_of.items():
        assert max(point.score for point in found if point.cost <= cost) == best


def test_a_member_that_only_harms_is_not_on_the_frontier():
    [only] = frontier(lambda members: -len(members) - max(members), np.ones(3))
    assert only == ((0,), 1.0, -1)
    assert frontier(lambda members: 0.5, np.ones(1)) == [((0,), 1.0, 0.5)]


@pytest.mark.parametrize("num", [2, 7, 50])
def test_few_scores_are_computed(num):
    rng = np.random.default_rng(num)
    worth_M = rng.random(num)
    cost_M = rng.integers(1, 9, num).astype(float)
    asked = Asked(lambda members: math.sqrt(sum(worth_M[list(members)])))
    frontier(asked, cost_M)
    assert len(asked.asked) == len({*asked.asked}) <= num * (num - 1) / 2 + 2 * num
    asked = Asked(asked.of)
    assert sorted(within_budget(asked, cost_M, cost_M.sum())) == list(range(num))
    assert len(asked.asked) <= num * (num + 1) / 2


def row(name, num_members, cost, value):
    return Row(name, num_members, cost, {"value": value, "low": value - 0.03, "high": value + 0.03})


COMMON = {
    "unit": "12 ms per image, measured on Big",
    "num_images": 1200,
    "num_groups": 300,
    "how": "Chosen by cross-validation.",
}


def test_the_section_advises_what_to_deploy():
    rows = [row("all", 4, 12, 0.81), row("a", 1, 1, 0.7), row("a + b", 2, 3.001, 0.79)]
    one = frontier_section(rows, metric=METRICS["f1_macro"], **COMMON)
    text, table, strips, caption = one["blocks"]
    assert (
        text["text"]
        == "Best score: all, macro F1 0.8100 [0.7800, 0.8400], at a cost of 12x. The cheapest that"
        " scores within this interval: a + b, 0.7900, at 3.01x (25% of that cost)."
    )
    assert table["rows"] == [
        ["a", "1", "1x", "0.7000", "[0.6700, 0.7300]", "yes"],
        ["a + b", "2", "3.01x", "0.7900", "[0.7600, 0.8200]", "yes"],
        ["all", "4", "12x", "0.8100", "[0.7800, 0.8400]", "yes"],
    ]
    # The printed cost is a budget that fits.
    assert parse_budget(table["rows"][1][2]) >= rows[2].cost
    assert [each["name"] for each in strips["rows"]] == ["a, 1x", "a + b, 3.01x", "all, 12x"]
    assert [each["interval"]["value"] for each in strips["rows"]] == [0.7, 0.79, 0.81]
    assert (
        "out of fold, 1,200 images of 300 groups. Chosen by cross-validation. A cost of 1x is 12 ms"
        in caption["text"]
    )
    assert max(map(len, section_lines(one))) <= 80
    assert section_html(one, {}).count('class="band"') == 3


def test_advice_where_lower_is_better_and_where_nothing_cheaper_is_as_good():
    rows = [row("a", 1, 1, 0.7), row("b", 1, 2, 0.52), row("a + b", 2, 3, 0.5)]
    text = frontier_section(rows, metric=METRICS["log_loss"], **COMMON)["blocks"][0]["text"]
    assert text.startswith("Best score: a + b, log loss 0.5000")
    assert "interval: b, 0.5200, at 2x (67% of that cost)." in text
    text = frontier_section(rows[::2], metric=METRICS["log_loss"], **COMMON)["blocks"][0]["text"]
    assert text.endswith("at a cost of 3x. Nothing cheaper scores within this interval.")
    unknown = Row("a", 1, 1.0, {"value": None, "low": None, "high": None})
    assert (
        "-"
        in frontier_section([unknown], metric=METRICS["roc_auc_ovr"], **COMMON)["blocks"][1][
            "rows"
        ][0]
    )
