"""Settings that need an order of classes or values are refused where there is none."""

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest

from ensemble.blend import blend
from foldblend.attributes import Attribute
from foldblend.errors import UserError
from foldblend.runs.run import Run
from foldblend.scores.metrics import METRICS, is_ordered
from pipeline.checks import check_orders
from pipeline.config.settings import make_config
from reports.board.leaderboard import leaderboard
from reports.run.report import write_report
from tests.makers.edits import edit_run
from tests.makers.synthetic_runs import write_synthetic_run

WORDS = ("bad", "fair", "good")
SIZE = Attribute(name="size", values=("big", "mid", "small"), of_class=(0, 1, 2))
SEX = Attribute(name="sex", values=("f", "m"), of_class=(0, 1, 1))


def data(classes=WORDS, *, ordered=False, attributes=()):
    return SimpleNamespace(classes=classes, ordered=ordered, attributes=attributes)


@pytest.mark.parametrize(
    ("classes", "declared", "is_one"),
    [
        (WORDS, False, False),
        (WORDS, True, True),
        (("no", "yes"), False, True),
        (("0", "1", "2"), False, True),
        (("0", "1.5", "-2"), False, True),
        (("0", "1", "nan"), False, False),
        (("0", "1", "2 or more"), False, False),
    ],
)
def test_classes_with_an_order(classes, declared, is_one):
    assert is_ordered(classes, declared) == is_one


def test_kappa_of_words_is_refused_with_the_cure():
    config = make_config(metric="kappa_quadratic")
    message = (
        "--metric kappa_quadratic: the classes are words without an order; pass --class-order a,b,c"
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        check_orders(config, data(), {})
    check_orders(config, data(ordered=True), {})
    check_orders(config, data(("1", "2", "10")), {})
    check_orders(make_config(), data(), {})


def test_a_reader_of_ones_own_gives_the_order_itself():
    config = make_config(metric="kappa_quadratic", dataset="mine:read")
    with pytest.raises(UserError, match="give the ImageTable ordered=True"):
        check_orders(config, data(), {})


def test_ordinal_heads_need_ordered_values():
    config = make_config(head="attributes", ordinal="size,sex")
    with pytest.raises(UserError, match=r"^--ordinal size: .*big, mid, small.*--class-order a,b,c"):
        check_orders(config, data(attributes=(SEX, SIZE)), {})
    check_orders(config, data(attributes=(SEX, replace(SIZE, ordered=True))), {})
    check_orders(make_config(head="attributes", ordinal="sex"), data(attributes=(SEX, SIZE)), {})


def test_runs_of_earlier_versions_are_continued():
    config = make_config(metric="kappa_quadratic", head="attributes", ordinal="size")
    written = {"metric": "kappa_quadratic", "ordinal": "size"}
    check_orders(config, data(attributes=(SIZE,)), written)


@pytest.fixture
def runs(tmp_path):
    """Return two runs, of which the second does not record whether its classes have an order."""
    found = [
        Run(write_synthetic_run(tmp_path / name, num_people=10, seed=seed))
        for seed, name in enumerate(("new", "old"))
    ]
    edit_run(found[0].path, ordered=False)
    return [Run(run.path) for run in found]


def test_other_commands_refuse_kappa_where_a_run_records_that_there_is_no_order(runs):
    message = r"--metric kappa_quadratic: .*; pass another --metric, or make the runs with"
    with pytest.raises(UserError, match=message):
        leaderboard(runs, metric="kappa_quadratic")
    with pytest.raises(UserError, match=message):
        blend(runs, metric="kappa_quadratic", name="x", say=lambda _: None)
    assert leaderboard(runs[1:], metric="kappa_quadratic")["metric"] == "kappa_quadratic"
    edit_run(runs[0].path, ordered=True)
    again = [Run(run.path) for run in runs]
    made = blend(
        again, metric="kappa_quadratic", method="soft", name="x", page=False, say=lambda _: None
    )
    assert made.info["ordered"] is True


def test_the_table_of_scores_has_kappa_only_where_there_is_an_order(runs):
    for run in runs:
        write_report(run, page=False)
    assert list(runs[0].report["scores"]) == [name for name in METRICS if "kappa" not in name]
    assert "quadratic kappa" not in (runs[0].path / "report.txt").read_text()
    assert list(runs[1].report["scores"]) == list(METRICS)
