"""Bound what is read from a user's data, and the processes and threads that a command starts.

Bounds of other files are in `foldblend.reading`.
"""

from __future__ import annotations

from foldblend.errors import require

__all__ = ["MAX_PIXELS", "MAX_ROWS", "MOST_PIXELS", "check_limits", "check_machine"]

MAX_ROWS = 20_000_000
"""Default of --max-rows, the rows of the largest table that is read."""
MAX_PIXELS = 2**26
"""Default of --max-pixels, the pixels of the largest image that is read."""
MOST_PIXELS = 2**30
"""Largest value of --max-pixels: OpenCV reads no larger image."""

MOST_TASKS = 1024  # With far more threads than cores, libraries end the process.


def check_machine(*, threads: int | None = None, workers: int | None = None) -> None:
    """Raise UserError for --threads or --workers that are out of range; None: the default."""
    require(
        threads is None or 1 <= threads <= MOST_TASKS,
        f"--threads {threads}: pass 1 or more, and at most {MOST_TASKS}",
    )
    require(
        workers is None or 0 <= workers <= MOST_TASKS,
        f"--workers {workers}: pass 0 or more, and at most {MOST_TASKS}",
    )


def check_limits(max_rows: int | None, max_pixels: int | None) -> None:
    """Raise UserError for a --max-rows or --max-pixels that is out of range; None: the default."""
    require(max_rows is None or max_rows >= 1, f"--max-rows {max_rows}: pass 1 or more")
    require(
        max_pixels is None or 1 <= max_pixels <= MOST_PIXELS,
        f"--max-pixels {max_pixels}: pass 1 to {MOST_PIXELS}",
    )
