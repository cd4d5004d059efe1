"""Tests of how pages look (slow; they need Chromium): no overlap, nothing cut, enough contrast.

`layout.js` compares the boxes of all texts and figures. axe checks contrast and the rules of WCAG.
"""

import base64
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

import foldblend as fb
import run_audit
from foldblend.runs.folder import read_json, write_json
from leaderboard import main as leaderboard
from reports.board.output import Output
from reports.board.watch import Memory, watch_once
from reports.run.report import write_report
from tests.makers.small_runs import LABELS, write_run
from tests.makers.synthetic_runs import write_synthetic_run
from tests.makers.unfinished_runs import NOW, write_unfinished_run
from tests.reports.layout import faults

axe = pytest.importorskip(
    "axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed"
)
pytestmark = pytest.mark.slow

WIDTHS = (390, 768, 1280, 1920)
PAGES = ("run", "long", "bare", "blend", "leaderboard", "audit", "predictions", "board", "running")


def quiet(_):
    pass


def write_running(root):
    """Write the pages of a run that is not finished: that of the leaderboard and its own."""
    outputs = root / "watched"
    write_run(outputs / "good", LABELS)
    write_unfinished_run(outputs / "going", done=2, epochs=3)
    look = watch_once([outputs], None, now=NOW + 5, memory=Memory())
    Output(page=root / "board.html", json=None).write(look.every, look.runs, reload=3600)
    [page] = (root / "board-running").iterdir()
    return {"board": root / "board.html", "running": page}


def write_odd(root):
    """Write the pages of a run with long names, and of one by a loss whose images are gone."""
    found = {}
    for name in ("long", "bare"):
        names = [f"{'a_long_class_' * 5}{one}" for one in range(18)] if name == "long" else None
        folder = write_synthetic_run(root / name, num_people=20, names=names)
        info = read_json(folder / "run.json")
        if name == "long":
            values = [letter * 90 for letter in "yzw"]
            info["attributes"][0] |= {"name": "x" * 180, "values": values}
        else:
            info["metric"] = "log_loss"
        write_json(folder / "run.json", info)
        write_report(folder)
        found[name] = folder / "report.html"
    return found


@pytest.fixture(scope="module")
def pages(tmp_path_factory, tiny_layout, tiny_runs):
    """Return the file of a page of each kind."""
    root = tmp_path_factory.mktemp("pages")
    outputs = root / "outputs"
    runs = [Path(shutil.copytree(tiny_runs / name, outputs / name)) for name in ("alpha", "beta")]
    write_report(runs[0])
    blend = fb.blend(runs, output=str(outputs), name="both", say=quiet)
    image = sorted((tiny_layout / "train" / "images").rglob("*.jpg"))[0]
    for index in range(12):
        name = f"tf_efficientnet_lite{index % 3}_{128 + 32 * index}px_with_a_long_name"[
            : 20 + index
        ]
        strength = 2.0 / (1 + index)
        write_synthetic_run(
            outputs / name, num_people=40, paths=[image], strength=strength, seed=index
        )
    board = root / "leaderboard.html"
    # The runs of other data are on a board of their own.
    assert leaderboard([str(outputs), "--page", str(board)]) == 0
    audit = root / "audit.html"
    assert run_audit.main(["--data", str(tiny_layout), "--page", str(audit)]) == 0
    new = sorted(map(str, (tiny_layout / "eval" / "images").iterdir()))[:24]
    fb.predict(runs[0], new, page=str(root / "predictions.html"), say=quiet)
    return {
        "run": runs[0] / "report.html",
        "blend": blend.path / "report.html",
        "leaderboard": board,
        "audit": audit,
        "predictions": root / "predictions.html",
        **write_odd(root),
        **write_running(root),
    }


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_nothing_overlaps_or_is_cut(pages, open_page, name, width):
    page = open_page(pages[name], viewport={"width": width, "height": 900})
    assert faults(page) == []
    for one in page.locator("details").all():
        one.evaluate("one => { one.open = true; }")
    assert faults(page) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_contrast_is_enough_and_axe_finds_nothing(pages, open_page, name, scheme):
    page = open_page(pages[name], viewport={"width": 1280, "height": 900}, color_scheme=scheme)
    for one in page.locator("details").all():
        one.evaluate("one => { one.open = true; }")
    # Pages of a watch load themselves again, as their text says.
    rules = {"rules": {"meta-refresh": {"enabled": name not in ("board", "running")}}}
    found = axe.Axe().run(page, options=rules).response["violations"]
    assert [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in found] == []


def test_words_are_explained_near_them_by_keyboard_and_closed_by_escape(pages, open_page):
    page = open_page(pages["run"], viewport={"width": 390, "height": 800})
    word = page.locator(".term").first
    assert not word.locator("span").is_visible()
    word.focus()
    box = word.locator("span").bounding_box()
    at = word.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    assert abs(box["y"] - at["y"]) < 200
    page.keyboard.press("Escape")
    assert not word.locator("span").is_visible()
    for one in page.locator(".term").all()[1:]:
        one.focus()
        box = one.locator("span").bounding_box()
        assert 0 <= box["x"] <= box["x"] + box["width"] <= 390


def test_the_first_screen_holds_what_matters(pages, open_page):
    page = open_page(pages["blend"], viewport={"width": 1280, "height": 800})
    for shown in (".big", ".ladder", ".tiny", ".steps", ".worst-tiles img"):
        box = page.locator(shown).first.bounding_box()
        assert box["y"] + box["height"] <= 800, shown


@pytest.mark.parametrize(
    ("inside", "fault"),
    [
        ("<p>plain text</p><p>more text</p>", None),
        ('<p style="margin:0">one</p><p style="margin:-1.2em 0 0">two</p>', "overlap"),
        ('<div style="width:3em;overflow:hidden;white-space:nowrap">a long text</div>', "cut"),
        ('<p style="width:900px;white-space:nowrap">wide</p>', "px wide"),
        ('<svg width="90" height="20"><text x="60" y="15">beyond it</text></svg>', "its figure"),
        ('<svg width="90" height="20"><text y="9" font-size="4">tiny</text></svg>', "too small"),
        ('<p>under</p><img alt="" style="margin-top:-40px;display:block" src="{}">', "overlap"),
        ('<div style="overflow-x:auto"><p style="width:900px">it scrolls</p></div>', None),
    ],
)
def test_faults_are_found(open_page, tmp_path, inside, fault):
    image = tmp_path / "image.png"
    cv2.imwrite(str(image), np.zeros((40, 40, 3), np.uint8))
    file = tmp_path / "page.html"
    source = f"data:image/png;base64,{base64.b64encode(image.read_bytes()).decode()}"
    file.write_text(f"<!doctype html><body>{inside.replace('{}', source)}</body>")
    found = faults(open_page(file, viewport={"width": 600, "height": 600}))
    assert bool(found) == (fault is not None), found
    assert all(fault in one for one in found)


def test_an_image_of_the_first_screen_opens_and_closing_it_leads_back(pages, open_page):
    page = open_page(pages["run"], viewport={"width": 1280, "height": 800})
    button = page.locator(".worst-tiles button").first
    button.focus()
    page.keyboard.press("Enter")
    assert button.get_attribute("title") in page.inner_text("#one table")
    page.keyboard.press("Escape")
    assert not page.is_visible("#one")
    assert button.evaluate("one => one === document.activeElement")
    assert page.evaluate("scrollY") < 100
    button.click()
    page.click("text=All of this person")
    assert page.locator("#tiles button").first.evaluate("one => one === document.activeElement")
