"""Contents of image files and their parts: bytes, hashes and boxes."""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path

import numpy as np
import pandas as pd

from foldblend.errors import BadImage, UserError
from foldblend.image_faults import FETCH
from foldblend.image_headers import LARGE_BYTES, PIXEL_BYTES, check_size, header_of
from foldblend.reading import open_regular, read_bounded

__all__ = ["Box", "boxes_of", "content_hash", "crop", "image_key", "read_content"]

Box = tuple[float, float, float, float]


def read_content(path: str | Path, max_pixels: int) -> bytes:
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


def content_hash(data: bytes) -> str:
    """Return the hash by which a file's content is known, as hexadecimal digits."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def image_key(content: str, box: Box | None) -> bytes:
    """Return a 16-byte cache key of an image's pixels, from its content hash and its box."""
    return hashlib.blake2b(f"{content} {box}".encode(), digest_size=16).digest()
