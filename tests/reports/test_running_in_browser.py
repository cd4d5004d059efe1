"""The pages of running runs in a browser (slow): they fit, and load themselves again."""

import pytest

from foldblend.runs.folder import lock_fold
from reports.board.output import Output
from reports.board.watch import Memory, watch_once
from tests.makers.small_runs import LABELS, write_run
from tests.makers.unfinished_runs import NOW, finish_fold, write_unfinished_run

pytestmark = pytest.mark.slow

LONG = "a_backbone_with_a_long_name-and_settings_in_its_name-lr0.001-drop_path0.2-seed3"


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Return a folder with a finished run, and runs that are running, stopped and damaged."""
    folder = tmp_path_factory.mktemp("watched") / "outputs"
    write_run(folder / "good", LABELS)
    write_unfinished_run(folder / LONG, done=2, epochs=3)
    write_unfinished_run(folder / "stopped", done=1, epochs=2, optimistic=True)
    damaged = write_unfinished_run(folder / "damaged", done=2, epochs=0)
    (damaged / "fold_0" / "done.json").write_text("{")
    return folder


def write_pages(outputs, page, *, reload=3600):
    """Write the pages as a watch does, and return those of the runs."""
    with lock_fold(outputs / LONG, 2):
        look = watch_once([outputs], None, now=NOW + 5, memory=Memory())
    assert look.problem is None
    Output(page=page, json=None).write(look.every, look.runs, reload=reload)
    return sorted((page.parent / f"{page.stem}-running").iterdir())


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 768, 1030, 1280, 1920])
def test_pages_fit_without_a_script_or_a_request(outputs, open_page, tmp_path, width, scheme):
    board = tmp_path / "board.html"
    runs = write_pages(outputs, board)
    assert len(runs) == 3
    for file in (board, *runs):
        page = open_page(file, viewport={"width": width, "height": 800}, color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, file.name
        for figure in page.locator("figure svg").all():
            box = figure.bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
    page = open_page(board, viewport={"width": width, "height": 800}, color_scheme=scheme)
    # No cell of the table lies on another one.
    boxes = [one.bounding_box() for one in page.locator("#running td").all()]
    assert len(boxes) == 3 * 6
    for index, one in enumerate(boxes):
        for other in boxes[index + 1 :]:
            beside = min(one["x"] + one["width"], other["x"] + other["width"]) - max(
                one["x"], other["x"]
            )
            below = min(one["y"] + one["height"], other["y"] + other["height"]) - max(
                one["y"], other["y"]
            )
            assert beside < 1 or below < 1


def test_the_row_leads_to_the_page_and_back(outputs, browser, tmp_path):
    board = tmp_path / "my board #1.html"
    write_pages(outputs, board)
    page = browser.new_page()
    page.goto(board.as_uri())
    page.focus("#running a >> nth=0")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=Curves so far")
    page.click("text=Leaderboard")
    page.wait_for_selector("#running")
    page.close()


def test_an_open_page_loads_itself_again(outputs, browser, tmp_path):
    board = tmp_path / "board.html"
    write_pages(outputs, board, reload=1)
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(board.as_uri())
    row = f"#running tr:has-text('{LONG}')"
    assert "2 of 5" in page.inner_text(row)
    finish_fold(outputs / LONG, 2)
    write_pages(outputs, board, reload=1)
    page.wait_for_selector(f"{row}:has-text('3 of 5')")
    page.context.close()
