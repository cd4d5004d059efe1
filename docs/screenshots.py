"""Take the images of the documentation: the page of a run, and the leaderboard of several.

python docs/screenshots.py outputs/RUN outputs/*
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from foldblend.commands import leaderboard

IMAGES = Path(__file__).resolve().parent / "images"
CHROMIUM = (
    os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
)


def main() -> None:
    run, *runs = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        board = Path(folder) / "leaderboard.html"
        if leaderboard([*runs, "--page", str(board)]):
            sys.exit("no leaderboard")
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1180, "height": 760})
        tab.goto((Path(run) / "report.html").resolve().as_uri())
        tab.screenshot(path=IMAGES / "report.png")
        tab.evaluate("document.getElementById('confusion').scrollIntoView()")
        tab.screenshot(path=IMAGES / "report_confusion.png")
        tab.evaluate("document.getElementById('gallery').scrollIntoView()")
        tab.screenshot(path=IMAGES / "report_gallery.png")
        tab.goto(board.as_uri())
        tab.screenshot(path=IMAGES / "leaderboard.png")
        browser.close()


if __name__ == "__main__":
    main()
