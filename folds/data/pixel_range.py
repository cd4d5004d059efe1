"""The one range of values that becomes black to white in a data set, decided on training images."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import pandas as pd

from foldblend.cli import Say
from foldblend.errors import BadImage, counted, listed
from foldblend.image_checks import Checked, find_values
from foldblend.image_values import Values
from foldblend.levels import AS_BEFORE, Levels, Range, parse_range
from folds.config import DataConfig
from folds.data.manifest import Manifest

__all__ = [
    "decided",
    "levels_asked",
    "with_levels",
    "with_levels_found",
    "with_test_values",
]

# A 16-bit image whose largest value is below this is darker than 1/4 of white.
DARK = 2**14
LEAST_SHARE = 0.25  # of the range that the values of all training images take, else a warning


def levels_asked(config: DataConfig) -> Levels:
    """Return what the flags say; the range is None where it is to be decided, or not used.

    Raises UserError for a --pixel-range or --dicom-window that is none.
    """
    background = None if config.alpha_background == "drop" else config.alpha_background
    return Levels(parse_range(config.pixel_range), config.dicom_window, background)


def decided(config: DataConfig, found: Sequence[Values | None]) -> Levels:
    """Return the levels of a data set: the flags, with the range that its training images need.

    Parameters
    ----------
    config
        Settings of the data.
    found
        Values of the training images.
    """
    asked = levels_asked(config)
    spans = [one.span for one in found if one is not None and one.span is not None]
    if config.pixel_range != "auto" or not spans:
        return asked
    span = min(low for low, _ in spans), max(high for _, high in spans)
    return dataclasses.replace(asked, pixel_range=span, range_is_decided=True)


def with_levels(
    manifest: Manifest, config: DataConfig, train: Sequence[Checked], say: Say
) -> Manifest:
    """Return the manifest with its levels, and notes on training images that do not suit them.

    Parameters
    ----------
    manifest
        The data.
    config
        Settings of the data.
    train
        Its checked training images, in the order of its table.
    say
        Function that prints a line.
    """
    levels = decided(config, [one.values for one in train])
    found = [one.values for one in train if one.values is not None]
    deep = [one for one in found if one.is_deep]
    if levels.pixel_range is None:
        notes = _dark(manifest.train, train, "image")
    else:
        low, high = levels.pixel_range
        images = counted(len(deep), "training image")
        say(f"Pixel values from {low:g} to {high:g} become 0 to 255 ({images} of over 8 bits).")
        notes = _narrow(deep, levels.pixel_range, config)
    return _noted(
        dataclasses.replace(
            manifest, levels=levels, needs_levels=bool(found) and levels != AS_BEFORE
        ),
        notes,
        say,
    )


def with_levels_found(
    manifest: Manifest, config: DataConfig, say: Say
) -> tuple[Manifest, dict[str, BadImage]]:
    """Return the manifest with its levels, for which the values of its images are read first.

    Images that cannot be used stay in the tables; the second value has their errors by path.
    """
    asked = levels_asked(config)
    read = functools.partial(find_values, max_pixels=config.max_pixels)
    labelled = manifest.labelled
    found = read(labelled, levels=asked)
    results = dict(zip(labelled["path"], found, strict=True))
    good = [isinstance(one, Checked) for one in found]
    narrowed = dataclasses.replace(manifest, train=labelled[good], train_only=None, test=None)
    told = with_levels(narrowed, config, [one for one in found if isinstance(one, Checked)], say)
    if manifest.test is not None:
        found = read(manifest.test, levels=told.levels)
        results |= dict(zip(manifest.test["path"], found, strict=True))
        good = [isinstance(one, Checked) for one in found]
        told = dataclasses.replace(told, test=manifest.test[good])
        told = with_test_values(told, [one for one in found if isinstance(one, Checked)], say)
    bad = {path: one for path, one in results.items() if isinstance(one, BadImage)}
    return dataclasses.replace(
        manifest, levels=told.levels, needs_levels=told.needs_levels, notes=told.notes
    ), bad


def with_test_values(manifest: Manifest, test: Sequence[Checked], say: Say) -> Manifest:
    """Return the manifest with notes on test images that do not suit its levels.

    Parameters
    ----------
    manifest
        The data with the levels of the training images.
    test
        Its checked test images, in the order of its table.
    say
        Function that prints a line.
    """
    if manifest.test is None:
        return manifest
    levels = manifest.levels
    if levels.pixel_range is None:
        notes = _dark(manifest.test, test, "test image")
    else:
        notes = _clipped(manifest.test, test, levels.pixel_range)
    needs = levels != AS_BEFORE and any(one.values is not None for one in test)
    return _noted(
        dataclasses.replace(manifest, needs_levels=manifest.needs_levels or needs), notes, say
    )


def _noted(manifest: Manifest, notes: Sequence[str], say: Say) -> Manifest:
    """Print warnings, and return the manifest with them among the notes for the report."""
    for note in notes:
        say(f"warning: {note}")
    return dataclasses.replace(manifest, notes=(*manifest.notes, *notes))


def _narrow(deep: Sequence[Values], span: Range, config: DataConfig) -> list[str]:
    """Return a sentence if all training images together use little of the range."""
    low = min(one.low for one in deep)
    high = max(one.high for one in deep)
    if config.pixel_range != "auto" or high - low >= LEAST_SHARE * (span[1] - span[0]):
        return []
    return [
        f"training images have values from {low:g} to {high:g} only, of {span[0]:g} to"
        f" {span[1]:g}, so they will have few shades of grey; pass --pixel-range LOW,HIGH, or"
        " --dicom-window for DICOM"
    ]


def _names(table: pd.DataFrame, chosen: Sequence[bool]) -> list[str]:
    return [name for name, one in zip(table["image_id"], chosen, strict=True) if one]


def _clipped(table: pd.DataFrame, found: Sequence[Checked], span: Range) -> list[str]:
    """Return a sentence on test images with values outside the range, which are clipped."""
    names = _names(
        table,
        [
            one.values is not None
            and one.values.is_deep
            and (one.values.low < span[0] or one.values.high > span[1])
            for one in found
        ],
    )
    if not names:
        return []
    have = "has" if len(names) == 1 else "have"
    return [
        f"{counted(len(names), 'test image')} {have} pixel values outside {span[0]:g} to"
        f" {span[1]:g}, the range of the training images, and these are clipped: {listed(names)}"
    ]


def _dark(table: pd.DataFrame, found: Sequence[Checked], noun: str) -> list[str]:
    """Return a sentence on 16-bit images that use a small part of their range, as X-rays do.

    Without a range, only the upper 8 of 16 bits are read.
    """
    peaks = [
        one.values.high if one.values is not None and one.values.bits == 16 else None
        for one in found
    ]
    names = _names(table, [peak is not None and peak < DARK for peak in peaks])
    if not names:
        return []
    most = max(peak for peak in peaks if peak is not None and peak < DARK)
    have, use, they, them = (
        ("has", "uses", "it", "it") if len(names) == 1 else ("have", "use", "they", "them")
    )
    return [
        f"{counted(len(names), noun)} {have} 16 bits but {use} only values up to {most:g} of"
        f" 65535, so {they} will look nearly black: {listed(names)}; pass --pixel-range"
        f" LOW,HIGH, or scale {them} to the full range"
    ]
