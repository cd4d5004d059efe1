"""Reading images safely: every failure is one line that names the file."""

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

__all__ = ["Box", "boxes_of", "check_images", "crop", "picture_key", "read_image"]

Box = tuple[float, float, float, float]
Size = tuple[int, int]

MAX_PIXELS = 2**26
warnings.filterwarnings(
    "ignore", category=PIL.Image.DecompressionBombWarning
)  # our limit is the lower one
ORIENTATION_TAG = 0x0112
CURE = "fetch it again or pass --on-bad-image skip"


# A JPEG decodes to an eighth, quarter or half of its size at a fraction of the time.
SCALED = {
    8: cv2.IMREAD_REDUCED_COLOR_8,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    2: cv2.IMREAD_REDUCED_COLOR_2,
}
TURNED = (5, 6, 7, 8)  # EXIF orientations that swap width and height


def _mode_for(header: PIL.Image.Image, at_least: Size | None) -> int:
    """Return cv2's flag for the smallest scaled decoding that is no smaller than `at_least`."""
    if at_least is None or header.format != "JPEG":  # cv2 would decode others whole and drop pixels
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
    """Decode as cv2's `mode` says, or else for an image that is needed `at_least` that large
    (width, height).
    """
    try:
        with PIL.Image.open(io.BytesIO(data)) as header:
            num_pixels = header.width * header.height
            mode = _mode_for(header, at_least) if mode is None else mode
    except PIL.Image.DecompressionBombError:
        num_pixels = MAX_PIXELS + 1
    except (OSError, SyntaxError, ValueError):  # what Pillow raises for broken headers
        num_pixels = 0
    # From the header alone: cv2 decodes a 1.2 MB PNG of 20,000 x 20,000 into 2.4 GB.
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
        raise BadImage(f"{path}: {'truncated or not a picture' if data else 'empty file'}; {CURE}")
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
    """Return the image as RGB uint8, height x width x 3, turned upright as its EXIF says.

    `box` (x1, y1, x2, y2 in pixels of the upright image) is what is cut out; what sticks out is
    left off. `at_least` (width, height) allows a JPEG without a box to be decoded at 1/2, 1/4 or
    1/8, but no smaller. Raises BadImage for a file that is missing, empty, truncated, no image,
    or too large, for a box outside the image, and for one whose content hash is no longer
    `content`.
    """
    data = _read_bytes(path)
    if content is not None and _hash(data) != content:
        raise BadImage(f"{path}: changed while it was in use; run again when nothing writes there")
    decoded = _decode(path, data, at_least=at_least if box is None else None)
    image = cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)
    return image if box is None else crop(path, image, box)


def crop(path: str | Path, image: np.ndarray, box: Box) -> np.ndarray:
    """Return what a box cuts out of the image read from `path`; raises BadImage for one outside
    of it.
    """
    height, width = image.shape[:2]
    x1, y1 = (max(math.floor(value), 0) for value in box[:2])
    x2 = min(math.ceil(box[2]), width)
    y2 = min(math.ceil(box[3]), height)
    if x1 >= x2 or y1 >= y2:
        said = ",".join(f"{value:g}" for value in box)
        raise BadImage(
            f"{path}: box {said} lies outside the {width} x {height} image; mend it (--box-cols)"
        )
    return image[y1:y2, x1:x2]


def boxes_of(table: pd.DataFrame) -> list[Box | None]:
    """Return the box of each row of a manifest's table; None where images are taken whole."""
    return table["box"].tolist() if "box" in table else [None] * len(table)


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def picture_key(content: str, box: Box | None) -> bytes:
    """Return 16 bytes that stand for what an image shows: its content hash and what the box cuts
    out.
    """
    return hashlib.blake2b(f"{content} {box}".encode(), digest_size=16).digest()


def _check_one(path: str, box: Box | None, known: Container[bytes]) -> str | BadImage:
    try:
        data = _read_bytes(path)
        content = _hash(data)
        if picture_key(content, box) in known:
            return content
        # An eighth of the size is enough to see whether it decodes, at a third of the time.
        image = _decode(
            path, data, mode=cv2.IMREAD_REDUCED_COLOR_8 if box is None else cv2.IMREAD_COLOR
        )
        if box is not None:
            crop(path, image, box)
    except BadImage as error:
        return error
    return content


def check_images(table: pd.DataFrame, known: Container[bytes] = ()) -> list[str | BadImage]:
    """Decode every image of a manifest's table once; return, in order, its content hash or what
    is wrong with it.

    `known` holds the keys of images that have been decoded before: those are only hashed.
    """
    with ThreadPoolExecutor() as pool:  # cv2 and hashlib release the interpreter lock
        return list(pool.map(_check_one, table["path"], boxes_of(table), itertools.repeat(known)))
