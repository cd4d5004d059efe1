"""Pixels of an image file as levels 0 to 255, and the values that it has in the file."""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from foldblend.dicom import dicom_levels, read_dicom
from foldblend.image_faults import DECIMAL, Fault, bad_image, fault_of
from foldblend.image_headers import header_of, turn_of
from foldblend.image_natures import Nature, nature_of
from foldblend.levels import Levels, Range, covering, over, scaled
from foldblend.limits import MOST_PIXELS

__all__ = ["Values", "decode", "decode_rgb", "values_key", "values_of"]

# Our errors name the file, and OpenCV's messages do not.
if "OPENCV_LOG_LEVEL" not in os.environ:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

NO_MEMORY = -4  # code of OpenCV's error
DEEP = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR
WHOLE = (0.0, 65535.0)
CUT = Fault(
    "has 16 bits that cannot be read (grey with alpha, or each colour by itself)",
    "save it as grey or RGB",
)
NAN = Fault("has NaN among its pixel values", "replace them by numbers")
# NumPy's steps to an upright image by EXIF orientation: transpose, flip rows, flip columns.
TURNS = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


@dataclass(frozen=True, slots=True)
class Values:
    """Values of an image that are not levels of 8 bits, or that are transparent."""

    span: Range | None
    """The whole range of such values: the bit depth that holds them, or that of a DICOM header.

    None for floats, and for images of 8 bits.
    """
    low: float = 0.0
    high: float = 255.0
    """Smallest and largest value."""
    is_deep: bool = True
    """Whether a range decides which values are black and white."""
    bits: int | None = None
    """16 for a file of this type, which may use less of it; None for others."""
    has_alpha: bool = False


def decode(path: str | Path, data: bytes, mode: int) -> np.ndarray:
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


def _upright(path: str | Path, data: bytes, image: np.ndarray) -> np.ndarray:
    """Return an image turned by its EXIF orientation, which cv2 ignores with alpha."""
    with header_of(path, io.BytesIO(data), MOST_PIXELS) as header:
        is_transposed, flips_rows, flips_columns = TURNS[turn_of(header)]
    if is_transposed:
        image = image.swapaxes(0, 1)
    return image[:: -1 if flips_rows else 1, :: -1 if flips_columns else 1]


def _deep(path: str | Path, data: bytes, nature: Nature, *, alpha: bool) -> np.ndarray:
    """Return an image with its values as they are: H x W, or H x W x 3 or 4 (BGR, BGRA)."""
    # Of floats, OpenCV reads four channels in this way only.
    image = decode(path, data, cv2.IMREAD_UNCHANGED if alpha or nature.is_decimal else DEEP)
    if image.ndim == 3 and image.shape[2] not in (3, 4):
        raise bad_image(path, fault_of(data))
    if nature.is_decimal and np.isnan(image).any():
        raise bad_image(path, NAN)
    if nature.packed_bits and image.dtype == np.uint16:
        image >>= 16 - nature.packed_bits
    return image


def _as_levels(path: str | Path, colour: np.ndarray, nature: Nature, levels: Levels) -> np.ndarray:
    if colour.dtype == np.uint8:
        return colour
    if colour.dtype.kind == "f" and not levels.takes_decimals:
        raise bad_image(path, DECIMAL)
    span = levels.pixel_range
    if span is None and nature.packed_bits:
        span = 0.0, 2.0**nature.packed_bits - 1
    if span is not None:
        found = scaled(colour, span)
        return 255 - found if nature.is_inverted else found
    # As OpenCV makes 8 bits of 16.
    return np.asarray(colour >> 8).astype(np.uint8)


