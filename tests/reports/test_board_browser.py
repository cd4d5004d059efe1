"""Tests of the leaderboard in a browser (slow; they need Chromium and playwright)."""

import itertools
import json

import cv2
import numpy as np
import pytest

from foldblend.runs.folder import read_json, write_json
from foldblend.runs.run import Run
from leaderboard import main as leaderboard
from tests.makers.synthetic_runs import write_synthetic_run

pytestmark = pytest.mark.slow
NASTY = "<img src=x onerror=window.hit=1>"
RUNS = ("best", "middle", "worst", NASTY)
LONG = "a_rather_long_name_of_a_run_with_all_that_was_tried"
WIDTHS = (390, 768, 1280, 1920)


def write_board(root, names, *, num_people=40, paths=()):
    for index, name in enumerate(names):
        folder = write_synthetic_run(
            root / name, num_people=num_people, paths=paths, strength=2.0 / (1 + index), seed=index
        )
        info = read_json(folder / "run.json")
        # The cost of the third run is not known.
        del info["seconds"]
        write_json(folder / "run.json", info | ({} if index == 2 else {"seconds": 10.0 * 4**index}))
    runs = [str(root / name) for name in names]
    assert leaderboard([*runs, "--page", str(root / "board.html")]) == 0
    return root / "board.html"


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    """Return the leaderboard of four runs with images, one of them with HTML in its name."""
    root = tmp_path_factory.mktemp("board")
    file = root / "image.png"
    cv2.imwrite(str(file), np.full((160, 120, 3), 90, np.uint8))
    return write_board(root, RUNS, paths=[file])


def names(page):
    rows = page.locator(".board tbody tr:visible td:first-child")
    return [text.split()[0] for text in rows.all_inner_texts()]


def test_the_leaderboard_is_sorted(board, open_page):
    page = open_page(board)
    order = ["best", "middle", "worst", "<img"]
    assert names(page) == order
    button = page.get_by_role("button", name="Sort by macro F1")
    head = page.locator(".board th[data-title='macro F1']")
    found = []
    for _ in range(2):
        button.click()
        found.append((head.get_attribute("aria-sort"), names(page)))
    assert sorted(found) == [("ascending", order[::-1]), ("descending", order)]
    page.get_by_role("button", name="Sort by run").focus()
    page.keyboard.press("Enter")
    assert names(page) == ["<img", "best", "middle", "worst"]
    assert head.get_attribute("aria-sort") is None
    # A run whose cost is not known is last in both directions.
    for order in (["best", "middle", "<img", "worst"], ["<img", "middle", "best", "worst"]):
        page.get_by_role("button", name="Sort by compute").click()
        assert names(page) == order


def test_runs_are_filtered_by_words(board, open_page):
    page = open_page(board)
    status = page.get_by_role("status")
    assert status.inner_text() == "4 runs"
    page.get_by_label("Filter by name or kind").focus()
    page.keyboard.type("ST")
    assert names(page) == ["best", "worst"]
    assert status.inner_text() == "2 of 4 runs"
    page.keyboard.type(" cv wor")
    assert names(page) == ["worst"]
    page.keyboard.type(" blend")
    assert names(page) == []
    page.get_by_label("Filter by name or kind").fill("")
    assert len(names(page)) == 4
    finished = page.locator("th[data-title=finished]")
    assert not finished.is_visible()
    page.get_by_label("all columns").check()
    assert finished.is_visible()
    page.get_by_label("all columns").uncheck()
    assert not finished.is_visible()
    page.emulate_media(media="print")
    assert finished.is_visible()


