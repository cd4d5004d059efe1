"""Safe reading of images: every failure is a one-line error with the file's name."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from foldblend.errors import BadImage, UserError
from foldblend.image_bytes import quiet
from foldblend.image_checks import Checked, check_images, find_values
from foldblend.image_contents import Box, boxes_of, content_hash, crop, image_key, read_content
from foldblend.image_faults import bad_image, damage_of
from foldblend.image_headers import SCALED, Size, header_of, mode_of, size_of
from foldblend.image_values import Values, decode_rgb
from foldblend.levels import AS_BEFORE, Levels
from foldblend.limits import MAX_PIXELS, MOST_PIXELS
from foldblend.reading import open_regular

__all__ = [
    "AS_BEFORE",
    "SCALED",
    "Box",
    "Checked",
    "Levels",
    "Size",
    "Values",
    "boxes_of",
    "check_images",
    "crop",
    "find_values",
    "image_key",
    "read_image",
    "read_with_size",
    "upright_size",
]


def read_image(
    path: str | Path,
    box: Box | None = None,
    *,
    at_least: Size | None = None,
    content: str | None = None,
    checked: bool = False,
    max_pixels: int = MAX_PIXELS,
    levels: Levels = AS_BEFORE,
) -> np.ndarray:
    """Return an image as RGB uint8, rotated upright by its EXIF orientation.

    Parameters
    ----------
    path
        File of the image.
    box
        Part to cut out: x1, y1, x2, y2 in pixels of the upright image. Parts of the box outside
        the image are ignored.
    at_least
        Needed width and height: a JPEG without a box may be decoded at 1/2, 1/4 or 1/8 of its
        size, but not smaller than this.
    content
        Expected content hash of the file (see `check_images`).
    checked
        True if `check_images` has accepted the file, so that it is not searched for damage again
        and `max_pixels` does not apply.
    max_pixels
        Pixels of the largest image that is read (--max-pixels).
    levels
        Treatment of values of more than 8 bits, and of transparency.

    Returns
    -------
    np.ndarray
        Height x width x 3.

    Raises
    ------
    BadImage
        If the file is missing, empty, truncated, damaged, not an image, too large or has another
        content hash, or if the box lies outside the image.
    """
    return read_with_size(
        path,
        box,
        at_least=at_least,
        content=content,
        checked=checked,
        max_pixels=max_pixels,
        levels=levels,
    )[0]


def read_with_size(
    path: str | Path,
    box: Box | None = None,
    *,
    at_least: Size | None = None,
    content: str | None = None,
    checked: bool = False,
    max_pixels: int = MAX_PIXELS,
    levels: Levels = AS_BEFORE,
) -> tuple[np.ndarray, Size]:
    """Return an image, or a part of it, and the width and height of the whole upright image.

    Parameters and errors are those of `read_image`.
    """
    max_pixels = MOST_PIXELS if checked else max_pixels
    data = read_content(path, max_pixels)
    if content is not None and content_hash(data) != content:
        raise BadImage(f"{path}: changed while it was in use; run again once it stays unchanged")
    data = quiet(data)
    mode, size = mode_of(path, data, at_least if box is None else None, max_pixels)
    fault = None if checked else damage_of(data)[0]
    if fault is not None:
        raise bad_image(path, fault)
    image = decode_rgb(path, data, mode, levels)
    return image if box is None else crop(path, image, box), size


def upright_size(path: str | Path) -> Size:
    """Return the width and height that `read_image` gives an image, read from its header only."""
    try:
        with open_regular(path) as file, header_of(path, file, MOST_PIXELS) as header:
            return size_of(header)
    except UserError:
        raise BadImage(
            f"{path}: changed while it was in use; run again when nothing writes there"
        ) from None