def decode_rgb(path: str | Path, data: bytes, mode: int, levels: Levels) -> np.ndarray:
    """Return an image as H x W x 3 uint8 (RGB).

    Parameters
    ----------
    path
        Name of the file, for messages.
    data
        Content of the file.
    mode
        Flag of cv2 for images of 8 bits without transparency.
    levels
        Treatment of other values, and of transparency.

    Raises
    ------
    BadImage
        If it cannot be decoded, or has floats without a range that was typed, or NaN.
    """
    nature = nature_of(data)
    if nature.is_dicom:
        return dicom_levels(path, read_dicom(path, data), levels)
    is_laid = nature.has_alpha and levels.background is not None
    if nature.is_cut and nature.is_decimal:
        raise bad_image(path, fault_of(data))
    if nature.is_cut and (is_laid or levels.pixel_range not in (None, WHOLE)):
        raise bad_image(path, CUT)
    has_range = levels.pixel_range is not None
    is_scaled = nature.is_deep and (has_range or nature.is_decimal or nature.packed_bits > 0)
    if nature.is_cut or (not is_laid and not is_scaled):
        return cv2.cvtColor(decode(path, data, mode), cv2.COLOR_BGR2RGB)
    image = _deep(path, data, nature, alpha=is_laid)
    if is_laid:
        image = _upright(path, data, image)
    colour = image if image.ndim == 2 else image[..., 2::-1]
    colour = _as_levels(path, colour, nature, levels)
    if colour.ndim == 2:
        colour = np.repeat(colour[..., None], 3, axis=2)
    alpha = _alpha(image, nature) if is_laid else None
    if alpha is not None:
        assert levels.background is not None
        return over(colour, alpha, levels.background, premultiplied=nature.is_premultiplied)
    return np.ascontiguousarray(colour)


def _alpha(image: np.ndarray, nature: Nature) -> np.ndarray | None:
    """Return how opaque pixels are, from 0 to the largest value of the type; None: all are."""
    if image.ndim == 2 and nature.clear_grey is not None:
        return np.where(image == nature.clear_grey, 0, 255).astype(np.uint8)
    if image.ndim == 3 and image.shape[2] == 4 and image.dtype.kind == "u":
        return np.asarray(image[..., 3])
    return None


def values_key(content: str, levels: Levels) -> bytes:
    """Return a 16-byte key of an image's values, from its content hash.

    Which values count depends on the window and on what is under transparent pixels, and floats
    are refused without a range that was typed.
    """
    has_background = levels.background is not None
    parts = (content, levels.dicom_window, levels.pixel_range is not None, has_background)
    text = repr(parts) + (" decided" if levels.range_is_decided else "")
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def values_of(path: str | Path, data: bytes, levels: Levels) -> Values | None:
    """Return the values of an image, or None for 8 bits without transparency.

    Raises BadImage where `decode_rgb` does so for an image with other values.
    """
    nature = nature_of(data)
    if nature.is_dicom:
        image = read_dicom(path, data)
        # Raises the errors of images that need a range or window.
        dicom_levels(path, image, levels)
        low, high = image.extremes
        takes_range = image.is_deep and (levels.dicom_window == "full" or image.values.ndim == 3)
        return Values(image.span if takes_range else None, low, high, takes_range)
    if not nature.is_deep:
        return Values(None, is_deep=False, has_alpha=True) if nature.has_alpha else None
    if nature.is_decimal and not levels.takes_decimals:
        raise bad_image(path, DECIMAL)
    if nature.is_cut:
        # Only the whole range is right for what is read.
        cut = decode_rgb(path, data, cv2.IMREAD_COLOR, levels)
        return Values(WHOLE, 256.0 * float(cut.min()), 256.0 * float(cut.max()) + 255, bits=16)
    is_laid = nature.has_alpha and levels.background is not None
    values = _deep(path, data, nature, alpha=is_laid)
    alpha = _alpha(values, nature) if is_laid else None
    if values.ndim == 3:
        values = values[..., :3]
    if alpha is not None and alpha.any():
        # Colours that are not seen are anything, often the largest value.
        values = values[alpha > 0]
    if values.dtype == np.uint8:
        return Values(None, is_deep=False, has_alpha=True) if nature.has_alpha else None
    low = float(values.min())
    high = float(values.max())
    is_whole = values.dtype.kind in "ui"
    return Values(
        covering(high) if is_whole else None,
        low,
        high,
        bits=16 if is_whole and not nature.packed_bits else None,
        has_alpha=nature.has_alpha,
    )
