"""Take the images of the documentation from the demo pages.

Run ``make docs``, which builds the pages, then ``python -m docs.screenshots``.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from foldblend.errors import UserError, require

__all__ = ["SHOTS", "Shot", "smallest_loss"]

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
# All images of the documentation together, those that are not taken here included.
MOST_BYTES = 1_000_000
COLOURS = (256, 192, 128, 96, 64, 48, 32, 16)


@dataclass(frozen=True, slots=True)
class Shot:
    """An image of the documentation: a part of a page as large as the window."""

    page: str
    """The page, below ``site/demo``."""
    at: str = ""
    """The id of the element that is scrolled to; empty for the top of the page."""
    height: int = 800
    """The height of the window, which is 1280 wide."""


SHOTS = {
    "report.png": Shot("outputs/lite2/report.html"),
    "report_confusion.png": Shot("outputs/lite2/report.html", "confusion", 1130),
    "report_gallery.png": Shot("outputs/lite2/report.html", "gallery", 620),
    "blend.png": Shot("outputs/blend/report.html"),
    "leaderboard.png": Shot("leaderboard.html", height=1000),
    "audit.png": Shot("audit.html"),
    "predictions.png": Shot("predictions.html", height=830),
}


def _encoded(image: Image.Image, colours: int) -> bytes:
    """Return an image as a PNG with a palette of so many colours."""
    file = io.BytesIO()
    # Without dithering, areas of one colour stay even, and the file is a third smaller.
    few = image.convert("RGB").quantize(colours, dither=Image.Dither.NONE)
    few.save(file, "PNG", optimize=True)
    return file.getvalue()


def smallest_loss(images: Mapping[str, Image.Image], most_bytes: int) -> dict[str, bytes]:
    """Return images as PNG files with as many colours as fit into a number of bytes together.

    Raises
    ------
    UserError
        If they do not fit with the fewest colours either.

    Examples
    --------
    >>> files = smallest_loss({"grey.png": Image.new("RGB", (8, 8), "grey")}, most_bytes=1000)
    >>> Image.open(io.BytesIO(files["grey.png"])).size
    (8, 8)
    """
    for colours in COLOURS:
        files = {name: _encoded(image, colours) for name, image in images.items()}
        if sum(map(len, files.values())) <= most_bytes:
            return files
    size = sum(map(len, files.values()))
    raise UserError(
        f"docs/images: {size:,} bytes of screenshots, at most {most_bytes:,} are left; lower a"
        " height in SHOTS of docs/screenshots.py"
    )


def _taken(site: Path) -> dict[str, Image.Image]:
    """Return the images of all shots. Raises UserError if a page or a browser is missing."""
    for shot in SHOTS.values():
        require((site / shot.page).is_file(), f"{site / shot.page}: missing; run make docs")
    browser_file = os.environ.get("CHROMIUM") or shutil.which("chromium")
    browser_file = browser_file or shutil.which("chromium-browser")
    require(browser_file is not None, "Chromium: not found; install it, or set CHROMIUM")
    from playwright.sync_api import ViewportSize, sync_playwright

    images: dict[str, Image.Image] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_file, args=["--no-sandbox"])
        for name, shot in SHOTS.items():
            window = ViewportSize(width=1280, height=shot.height)
            tab = browser.new_page(viewport=window, color_scheme="light")
            tab.goto((site / shot.page).resolve().as_uri())
            if shot.at:
                tab.evaluate("id => document.getElementById(id).scrollIntoView()", shot.at)
            images[name] = Image.open(io.BytesIO(tab.screenshot()))
            tab.close()
        browser.close()
    return images


def main() -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m docs.screenshots", description=__doc__)
    site = ROOT / "site" / "demo"
    parser.add_argument("--site", type=Path, default=site, help="the demo pages")
    parser.add_argument("--to", type=Path, default=IMAGES, help="where the images are put")
    given = parser.parse_args()
    kept = sum(file.stat().st_size for file in IMAGES.iterdir() if file.name not in SHOTS)
    try:
        files = smallest_loss(_taken(given.site), MOST_BYTES - kept)
        given.to.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (given.to / name).write_bytes(content)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{len(files)} images, {sum(map(len, files.values())):,} bytes: {given.to}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
