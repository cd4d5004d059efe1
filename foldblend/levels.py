"""Levels 0 to 255 of images with other values: one range of values, and one background."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from foldblend.errors import require

__all__ = [
    "AS_BEFORE",
    "BACKGROUNDS",
    "DEPTHS",
    "Background",
    "Levels",
    "Range",
    "covering",
    "over",
    "parse_range",
    "parse_window",
    "scaled",
    "window_of",
]

Range = tuple[float, float]
Background = Literal["white", "grey", "black"]

DEPTHS = (8, 10, 12, 14, 16)
"""Bits of which cameras and scanners have values; files keep most of them in 16 bits."""
BACKGROUNDS = {"white": 255, "grey": 128, "black": 0}
"""Level of all channels under transparent pixels, by the name that --alpha-background takes."""
WITHOUT_ENDS = ("off", "auto")  # of --pixel-range
ROWS = 256  # rows of a float image that are scaled at once, which bounds the memory

NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
PAIR = re.compile(rf"\s*({NUMBER})\s*,\s*({NUMBER})\s*")


@dataclass(frozen=True, slots=True)
class Levels:
    """Settings that turn other values into levels 0 to 255; images of 8 bits stay as they are.

    The default is what versions without these settings did.
    """

    pixel_range: Range | None = None
    """Values that become 0 and 255 in images with more than 8 bits.

    None: the upper 8 of 16 bits, and all values that the header of a DICOM file allows.
    """
    dicom_window: str = "full"
    """Values of DICOM files that are used: full, file, or centre and width as CENTER,WIDTH."""
    background: Background | None = None
    """Name in BACKGROUNDS of what is under transparent pixels; None: transparency is dropped."""
    range_is_decided: bool = field(default=False, repr=False)
    """Whether `pixel_range` was decided on images, all of integers, and not typed."""

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Levels:
        """Return the levels that the record "preprocess" of run.json describes."""
        span = record.get("pixel_range")
        return cls(
            None if span is None else (float(span[0]), float(span[1])),
            str(record.get("dicom_window", "full")),
            record.get("background"),
            bool(record.get("range_is_decided", False)),
        )

    @property
    def takes_decimals(self) -> bool:
        """Tell whether the range is for decimal values too.

        One that was decided on integers says nothing of them: those from 0 to 1 would be black.
        """
        return self.pixel_range is not None and not self.range_is_decided

    @property
    def key(self) -> str:
        """Return a text that is equal for equal pixels only, and "" for those of old versions."""
        return "" if self == AS_BEFORE else repr(self)


AS_BEFORE = Levels()
"""Levels of versions without these settings."""


def _pair(text: str) -> tuple[float, float] | None:
    found = PAIR.fullmatch(text)
    if found is None:
        return None
    pair = float(found[1]), float(found[2])
    return pair if bool(np.isfinite(pair).all()) else None


def parse_range(text: str) -> Range | None:
    """Return the range that --pixel-range gives, or None for "auto" and "off".

    Raises UserError for other texts.

    Examples
    --------
    >>> parse_range("-1000,400")
    (-1000.0, 400.0)
    """
    if text in WITHOUT_ENDS:
        return None
    pair = _pair(text)
    require(
        pair is not None and pair[0] < pair[1],
        f"--pixel-range {text}: pass auto, off, or the values that become black and white, such as"
        " 0,4095",
    )
    return pair


def parse_window(text: str) -> Range | None:
    """Return the values that --dicom-window gives, or None for "full" and "file".

    They are those that the DICOM standard gives a linear window (PS3.3, C.11.2.1.2.1).

    Examples
    --------
    >>> parse_window("40,400")
    (-160.0, 239.0)
    """
    if text in ("full", "file"):
        return None
    pair = _pair(text)
    require(
        pair is not None and pair[1] > 1,
        f"--dicom-window {text}: pass full, file, or the centre and the width of a window, such as"
        " 40,400",
    )
    assert pair is not None
    return window_of(*pair)


def window_of(center: float, width: float) -> Range:
    """Return the values that become black and white in a linear window of DICOM."""
    return center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2


def covering(value: float) -> Range:
    """Return the range of the smallest of the usual bit depths that holds a value.

    Examples
    --------
    >>> covering(1500), covering(4096), covering(70000)
    ((0.0, 4095.0), (0.0, 16383.0), (0.0, 65535.0))
    """
    bits = next((one for one in DEPTHS if value < 2**one), DEPTHS[-1])
    return 0.0, float(2**bits - 1)


def scaled(values: np.ndarray, span: Range) -> np.ndarray:
    """Return values as uint8: linear from 0 to 255 over a range, rounded and clipped.

    Parameters
    ----------
    values
        Array of integers or floats without NaN.
    span
        The values that become 0 and 255.

    Examples
    --------
    >>> scaled(np.array([0, 1000, 4095, 9999], np.uint16), (0, 4095)).tolist()
    [0, 62, 255, 255]
    """
    low, high = span
    if values.dtype == np.uint16:
        table = _levels(np.arange(2**16, dtype=np.float64), low, high)
        return np.asarray(table[values])
    found = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), ROWS):
        found[start : start + ROWS] = _levels(
            values[start : start + ROWS].astype(np.float64), low, high
        )
    return found


def _levels(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return float64 values, which are overwritten, as levels."""
    # Clipped first, so that infinite values and large ones cannot overflow.
    np.clip(values, low, high, out=values)
    values -= low
    values *= 255 / (high - low)
    return np.rint(values, out=values).astype(np.uint8)


def over(
    colour: np.ndarray, alpha: np.ndarray, background: str, *, premultiplied: bool
) -> np.ndarray:
    """Return a colour image, H x W x 3 uint8, laid over a background.

    Parameters
    ----------
    colour
        H x W x 3 uint8.
    alpha
        H x W, 0 (transparent) to 255 or, with 16 bits, 65535.
    background
        Name in BACKGROUNDS.
    premultiplied
        Whether the colours are multiplied by alpha already.

    Examples
    --------
    >>> grey = np.full((1, 3, 3), 100, np.uint8)
    >>> over(grey, np.array([[0, 51, 255]], np.uint8), "white", premultiplied=False)[0, :, 0]
    array([255, 224, 100], dtype=uint8)
    """
    level = BACKGROUNDS[background]
    most = np.iinfo(alpha.dtype).max
    found = np.empty(colour.shape, np.uint8)
    for start in range(0, len(colour), ROWS):
        rows = slice(start, start + ROWS)
        share = (alpha[rows, :, None] / most).astype(np.float32)
        top = colour[rows] if premultiplied else colour[rows] * share
        found[rows] = np.clip(np.rint(top + level * (1 - share)), 0, 255)
    return found
