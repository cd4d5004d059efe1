"""Levels of a run: how it treats values of more than 8 bits, and transparency."""

from __future__ import annotations

from typing import Any

from foldblend.cli import Say
from foldblend.levels import AS_BEFORE
from folds.config import DataConfig
from folds.data.manifest import Manifest

__all__ = ["has_pixels_by_levels", "levels_differ", "levels_key", "levels_settings", "once"]


def levels_differ(one: DataConfig, other: DataConfig) -> bool:
    """Return whether two settings of data treat such images in different ways."""
    names = ("pixel_range", "dicom_window", "alpha_background")
    return any(getattr(one, name) != getattr(other, name) for name in names)


def has_pixels_by_levels(manifest: Manifest) -> bool:
    """Return whether other levels could give other pixels, which is not known of old ones."""
    return manifest.needs_levels or manifest.levels == AS_BEFORE


def levels_key(manifest: Manifest) -> dict[str, str]:
    """Return the part of the run key for images whose pixels depend on the levels, {} without any.

    Runs of 8-bit images so have the keys that they had before there were levels.
    """
    return {"pixel values": manifest.levels.key} if manifest.needs_levels else {}


def levels_settings(manifest: Manifest) -> dict[str, Any]:
    """Return the settings to write into config.yaml: the range that was decided."""
    span = manifest.levels.pixel_range
    return {} if span is None else {"pixel_range": "{:.17g},{:.17g}".format(*span)}


def once(say: Say) -> Say:
    """Return a function that says each line once, for data that are loaded twice."""
    told = set()

    def say_once(line: str) -> None:
        if line not in told:
            told.add(line)
            say(line)

    return say_once
