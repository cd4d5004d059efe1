"""Reading pictures safely: every failure is one line that names the file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# cv2 decodes a 1.2 MB PNG of 20,000 x 20,000 into 2.4 GB; it reads its limit from here, at import.
MAX_PIXELS = 2**26
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")

import cv2  # noqa: E402
import numpy as np  # noqa: E402

from folds.errors import BadImage  # noqa: E402

__all__ = ["check_images", "read_image"]

CURE = "fetch it again or pass --on-bad-image skip"


def _decode(path: str | Path, data: bytes, mode: int) -> np.ndarray:
    if not data:
        raise BadImage(f"{path}: empty file; {CURE}")
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), mode)
    except cv2.error as error:
        if "PIXELS" in str(error):
            raise BadImage(f"{path}: over {MAX_PIXELS // 2**20} megapixels; scale it down") from None
        image = None
    if image is None:
        raise BadImage(f"{path}: truncated or not a picture; {CURE}")
    return image


def read_image(path: str | Path) -> np.ndarray:
    """Return the picture as RGB uint8, height x width x 3, turned upright as its EXIF says.

    Raises BadImage for a file that is missing, empty, truncated, no picture, or too large.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise BadImage(f"{path}: {error.strerror}; {CURE}") from None
    return cv2.cvtColor(_decode(path, data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def _check_one(path: str) -> str | BadImage:
    try:
        data = Path(path).read_bytes()
        # An eighth of the size is enough to see whether it decodes, at a fraction of the time.
        _decode(path, data, cv2.IMREAD_REDUCED_COLOR_8)
    except BadImage as error:
        return error
    except OSError as error:
        return BadImage(f"{path}: {error.strerror}; {CURE}")
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def check_images(paths: Iterable[str]) -> list[str | BadImage]:
    """Decode every picture once and return, in order, its content hash or what is wrong with it."""
    with ThreadPoolExecutor() as pool:  # cv2 and hashlib release the interpreter lock
        return list(pool.map(_check_one, paths))
