"""Safe reading of images: every failure is a one-line error with the file's name."""

from __future__ import annotations

import functools
import hashlib
import math
import os
from collections.abc import Container
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from foldblend.errors import BadImage, UserError
from foldblend.image_bytes import is_16_bit, quiet
from foldblend.image_faults import FETCH, damage_of, fault_of
from foldblend.image_headers import (
    LARGE_BYTES,
    PIXEL_BYTES,
    SCALED,
    Size,
    bad_image,
    check_size,
    header_of,
    mode_of,
    size_of,
)
from foldblend.limits import MAX_PIXELS, MOST_PIXELS
from foldblend.progress import track
from foldblend.reading import open_regular, read_bounded

__all__ = [
    "SCALED",
    "Box",
    "Checked",
    "Size",
    "boxes_of",
    "check_images",
    "crop",
    "image_key",
    "read_image",
    "read_with_size",
    "upright_size",
]

Box = tuple[float, float, float, float]
NO_MEMORY = -4  # code of OpenCV's error

if "OPENCV_LOG_LEVEL" not in os.environ:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def _decode(path: str | Path, data: bytes, mode: int) -> np.ndarray:
    """Return an image as cv2 decodes it with a flag. Raises BadImage if it cannot."""
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), mode)
    except cv2.error as error:
        if error.code == NO_MEMORY:
            raise MemoryError(f"{path}: {error.err}") from None
        image = None
    if image is None:
        raise bad_image(path, fault_of(data))
    return image


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
        path, box, at_least=at_least, content=content, checked=checked, max_pixels=max_pixels
    )[0]


def read_with_size(
    path: str | Path,
    box: Box | None = None,
    *,
    at_least: Size | None = None,
    content: str | None = None,
    checked: bool = False,
    max_pixels: int = MAX_PIXELS,
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
    decoded = _decode(path, data, mode)
    image = cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)
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
    peak: int | None = None
    """Largest value of an image with 16 bits per value; None for other images."""


def _check_one(
    path: str, box: Box | None, known: Container[bytes], max_pixels: int
) -> Checked | BadImage:
    try:
        data = _read_bytes(path, max_pixels)
        content = _hash(data)
        if image_key(content, box) not in known:
            _check_bytes(path, quiet(data), box, max_pixels)
        return Checked(content, _peak(path, quiet(data)) if is_16_bit(data) else None)
    except BadImage as error:
        return error


def _check_bytes(path: str, data: bytes, box: Box | None, max_pixels: int) -> None:
    """Raise BadImage if an image, or the part in the box, cannot be used."""
    mode, _ = mode_of(path, data, (1, 1) if box is None else None, max_pixels)
    fault, is_decoded = damage_of(data)
    if fault is not None:
        raise bad_image(path, fault)
    if is_decoded and box is None:
        return
    image = _decode(path, data, mode)
    if box is not None:
        crop(path, image, box)


def _peak(path: str, data: bytes) -> int | None:
    """Return the largest value of an image, or None if cv2 reads it with 8 bits."""
    image = _decode(path, data, cv2.IMREAD_ANYDEPTH)
    return int(image.max()) if image.dtype == np.uint16 else None


def check_images(
    table: pd.DataFrame, known: Container[bytes] = (), *, max_pixels: int = MAX_PIXELS
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

    Returns
    -------
    list[Checked | BadImage]
        For each row the file's content hash, or the error if the image cannot be used.
    """
    # Threads are enough: cv2, simplejpeg, zlib and hashlib release the GIL.
    with ThreadPoolExecutor() as pool:
        check = functools.partial(_check_one, known=known, max_pixels=max_pixels)
        checked = pool.map(check, table["path"], boxes_of(table))
        return list(track(checked, "check images", total=len(table), unit="images"))
