"""Predictions as images: grids with captions, the confusion matrix. Arrays in, arrays out."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

__all__ = ["confusion_image", "legible", "tile"]

GAP = 4  # pixels around each tile
FONT_SIZE = 10
LINE = 12  # pixels from one line of a caption to the next
CHARACTER = 6  # pixels, about the mean width of a letter
# Limits of the longer side of a tile: no caption fits below, and files grow large above.
SIDES = (112, 192)
CELL = 28  # pixels of a cell of the confusion matrix, wide enough for 4 digits
DEEPEST = (8, 48, 107)  # colour of a share of 1; a share of 0 is white
MOST_LETTERS = 50  # a longer name next to the matrix is cut
MOST_NAMED = 40  # classes whose names and counts can be read in one figure


@functools.cache
def _font() -> Any:
    import matplotlib

    return ImageFont.truetype(
        str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), FONT_SIZE
    )


def _wrapped(caption: str, width: int) -> list[str]:
    return [
        part
        for line in caption.splitlines()
        for part in textwrap.wrap(line, max(width // CHARACTER, 8))
    ]


def legible(images_NHWC: np.ndarray) -> np.ndarray:
    """Return images scaled so that the longer side suits a captioned tile."""
    num, height, width = images_NHWC.shape[:3]
    scale = np.clip(max(height, width), *SIDES) / max(height, width)
    if scale == 1 or not num:
        return images_NHWC
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    return np.stack([cv2.resize(image, size, interpolation=how) for image in images_NHWC])


def tile(images_NHWC: np.ndarray, captions: Sequence[str] | None, columns: int) -> np.ndarray:
    """Return N images as tiles of one image on white, row by row, captions below."""
    num, height, width = images_NHWC.shape[:3]
    assert num > 0, "nothing to show"
    assert images_NHWC.dtype == np.uint8, images_NHWC.dtype
    texts = [_wrapped(caption, width) for caption in captions or ()]
    assert len(texts) in (0, num), (len(texts), num)
    band = max(map(len, texts), default=0) * LINE
    columns = min(columns, num)
    down = height + band + GAP
    across = width + GAP
    sheet = np.full((-(-num // columns) * down + GAP, columns * across + GAP, 3), 255, np.uint8)
    for index, image in enumerate(images_NHWC):
        top = GAP + index // columns * down
        left = GAP + index % columns * across
        sheet[top : top + height, left : left + width] = image
        if band:
            # Each caption has a separate strip, so that no line runs into the next tile.
            strip = Image.new("RGB", (width, band), "white")
            draw = ImageDraw.Draw(strip)
            for number, line in enumerate(texts[index]):
                draw.text((0, number * LINE), line, fill="black", font=_font())
            sheet[top + height : top + height + band, left : left + width] = np.asarray(strip)
    return sheet


def _names_image(names: Sequence[str]) -> Image.Image:
    """Return names as an image of one column, right-aligned; long names are cut."""
    names = [" ".join(name.split())[:MOST_LETTERS] for name in names]
    width = ceil(max(_font().getlength(name) for name in names)) + 2 * GAP
    column = Image.new("RGB", (width, len(names) * CELL), "white")
    draw = ImageDraw.Draw(column)
    for index, name in enumerate(names):
        draw.text(
            (width - GAP, (index + 0.5) * CELL), name, fill="black", font=_font(), anchor="rm"
        )
    return column


def confusion_image(counts_CC: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """Return the confusion matrix as an image, H x W x 3 uint8.

    Rows are true classes, columns are predicted classes; the colour is the share of the true class.
    Beyond 40 classes there are neither names nor counts. It is drawn without matplotlib, which
    takes most of a second for 18 classes.
    """
    num = len(class_names)
    assert counts_CC.shape == (num, num), (counts_CC.shape, num)
    share_CC = counts_CC / np.maximum(counts_CC.sum(axis=1, keepdims=True), 1)
    colours_CC3 = (255 + share_CC[..., None] * (np.array(DEEPEST) - 255)).round().astype(np.uint8)
    has_names = num <= MOST_NAMED
    # Without names the figure keeps its size, and cells shrink to no less than a pixel.
    cell = CELL if has_names else max(MOST_NAMED * CELL // num, 1)
    matrix = Image.fromarray(colours_CC3.repeat(cell, axis=0).repeat(cell, axis=1))
    if not has_names:
        return np.asarray(matrix)
    draw = ImageDraw.Draw(matrix)
    for true, predicted in np.argwhere(counts_CC):
        place = ((predicted + 0.5) * cell, (true + 0.5) * cell)
        ink = "white" if share_CC[true, predicted] > 0.5 else "black"
        draw.text(place, f"{counts_CC[true, predicted]}", fill=ink, font=_font(), anchor="mm")
    down = _names_image([f"true {name}" for name in class_names])
    across = _names_image([f"predicted {name}" for name in class_names]).transpose(
        Image.Transpose.ROTATE_90
    )
    sheet = Image.new(
        "RGB", (down.width + matrix.width + GAP, matrix.height + across.height + GAP), "white"
    )
    sheet.paste(down, (0, GAP))
    sheet.paste(matrix, (down.width, GAP))
    sheet.paste(across, (down.width, matrix.height + GAP))
    return np.asarray(sheet)
