"""Images in memory, which become PNG files so that all images are read in one way."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps

from foldblend.errors import UserError

__all__ = ["file_of", "png_of"]


def _as_pixels(image: Any, name: str) -> np.ndarray:
    """Return an array or PIL image as H x W [x 3 (RGB) or 4 (RGBA)], uint8 or uint16.

    Raises UserError for other arrays.
    """
    if isinstance(image, PIL.Image.Image):
        is_16_bit = image.mode.startswith("I;16")
        # Pillow would make white of all values above 255.
        if image.mode[0] in "IF" and not is_16_bit:
            raise UserError(f"{name}: a PIL image of mode {image.mode}; scale it to 8 or 16 bits")
        upright = PIL.ImageOps.exif_transpose(image)
        if is_16_bit:
            return np.asarray(upright).astype(np.uint16)
        has_alpha = "A" in image.getbands() or "transparency" in image.info
        return np.asarray(upright.convert("RGBA" if has_alpha else "RGB"))
    array = np.asarray(image)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    is_image = array.ndim in (2, 3) and array.shape[2:] in ((), (3,))
    if array.dtype not in (np.uint8, np.uint16) or not is_image:
        raise UserError(
            f"{name}: an array of {array.dtype} {' x '.join(map(str, array.shape))} is no image;"
            " pass height x width x 3 (RGB) or height x width, uint8 or uint16"
        )
    if not array.size:
        raise UserError(f"{name}: the array has no pixel; leave it out")
    return array


def png_of(image: Any, name: str) -> bytes:
    """Return an array or PIL image as a PNG file.

    Raises UserError for arrays that are no images.
    """
    pixels = _as_pixels(image, name)
    if pixels.ndim == 3:
        alpha = pixels.shape[2] == 4
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGRA if alpha else cv2.COLOR_RGB2BGR)
    return bytes(cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1])


def file_of(source: Any, name: str, folder: Path) -> tuple[str, bool]:
    """Return the file of an image, and whether it was written for this.

    Images in memory become PNG files in `folder`.
    """
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source), False
    file, path = tempfile.mkstemp(suffix=".png", dir=folder)
    with os.fdopen(file, "wb") as opened:
        opened.write(png_of(source, name))
    return path, True
