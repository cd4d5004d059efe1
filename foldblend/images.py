"""Safe reading of images: every failure is a one-line error with the file's name."""

from __future__ import annotations

import functools
import hashlib
import math
import os
from collections.abc import Container, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from foldblend.errors import BadImage, UserError
from foldblend.image_bytes import quiet
from foldblend.image_faults import FETCH, bad_image, damage_of
from foldblend.image_headers import (
    LARGE_BYTES,
    PIXEL_BYTES,
    SCALED,
    Size,
    check_size,
    header_of,
    mode_of,
    size_of,
)
from foldblend.image_natures import PLAIN, nature_of
from foldblend.image_values import Values, decode, decode_rgb, values_key, values_of
from foldblend.levels import AS_BEFORE, Levels
from foldblend.limits import MAX_PIXELS, MOST_PIXELS
from foldblend.progress import track
from foldblend.reading import open_regular, read_bounded

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

Box = tuple[float, float, float, float]

if "OPENCV_LOG_LEVEL" not in os.environ:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def _read_bytes(path: str | Path, max_pixels: int) -> bytes:
    """Return the content of an image's file. Raises BadImage if it cannot be read."""
    most = PIXEL_BYTES * max_pixels + LARGE_BYTES
    try:
        with open_regular(path, cure=FETCH) as file:
            size = os.fstat(file.fileno()).st_size
            # Of some formats, Pillow reads the whole file.
            if LARGE_BYTES < size <= most:
                check_size(path, header_of(path, file, max_pixels), size)
        return read_bounded(path, most=most, cure=FETCH)
    except BadImage:
        raise
    except UserError as error:
        raise BadImage(str(error).removesuffix(f"; {FETCH}"), FETCH) from None


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
    data = _read_bytes(path, max_pixels)
    if content is not None and _hash(data) != content:
        raise BadImage(f"{path}: changed while it was in use; run again once it stays unchanged")
    data = quiet(data)
    mode, size = mode_of(path, data, at_least if box is None else None, max_pixels)
    fault = None if checked else damage_of(data)[0]
    if fault is not None:
        raise bad_image(path, fault)
    image = decode_rgb(path, data, mode, levels)
    return image if box is None else crop(path, image, box), size


def crop(path: str | Path, image: np.ndarray, box: Box) -> np.ndarray:
    """Return the part of an image inside a box of pixels (x1, y1, x2, y2).

    Raises BadImage, with `path`, if the box lies outside the image.

    Examples
    --------
    >>> crop("a.jpg", np.zeros((60, 40, 3)), (10, 10, 99, 30)).shape
    (20, 30, 3)
    """
    height, width = image.shape[:2]
    x1, y1 = (max(math.floor(value), 0) for value in box[:2])
    x2 = min(math.ceil(box[2]), width)
    y2 = min(math.ceil(box[3]), height)
    if x1 >= x2 or y1 >= y2:
        corners = ",".join(f"{value:g}" for value in box)
        raise BadImage(
            f"{path}: box {corners} lies outside the {width} x {height} image; correct it"
            " (--box-cols)"
        )
    return image[y1:y2, x1:x2]


def upright_size(path: str | Path) -> Size:
    """Return the width and height that `read_image` gives an image, read from its header only."""
    try:
        with open_regular(path) as file, header_of(path, file, MOST_PIXELS) as header:
            return size_of(header)
    except UserError:
        raise BadImage(
            f"{path}: changed while it was in use; run again when nothing writes there"
        ) from None


def boxes_of(table: pd.DataFrame) -> list[Box | None]:
    """Return the box of each row of a manifest's table, or None for whole images."""
    return table["box"].tolist() if "box" in table else [None] * len(table)


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def image_key(content: str, box: Box | None) -> bytes:
    """Return a 16-byte cache key of an image's pixels, from its content hash and its box."""
    return hashlib.blake2b(f"{content} {box}".encode(), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Checked:
    """A file that can be used as an image."""

    content: str
    """Hash of the file's content."""
    values: Values | None = None
    """Values that have more than 8 bits, or transparency; None for images without either."""


def _check_one(
    path: str,
    box: Box | None,
    known: Container[bytes],
    max_pixels: int,
    levels: Levels,
    remembered: MutableMapping[bytes, Values],
) -> Checked | BadImage:
    try:
        data = _read_bytes(path, max_pixels)
        content = _hash(data)
        if image_key(content, box) not in known:
            _check_bytes(path, quiet(data), box, max_pixels)
        key = values_key(content, levels)
        values = remembered.get(key) or values_of(path, quiet(data), levels)
        if values is not None:
            remembered[key] = values
        return Checked(content, values)
    except BadImage as error:
        return error


def _check_bytes(path: str, data: bytes, box: Box | None, max_pixels: int) -> None:
    """Raise BadImage if an image, or the part in the box, cannot be used."""
    mode, size = mode_of(path, data, (1, 1) if box is None else None, max_pixels)
    fault, is_decoded = damage_of(data)
    if fault is not None:
        raise bad_image(path, fault)
    if is_decoded and box is None:
        return
    nature = nature_of(data)
    if nature.is_dicom or nature.is_deep:
        # Their values are looked at next, so that they are decoded there.
        if box is not None:
            crop(path, np.broadcast_to(np.uint8(0), size[::-1]), box)
        return
    image = decode(path, data, mode)
    if box is not None:
        crop(path, image, box)


def check_images(
    table: pd.DataFrame,
    known: Container[bytes] = (),
    *,
    max_pixels: int = MAX_PIXELS,
    levels: Levels = AS_BEFORE,
    remembered: MutableMapping[bytes, Values] | None = None,
) -> list[Checked | BadImage]:
    """Decode every image of a manifest's table once and return content hashes or errors.

    Parameters
    ----------
    table
        Rows with the column "path" and, optionally, "box".
    known
        Keys (see `image_key`) of images that were decoded before; these are only hashed.
    max_pixels
        Pixels of the largest image that can be used (--max-pixels).
    levels
        Treatment of other values. A range that is decided from these images is not needed yet.
    remembered
        Values of images by `values_key`, which are not searched for again; others are added.

    Returns
    -------
    list[Checked | BadImage]
        For each row the file's content hash, or the error if the image cannot be used.
    """
    # Threads are enough: cv2, simplejpeg, zlib and hashlib release the GIL.
    with ThreadPoolExecutor() as pool:
        check = functools.partial(
            _check_one,
            known=known,
            max_pixels=max_pixels,
            levels=levels,
            remembered={} if remembered is None else remembered,
        )
        checked = pool.map(check, table["path"], boxes_of(table))
        return list(track(checked, "check images", total=len(table), unit="images"))


def _values_in(path: str, max_pixels: int, levels: Levels) -> Checked | BadImage:
    try:
        data = _read_bytes(path, max_pixels)
        nature = nature_of(data)
        if nature == PLAIN:
            return Checked("")
        mode_of(path, quiet(data), None, max_pixels)
        return Checked("", values_of(path, quiet(data), levels))
    except BadImage as error:
        return error


def find_values(
    table: pd.DataFrame, *, max_pixels: int = MAX_PIXELS, levels: Levels = AS_BEFORE
) -> list[Checked | BadImage]:
    """Return the values of images, as `check_images` does, but without hashes and checks.

    Only images with more than 8 bits are decoded.
    """
    with ThreadPoolExecutor() as pool:
        find = functools.partial(_values_in, max_pixels=max_pixels, levels=levels)
        found = pool.map(find, table["path"])
        return list(track(found, "find pixel values", total=len(table), unit="images"))
