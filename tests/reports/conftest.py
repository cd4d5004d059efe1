"""Shared fixtures: pages in a browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = (
    os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Return a browser; the test is skipped without Chromium or playwright."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: apt install chromium, or set CHROMIUM")
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    with sync_api.sync_playwright() as playwright:
        # A sandbox needs rights that containers lack, and these pages are known to be harmless.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """Return a function that opens a file; fail if the page logs or requests anything."""
    opened = []

    def open_file(file: Path, **options: Any) -> Any:
        page = browser.new_context(**options).new_page()
        events: list[str] = []
        page.on("console", lambda message: events.append(message.text))
        page.on("pageerror", lambda error: events.append(str(error)))
        page.on("dialog", lambda dialog: events.append(dialog.message))
        page.on(
            "request",
            lambda request: None if request.url.startswith("data:") else events.append(request.url),
        )
        page.goto(file.as_uri())
        assert events == [file.as_uri()]
        opened.append((page, events))
        return page

    yield open_file
    for page, events in opened:
        assert len(events) == 1, events
        page.context.close()
