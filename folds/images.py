"""Reading pictures safely: every failure is one line that names the file."""

from __future__ import annotations

import hashlib
import io
import math
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import PIL.Image

from folds.errors import BadImage

__all__ = ["Box", "boxes_of", "check_images", "crop", "read_image"]

Box = tuple[float, float, float, float]

MAX_PIXELS = 2**26
warnings.filterwarnings("ignore", category=PIL.Image.DecompressionBombWarning)  # our limit is the lower one
CURE = "fetch it again or pass --on-bad-image skip"


def _decode(path: str | Path, data: bytes, mode: int) -> np.ndarray:
    try:
        with PIL.Image.open(io.BytesIO(data)) as header:
            num_pixels = header.width * header.height
    except PIL.Image.DecompressionBombError:
        num_pixels = MAX_PIXELS + 1
    except (OSError, SyntaxError, ValueError):  # what Pillow raises for broken headers
        num_pixels = 0
    # From the header alone: cv2 decodes a 1.2 MB PNG of 20,000 x 20,000 into 2.4 GB.
    if num_pixels > MAX_PIXELS:
        raise BadImage(f"{path}: over {MAX_PIXELS // 2**20} megapixels; scale it down")
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), mode) if num_pixels else None
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


def read_image(path: str | Path, box: Box | None = None) -> np.ndarray:
    """Return the picture as RGB uint8, height x width x 3, turned upright as its EXIF says.

    `box` (x1, y1, x2, y2 in pixels of the upright picture) is what is cut out; what sticks out is left off.
    Raises BadImage for a file that is missing, empty, truncated, no picture, or too large, and for a
    box outside the picture.
    """
    image = cv2.cvtColor(_decode(path, _read_bytes(path), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    return image if box is None else crop(path, image, box)


def crop(path: str | Path, image: np.ndarray, box: Box) -> np.ndarray:
    """Return what a box cuts out of the picture read from `path`; raises BadImage for one outside of it."""
    height, width = image.shape[:2]
    x1, y1 = (max(math.floor(value), 0) for value in box[:2])
    x2, y2 = min(math.ceil(box[2]), width), min(math.ceil(box[3]), height)
    if x1 >= x2 or y1 >= y2:
        said = ",".join(f"{value:g}" for value in box)
        raise BadImage(f"{path}: box {said} lies outside the {width} x {height} picture; mend it (--box-cols)")
    return image[y1:y2, x1:x2]


def boxes_of(table: pd.DataFrame) -> list[Box | None]:
    """Return the box of each row of a manifest's table; None where pictures are taken whole."""
    return table["box"].tolist() if "box" in table else [None] * len(table)


def _check_one(path: str, box: Box | None) -> str | BadImage:
    try:
        data = _read_bytes(path)
        # An eighth of the size is enough to see whether it decodes, at a third of the time.
        image = _decode(path, data, cv2.IMREAD_REDUCED_COLOR_8 if box is None else cv2.IMREAD_COLOR)
        if box is not None:
            crop(path, image, box)
    except BadImage as error:
        return error
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def check_images(table: pd.DataFrame) -> list[str | BadImage]:
    """Decode every picture of a manifest's table once; return, in order, its content hash or what is wrong with it."""
    with ThreadPoolExecutor() as pool:  # cv2 and hashlib release the interpreter lock
        return list(pool.map(_check_one, table["path"], boxes_of(table)))
