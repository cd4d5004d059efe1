"""Levels of a run: what becomes of values of more than 8 bits, and of transparency."""

from __future__ import annotations

from typing import Any

from folds.config import DataConfig
from folds.data.manifest import Manifest

__all__ = ["levels_differ", "levels_key", "levels_settings"]


def levels_differ(one: DataConfig, other: DataConfig) -> bool:
    """Return whether two settings of data treat such images in different ways."""
    names = ("pixel_range", "dicom_window", "alpha_background")
    return any(getattr(one, name) != getattr(other, name) for name in names)


def levels_key(manifest: Manifest) -> dict[str, str]:
    """Return the part of the run key for images whose pixels depend on the levels, {} without any.

    Runs of 8-bit images so have the keys that they had before there were levels.
    """
    return {"pixel values": manifest.levels.key} if manifest.needs_levels else {}


def levels_settings(manifest: Manifest) -> dict[str, Any]:
    """Return the settings to write into config.yaml: the range that was decided."""
    span = manifest.levels.pixel_range
    return {} if span is None else {"pixel_range": "{:.17g},{:.17g}".format(*span)}
