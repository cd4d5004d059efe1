"""Safe reading of images: every failure is a one-line error with the file's name."""

from __future__ import annotations

import hashlib
import io
import itertools
import logging
import math
import os
import struct
import warnings
from collections.abc import Container
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import PIL.Image

from foldblend.errors import BadImage, UserError
from foldblend.image_bytes import is_16_bit, quiet
from foldblend.image_faults import FETCH, Fault, damage_of, fault_of
from foldblend.progress import track
from foldblend.reading import read_bounded

__all__ = [
    "Box",
    "Checked",
    "boxes_of",
    "check_images",
    "crop",
    "image_key",
    "read_image",
    "read_with_size",
    "upright_size",
]

Box = tuple[float, float, float, float]
Size = tuple[int, int]

MAX_PIXELS = 2**26
# An image of so many pixels in four channels of 16 bits, not compressed.
MOST_BYTES = 8 * MAX_PIXELS
# Libraries do not name the file in what they print, and our errors do. Our limit of pixels is lower
# than the one above which Pillow warns.
warnings.filterwarnings("ignore", category=PIL.Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())
if "OPENCV_LOG_LEVEL" not in os.environ:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
ORIENTATION_TAG = 0x0112

# Decoding a JPEG at 1/8, 1/4 or 1/2 of its size takes a fraction of the time.
SCALED = {
    8: cv2.IMREAD_REDUCED_COLOR_8,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    2: cv2.IMREAD_REDUCED_COLOR_2,
}
TURNED = (5, 6, 7, 8)  # EXIF orientations that swap width and height
# What Pillow raises for broken EXIF data, which OpenCV ignores.
BROKEN_EXIF = (
    OSError,
    SyntaxError,
    ValueError,
    LookupError,
    TypeError,
    ArithmeticError,
    struct.error,
)


def _is_turned(header: PIL.Image.Image) -> bool:
    """Return whether the EXIF data swap width and height."""
    # Pillow rotates TIFFs itself and lists no EXIF for them; OpenCV does not rotate AVIFs.
    if "exif" not in header.info or header.format == "AVIF":
        return False
    try:
        return header.getexif().get(ORIENTATION_TAG) in TURNED
    except BROKEN_EXIF:
        return False


def _mode_for(header: PIL.Image.Image, at_least: Size | None) -> int:
    """Return cv2's flag of the smallest scaled decoding that is at least `at_least` large."""
    # For other formats cv2 would decode the whole image and then drop pixels.
    if at_least is None or header.format != "JPEG":
        return cv2.IMREAD_COLOR
    width, height = at_least[::-1] if _is_turned(header) else at_least
    fits = [
        mode
        for by, mode in SCALED.items()
        if header.width >= by * width and header.height >= by * height
    ]
    return fits[0] if fits else cv2.IMREAD_COLOR


def _bad(path: str | Path, fault: Fault) -> BadImage:
    return BadImage(f"{path}: {fault.problem}", fault.cure, fault.test_cure)


def _too_large(path: str | Path) -> BadImage:
    return BadImage(f"{path}: over {MAX_PIXELS // 2**20} megapixels", "scale it down")


def _size_of(header: PIL.Image.Image) -> Size:
    """Return the width and height of an image when it is upright."""
    size = (header.width, header.height)
    return size[::-1] if _is_turned(header) else size


def _mode(path: str | Path, data: bytes, at_least: Size | None) -> tuple[int, Size]:
    """Return cv2's flag for decoding an image and the image's upright size, from its header.

    Raises BadImage if the header cannot be read or the image is too large.
    """
    try:
        with PIL.Image.open(io.BytesIO(data)) as header:
            num_pixels = header.width * header.height
            mode = _mode_for(header, at_least)
            size = _size_of(header)
    except PIL.Image.DecompressionBombError:
        raise _too_large(path) from None
    except (OSError, SyntaxError, ValueError):  # Pillow raises any of these for broken headers
        raise _bad(path, fault_of(data)) from None
    # Check the header before decoding: a 1.2 MB PNG of 20,000 x 20,000 pixels would take 2.4 GB.
    if num_pixels > MAX_PIXELS:
        raise _too_large(path)
    return mode, size


def _decode(path: str | Path, data: bytes, mode: int) -> np.ndarray:
    """Return an image as cv2 decodes it with a flag. Raises BadImage if it cannot."""
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), mode)
    except cv2.error:
        image = None
    if image is None:
        raise _bad(path, fault_of(data))
    return image


def _read_bytes(path: str | Path) -> bytes:
    try:
        return read_bounded(path, most=MOST_BYTES, cure=FETCH)
    except UserError as error:
        raise BadImage(str(error).removesuffix(f"; {FETCH}"), FETCH) from None


def read_image(
    path: str | Path,
    box: Box | None = None,
    *,
    at_least: Size | None = None,
    content: str | None = None,
    checked: bool = False,
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
        True if `check_images` has accepted the file, so that it is not searched for damage again.

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
    return read_with_size(path, box, at_least=at_least, content=content, checked=checked)[0]


def read_with_size(
    path: str | Path,
    box: Box | None = None,
    *,
    at_least: Size | None = None,
    content: str | None = None,
    checked: bool = False,
) -> tuple[np.ndarray, Size]:
    """Return an image, or a part of it, and the width and height of the whole upright image.

    Parameters and errors are those of `read_image`.
    """
    data = _read_bytes(path)
    if content is not None and _hash(data) != content:
        raise BadImage(f"{path}: changed while it was in use; run again once it stays unchanged")
    data = quiet(data)
    mode, size = _mode(path, data, at_least if box is None else None)
    fault = None if checked else damage_of(data)[0]
    if fault is not None:
        raise _bad(path, fault)
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
        with PIL.Image.open(path) as header:
            return _size_of(header)
    except (OSError, SyntaxError, ValueError):
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


def _check_one(path: str, box: Box | None, known: Container[bytes]) -> Checked | BadImage:
    try:
        data = _read_bytes(path)
        content = _hash(data)
        if image_key(content, box) not in known:
            _check_bytes(path, quiet(data), box)
        return Checked(content, _peak(path, quiet(data)) if is_16_bit(data) else None)
    except BadImage as error:
        return error


def _check_bytes(path: str, data: bytes, box: Box | None) -> None:
    """Raise BadImage if an image, or the part in the box, cannot be used."""
    mode, _ = _mode(path, data, (1, 1) if box is None else None)
    fault, is_decoded = damage_of(data)
    if fault is not None:
        raise _bad(path, fault)
    if is_decoded and box is None:
        return
    image = _decode(path, data, mode)
    if box is not None:
        crop(path, image, box)


def _peak(path: str, data: bytes) -> int | None:
    """Return the largest value of an image, or None if cv2 reads it with 8 bits."""
    image = _decode(path, data, cv2.IMREAD_ANYDEPTH)
    return int(image.max()) if image.dtype == np.uint16 else None


def check_images(table: pd.DataFrame, known: Container[bytes] = ()) -> list[Checked | BadImage]:
    """Decode every image of a manifest's table once and return content hashes or errors.

    Parameters
    ----------
    table
        Rows with the column "path" and, optionally, "box".
    known
        Keys (see `image_key`) of images that were decoded before; these are only hashed.

    Returns
    -------
    list[Checked | BadImage]
        For each row the file's content hash, or the error if the image cannot be used.
    """
    # Threads are enough: cv2, simplejpeg, zlib and hashlib release the GIL.
    with ThreadPoolExecutor() as pool:
        checked = pool.map(_check_one, table["path"], boxes_of(table), itertools.repeat(known))
        return list(track(checked, "check images", total=len(table), unit="images"))
