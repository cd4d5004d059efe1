"""Reports and leaderboards call groups as the data do, and say nothing of people otherwise."""

import re

import pytest

from ensemble.blend import blend
from foldblend.errors import UserError
from foldblend.runs.folder import read_json
from foldblend.runs.run import Run
from reports.board.leaderboard import leaderboard
from reports.board.page import board_page
from reports.board.text import board_lines
from reports.run.report import write_report
from reports.run.screen import screen_lines
from reports.run.text import is_alarm
from tests.makers.edits import edit_run
from tests.makers.synthetic_runs import write_synthetic_run

CLASSES = [f"kind {index}" for index in range(18)]


def product_run(folder, *, group_name="product", **changes):
    """Write a run of 12 products with random logits."""
    seed = len(folder.name)
    run = write_synthetic_run(folder, num_people=12, num_test=10, names=CLASSES, seed=seed)
    data = read_json(run / "run.json")["data"] | {"group_name": group_name}
    edit_run(run, data=data, attributes=[], **changes)
    return run


@pytest.fixture(scope="module")
def products(tmp_path_factory):
    """Return two runs of products and their blend, with reports."""
    outputs = tmp_path_factory.mktemp("products")
    names = ["a", "bb"]
    runs = [Run(product_run(outputs / name)) for name in names]
    for run in runs:
        write_report(run)
    return [*runs, blend(runs, name="both", say=lambda _: None)]


def texts_of(run):
    return {
        "text": (run.path / "report.txt").read_text(),
        "json": (run.path / "report.json").read_text(),
        "page": (run.path / "report.html").read_text(),
        "screen": "\n".join(screen_lines(run, width=200)),
        "repr": repr(run),
    }


@pytest.mark.slow
def test_reports_say_products(products):
    for run in products:
        for name, text in texts_of(run).items():
            words = re.sub(r"\s+", " ", text)
            readable = _readable(words)
            assert not re.search(r"\b(persons?|people|patients?|gender|age)\b", words, re.I), name
            # The text and the data of the gallery have groups as a key only.
            assert not re.search(r"(?<![\"\w.=])groups?\b(?!\")", readable), (run, name)
            if name != "json":
                assert "12 products" in words, name
    assert products[0].report["interval"] == "95 % jackknife over products"
    assert products[2].info["data"]["group_name"] == "product"


def _readable(text):
    """Return a page without its script and style, whose identifiers nobody reads."""
    # The glossary explains groups in general, whatever they are here.
    text = re.sub(r'<span role="tooltip">.*?</span>|<dd>.*?</dd>', "", text, flags=re.S)
    text = re.sub(r"<(script|style).*?</\1>", "", text, flags=re.S)
    return re.sub(r"<[^>]*>", " ", text)


@pytest.mark.slow
def test_filters_of_the_page_say_product(products):
    page = (products[0].path / "report.html").read_text()
    assert '<label>Product <input name="group"' in page
    assert '"group_name":"product"' in page
    assert "goes to the filter by product" in page


@pytest.mark.slow
def test_boards_say_products(products):
    every = leaderboard(products)
    [board] = every["boards"]
    for text in ("\n".join(board_lines(every, board, width=200)), board_page(every)):
        assert "84 images of 12 products" in text
        assert "intervals by jackknife over products" in text
        assert not re.search(r"\bgroups?\b", _readable(text))


def test_a_leak_is_an_alarm_whatever_groups_are_called(tmp_path):
    run = Run(product_run(tmp_path / "leaky", leaks=True))
    text = write_report(run, page=False)
    assert "products leak between folds, so this score is probably too high" in text
    assert any(is_alarm(note) for note in run.report["notes"])
    assert is_alarm("--split random leaks products between folds: this score is probably too high")
    every = leaderboard([run])
    assert "PRODUCTS LEAK" in "\n".join(board_lines(every, every["boards"][0]))
    with pytest.raises(UserError, match="products leak between folds"):
        blend([run], name="leaks", say=lambda _: None)


def test_older_runs_say_groups(tmp_path):
    run = write_synthetic_run(tmp_path / "old", num_people=8)
    assert "56 images of 8 groups" in write_report(run, page=False)
    assert Run(run).groups == "groups"


def test_people(tmp_path):
    run = product_run(tmp_path / "p", group_name="person")
    assert "84 images of 12 people" in write_report(run, page=False)
