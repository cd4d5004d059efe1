"""First screens of predictions and of the audit in a browser (slow; they need Chromium)."""

import pytest

import foldblend as fb
import run_audit

pytestmark = pytest.mark.slow

SCREEN = {"width": 1280, "height": 800}


def quiet(_):
    pass


def assert_on_first_screen(page, *selectors):
    for shown in selectors:
        box = page.locator(shown).first.bounding_box()
        assert box["y"] + box["height"] <= SCREEN["height"], shown


def test_predictions_need_no_javascript(alpha, tiny_layout, tmp_path, open_page):
    file = tmp_path / "a.html"
    fb.predict(alpha.path, tiny_layout / "eval" / "images", page=str(file), say=quiet)
    page = open_page(file, viewport=SCREEN, java_script_enabled=False)
    assert_on_first_screen(page, ".big", ".ladder", ".first figure svg", ".firsts img")
    word = page.locator(".term").first
    assert not word.locator("span").is_visible()
    word.focus()
    assert word.locator("span").is_visible()


def test_the_audit_starts_with_its_checks(tiny_layout, tmp_path, open_page):
    file = tmp_path / "audit.html"
    argv = ["--data", str(tiny_layout), "--quick", "--folds", "2", "--page", str(file)]
    assert run_audit.main(argv) == 0
    page = open_page(file, viewport=SCREEN)
    assert_on_first_screen(page, ".headline", ".checks.good", ".checks.open")
    assert page.locator(".checks.good li").count() >= 8
