"""Reading pictures safely: every failure is one line that names the file."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import PIL.Image

from folds.errors import BadImage

__all__ = ["check_images", "read_image"]

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


def read_image(path: str | Path) -> np.ndarray:
    """Return the picture as RGB uint8, height x width x 3, turned upright as its EXIF says.

    Raises BadImage for a file that is missing, empty, truncated, no picture, or too large.
    """
    return cv2.cvtColor(_decode(path, _read_bytes(path), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def _check_one(path: str) -> str | BadImage:
    try:
        data = _read_bytes(path)
        # An eighth of the size is enough to see whether it decodes, at a third of the time.
        _decode(path, data, cv2.IMREAD_REDUCED_COLOR_8)
    except BadImage as error:
        return error
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def check_images(paths: Iterable[str]) -> list[str | BadImage]:
    """Decode every picture once and return, in order, its content hash or what is wrong with it."""
    with ThreadPoolExecutor() as pool:  # cv2 and hashlib release the interpreter lock
        return list(pool.map(_check_one, paths))
