"""Measure what overlaps or is cut in a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["faults"]

SCRIPT = Path(__file__).with_suffix(".js").read_text()


def faults(page: Any) -> list[str]:
    """Return what overlaps, is cut or is too small to read in an open page of playwright."""
    found: list[str] = page.evaluate(SCRIPT)
    return found
