"""Tests of explanations in the page of a run (slow; they need Chromium, playwright and Captum)."""

import itertools
import json
import os
import shutil
from pathlib import Path

import pytest

import report
from foldblend.runs.run import Run
from reports.run.explain_file import EXPLAIN
from reports.run.explained import HINT, explanations_of

CHROMIUM = (
    os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None, reason="Chromium is not installed: apt install chromium, or set CHROMIUM"
    ),
]
sync_api = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: pip install playwright"
)
pytest.importorskip("captum", reason="captum is not installed: pip install captum")


@pytest.fixture(scope="module")
def explained(tiny_runs, tmp_path_factory):
    """Return a run with a page that has explanations."""
    run = Run(shutil.copytree(tiny_runs / "beta", tmp_path_factory.mktemp("explained") / "beta"))
    assert report.main([str(run.path), "--explain"]) == 0
    return run


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Return a function that opens a file; fail if the page logs or requests anything."""
    opened = []

    def open_file(file: Path, **options):
        page = browser.new_context(**options).new_page()
        events: list[str] = []
        page.on("console", lambda message: events.append(message.text))
        page.on("pageerror", lambda error: events.append(str(error)))
        page.on(
            "request",
            lambda request: None if request.url.startswith("data:") else events.append(request.url),
        )
        page.goto(file.as_uri())
        opened.append((page, events))
        return page

    yield open_file
    for page, events in opened:
        assert len(events) == 1, events
        page.context.close()


def boxes(page, selector):
    """Return left, top, right and bottom of all elements."""
    return page.eval_on_selector_all(
        selector,
        "all => all.map(one => { const r = one.getBoundingClientRect();"
        " return [r.left, r.top, r.right, r.bottom]; })",
    )


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_an_opened_mistake_shows_where_the_model_looked(explained, open_page, width):
    page = open_page(explained.path / "report.html", viewport={"width": width, "height": 800})
    assert explanations_of(explained).note in page.inner_text("main")
    page.locator("#tiles button").first.click()
    dialog = page.locator("dialog")
    assert dialog.locator(".explained figure").count() == 3
    _, *captions = dialog.locator("figcaption").all_inner_texts()
    facts = dict(
        row.split("\t") for row in dialog.locator("table").inner_text().splitlines() if "\t" in row
    )
    assert captions[0].endswith(facts["predicted"].rpartition(", ")[0])
    assert captions[1].endswith(facts["true"].rpartition(", ")[0])
    assert HINT in dialog.inner_text()
    # A map covers its image exactly, and nothing is outside the dialog.
    [edge] = boxes(page, "dialog")
    images = boxes(page, ".explained img:has(+ .map)")
    for image, map_ in zip(images, boxes(page, ".explained img.map"), strict=True):
        assert image == pytest.approx(map_, abs=0.6)
    for left, _, right, _ in [*images, *boxes(page, ".explained figcaption")]:
        assert edge[0] <= left < right <= edge[2]
    figures = boxes(page, ".explained figure")
    for before, after in itertools.pairwise(figures):
        assert before[2] <= after[0]
    # The picture is really drawn.
    assert page.eval_on_selector_all(
        ".explained img", "all => all.every(one => one.naturalWidth > 1)"
    )


def test_images_without_maps_and_outdated_maps_are_shown_as_ever(explained, open_page, tmp_path):
    page = open_page(explained.path / "report.html")
    page.select_option("select[name=kind]", "right")
    if page.locator("#tiles button").count():
        page.locator("#tiles button").first.click()
        assert page.locator("dialog .explained").count() == 0
    old = Run(shutil.copytree(explained.path, tmp_path / "old"))
    info = json.loads((old.path / EXPLAIN).read_text())
    (old.path / EXPLAIN).write_text(json.dumps(info | {"oof": "0" * 32}))
    assert report.main([str(old.path)]) == 0
    page = open_page(old.path / "report.html")
    assert "earlier predictions of this run" in page.inner_text("main")
    page.locator("#tiles button").first.click()
    assert page.locator("dialog img").count() == 1
    assert page.locator("dialog .explained").count() == 0