def test_two_runs_side_by_side(board, open_page):
    page = open_page(board)
    page.select_option("select[name=first]", label="middle")
    page.select_option("select[name=second]", label=NASTY)
    runs = [Run(board.parent / name) for name in ("middle", NASTY)]
    label = runs[0].oof["label"].to_numpy()
    one, other = (run.logits(run.oof).argmax(axis=1) for run in runs)
    expected = {
        "Right only in the first run": (one == label) & (other != label),
        "Right only in the second run": (other == label) & (one != label),
        "Wrong in both, as different classes": (one != label) & (other != label) & (one != other),
    }
    shown = page.inner_text(".pair-of-runs .result")
    assert f"{int(expected['Right only in the first run'].sum())} are right only in" in shown
    titles = page.locator(".result h4").all_inner_texts()
    assert titles == [f"{title} ({rows.sum()})" for title, rows in expected.items() if rows.any()]
    for title, cards in zip(titles, page.locator(".cards").all(), strict=True):
        rows = expected[title.rpartition(" (")[0]]
        images = set(runs[0].oof["image_id"][rows])
        for text in cards.locator(".name").all_inner_texts():
            assert text in images
    assert page.locator(".card").count() == page.locator(".card img").count() > 0
    sizes = page.locator(".card img").evaluate_all("images => images.map(one => one.naturalHeight)")
    assert set(sizes) == {96}
    more = page.locator(".result button", has_text="more").first
    before = page.locator(".card").count()
    more.click()
    assert page.locator(".card").count() > before
    page.select_option("select[name=label]", index=1)
    true = page.locator("select[name=label] option").nth(1).inner_text()
    for text in page.locator(".card span:nth-of-type(2)").all_inner_texts():
        assert text == f"true: {true}"
    assert page.evaluate("window.hit") is None


def test_the_difference_of_a_pair_is_that_of_the_board(board, open_page):
    page = open_page(board)
    place = page.locator("#leaderboard-data").evaluate("node => node.textContent")
    [data] = json.loads(place)
    for first, second in itertools.permutations(range(4), 2):
        page.select_option("select[name=first]", value=str(first))
        page.select_option("select[name=second]", value=str(second))
        low, high = sorted((first, second))
        value = data["differences"][low][high - low - 1][0] * (1 if first < second else -1)
        text = page.locator(".result .ladder").nth(1).locator(".value").inner_text()
        assert text.startswith(f"{value:+.4f} [")
        # The dot is right of the line at 0 if the first run is better.
        places = [
            page.locator(f".result .ladder:nth-of-type(2) .{kind}").evaluate(
                "node => parseFloat(node.style.left)"
            )
            for kind in ("line", "dot")
        ]
        assert (places[1] - places[0]) * value > 0


@pytest.mark.parametrize("width", WIDTHS)
def test_the_table_fits_or_scrolls_beside_its_first_column(width, tmp_path, open_page):
    file = write_board(tmp_path, [LONG, *(f"lite0_tuned_{index}" for index in range(11))])
    page = open_page(file, viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    sizes = page.locator(".scroll").first.evaluate("node => [node.clientWidth, node.scrollWidth]")
    if width >= 1280:
        assert sizes[0] == sizes[1]
        return
    place = page.locator(".scroll").first
    place.evaluate("node => { node.scrollLeft = 300; }")
    edge = place.evaluate("node => node.getBoundingClientRect().left")
    first = page.locator(".board tbody td:first-child").first.bounding_box()
    assert first["x"] == pytest.approx(edge, abs=1)
    # Most of the screen is left for the other columns.
    assert first["width"] < 0.45 * width


def test_no_script_is_needed_to_read_the_table(board, open_page):
    page = open_page(board, java_script_enabled=False)
    assert "need JavaScript" in page.inner_text("body")
    assert page.locator("th[data-title=finished]").is_visible()
    assert page.locator("form:visible").count() == 0


def test_two_runs_side_by_side_say_what_their_axes_are(tmp_path, open_page):
    names = ("best", "worst")
    file = write_board(tmp_path, names)
    for metric, better in (("f1_macro", 0), ("log_loss", 1)):
        runs = [str(tmp_path / name) for name in names]
        assert leaderboard([*runs, "--metric", metric, "--page", str(file)]) == 0
        page = open_page(file)
        text = page.inner_text(".pair-of-runs .result")
        assert "clear if its interval does not contain 0" in text
        assert text.count("lower is better") == 2 * better
        [data] = json.loads(page.locator("#leaderboard-data").evaluate("node => node.textContent"))
        cut = data["scales"]["score"]["is_cut"]
        assert ("scale does not start at 0" in text) == cut
        for axis in page.locator(".result .axis").all():
            assert 1 <= axis.locator("b").count() <= 3
        ends = data["differences"][0][0]
        assert ends[1] > 0 or ends[2] < 0
        strip = page.locator(".result .ladder").nth(1).locator(".strip").first
        assert "better" in strip.get_attribute("class")
        page.select_option("select[name=first]", value="1")
        page.select_option("select[name=second]", value="0")
        assert "worse" in strip.get_attribute("class")
