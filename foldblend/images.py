"""Safe reading of images: every failure is a one-line error with the file's name."""

from __future__ import annotations

import hashlib
import io
import itertools
import math
import warnings
from collections.abc import Container
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import PIL.Image

from foldblend.errors import BadImage
from foldblend.progress import track

__all__ = ["Box", "boxes_of", "check_images", "crop", "image_key", "read_image"]

Box = tuple[float, float, float, float]
Size = tuple[int, int]

MAX_PIXELS = 2**26
# Our limit is lower than the one above which Pillow warns.
warnings.filterwarnings("ignore", category=PIL.Image.DecompressionBombWarning)
ORIENTATION_TAG = 0x0112
CURE = "fetch it again or pass --on-bad-image skip"

# Decoding a JPEG at 1/8, 1/4 or 1/2 of its size takes a fraction of the time.
SCALED = {
    8: cv2.IMREAD_REDUCED_COLOR_8,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    2: cv2.IMREAD_REDUCED_COLOR_2,
}
TURNED = (5, 6, 7, 8)  # EXIF orientations that swap width and height


def _mode_for(header: PIL.Image.Image, at_least: Size | None) -> int:
    """Return cv2's flag of the smallest scaled decoding that is at least `at_least` large."""
    # For other formats cv2 would decode the whole image and then drop pixels.
    if at_least is None or header.format != "JPEG":
        return cv2.IMREAD_COLOR
    turned = "exif" in header.info and header.getexif().get(ORIENTATION_TAG) in TURNED
    width, height = at_least[::-1] if turned else at_least
    fits = [
        mode
        for by, mode in SCALED.items()
        if header.width >= by * width and header.height >= by * height
    ]
    return fits[0] if fits else cv2.IMREAD_COLOR


def _decode(
    path: str | Path, data: bytes, *, mode: int | None = None, at_least: Size | None = None
) -> np.ndarray:
    """Decode an image with cv2's `mode`, or at the smallest scale of at least (width, height)."""
    try:
        with PIL.Image.open(io.BytesIO(data)) as header:
            num_pixels = header.width * header.height
            mode = _mode_for(header, at_least) if mode is None else mode
    except PIL.Image.DecompressionBombError:
        num_pixels = MAX_PIXELS + 1
    except (OSError, SyntaxError, ValueError):  # Pillow raises any of these for broken headers
        num_pixels = 0
    # Check the header before decoding: a 1.2 MB PNG of 20,000 x 20,000 pixels would take 2.4 GB.
    if num_pixels > MAX_PIXELS:
        raise BadImage(f"{path}: over {MAX_PIXELS // 2**20} megapixels; scale it down")
    try:
        image = (
            cv2.imdecode(np.frombuffer(data, dtype=np.uint8), mode or cv2.IMREAD_COLOR)
            if num_pixels
            else None
        )
    except cv2.error:
        image = None
    if image is None:
        raise BadImage(f"{path}: {'truncated or not an image' if data else 'empty file'}; {CURE}")
    return image


def _read_bytes(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise BadImage(f"{path}: {error.strerror}; {CURE}") from None


def read_image(
    path: str | Path,
    box: Box | None = None,
    *,
    at_least: Size | None = None,
    content: str | None = None,
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

    Returns
    -------
    np.ndarray
        Height x width x 3.

    Raises
    ------
    BadImage
        If the file is missing, empty, truncated, not an image, too large or has another content
        hash, or if the box lies outside the image.
    """
    data = _read_bytes(path)
    if content is not None and _hash(data) != content:
        raise BadImage(f"{path}: changed while it was in use; run again once it stays unchanged")
    decoded = _decode(path, data, at_least=at_least if box is None else None)
    image = cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)
    return image if box is None else crop(path, image, box)


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


def boxes_of(table: pd.DataFrame) -> list[Box | None]:
    """Return the box of each row of a manifest's table, or None for whole images."""
    return table["box"].tolist() if "box" in table else [None] * len(table)


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def image_key(content: str, box: Box | None) -> bytes:
    """Return a 16-byte cache key of an image's pixels, from its content hash and its box."""
    return hashlib.blake2b(f"{content} {box}".encode(), digest_size=16).digest()


def _check_one(path: str, box: Box | None, known: Container[bytes]) -> str | BadImage:
    try:
        data = _read_bytes(path)
        content = _hash(data)
        if image_key(content, box) in known:
            return content
        # Decoding at 1/8 of the size finds damage too, in a third of the time.
        image = _decode(
            path, data, mode=cv2.IMREAD_REDUCED_COLOR_8 if box is None else cv2.IMREAD_COLOR
        )
        if box is not None:
            crop(path, image, box)
    except BadImage as error:
        return error
    return content


def check_images(table: pd.DataFrame, known: Container[bytes] = ()) -> list[str | BadImage]:
    """Decode every image of a manifest's table once and return content hashes or errors.

    Parameters
    ----------
    table
        Rows with the column "path" and, optionally, "box".
    known
        Keys (see `image_key`) of images that were decoded before; these are only hashed.

    Returns
    -------
    list[str | BadImage]
        For each row the content hash, or the error if the image cannot be used.
    """
    # Threads are enough: cv2 and hashlib release the GIL.
    with ThreadPoolExecutor() as pool:
        checked = pool.map(_check_one, table["path"], boxes_of(table), itertools.repeat(known))
        return list(track(checked, "check images", total=len(table), unit="images"))
