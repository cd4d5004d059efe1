"""Bounds of what is read from a user's data; those of other files are in `foldblend.reading`."""

from __future__ import annotations

from foldblend.errors import require

__all__ = ["MAX_PIXELS", "MAX_ROWS", "MOST_PIXELS", "check_limits"]

MAX_ROWS = 20_000_000
"""Default of --max-rows, the rows of the largest table that is read."""
MAX_PIXELS = 2**26
"""Default of --max-pixels, the pixels of the largest image that is read."""
MOST_PIXELS = 2**30
"""Largest value of --max-pixels: OpenCV reads no larger image."""


def check_limits(max_rows: int | None, max_pixels: int | None) -> None:
    """Raise UserError for a --max-rows or --max-pixels that is out of range; None: the default."""
    require(max_rows is None or max_rows >= 1, f"--max-rows {max_rows}: pass 1 or more")
    require(
        max_pixels is None or 1 <= max_pixels <= MOST_PIXELS,
        f"--max-pixels {max_pixels}: pass 1 to {MOST_PIXELS}",
    )
