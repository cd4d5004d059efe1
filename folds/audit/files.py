"""Notes on image files: very different or very small sizes, and suffixes in two letter cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath

import numpy as np

from foldblend.errors import counted

__all__ = ["size_line", "size_notes", "suffix_notes"]

# Sides that differ by less are common among photographs.
LARGEST_RATIO = 4
LEAST_SIDE = 8


def _images_such_as(names: Sequence[str], chosen_N: np.ndarray) -> str:
    """Return the number of chosen images and the name of the first one."""
    chosen = np.flatnonzero(chosen_N)
    such_as = "such as " if len(chosen) > 1 else ""
    return f"{counted(len(chosen), 'image')}, {such_as}{names[chosen[0]]}"


def size_line(width_N: np.ndarray, height_N: np.ndarray) -> str:
    """Return the sizes of images as text: the one size, or the smallest and the largest.

    Examples
    --------
    >>> size_line(np.array([9, 9]), np.array([8, 8]))
    'all 2 images have 9x8 pixels.'
    >>> size_line(np.array([9, 4]), np.array([8, 8]))
    '4x8 to 9x8 pixels.'
    """
    area_N = width_N * height_N
    texts = [
        f"{width_N[row]:.0f}x{height_N[row]:.0f}" for row in (area_N.argmin(), area_N.argmax())
    ]
    if np.ptp(width_N) == 0 and np.ptp(height_N) == 0:
        return f"all {len(width_N):,} images have {texts[0]} pixels."
    return f"{texts[0]} to {texts[1]} pixels."


def size_notes(names: Sequence[str], width_N: np.ndarray, height_N: np.ndarray) -> list[str]:
    """Return a note if sizes differ much, and one on images with a very short side.

    Examples
    --------
    >>> size_notes(["a.png", "b.png", "c.png"], np.array([9, 9, 99]), np.array([9, 9, 9]))
    []
    >>> size_notes(["a.png", "b.png"], np.array([9, 99]), np.array([9, 90]))
    ['Images of very different sizes: from 9x9 (1 image, a.png) to 99x90 (1 image, b.png).']
    """
    notes = []
    area_N = width_N * height_N
    smallest = int(area_N.argmin())
    largest = int(area_N.argmax())
    if area_N[largest] >= LARGEST_RATIO**2 * area_N[smallest]:
        texts = []
        for row in (smallest, largest):
            same_N = (width_N == width_N[row]) & (height_N == height_N[row])
            texts.append(
                f"{width_N[row]:.0f}x{height_N[row]:.0f} ({_images_such_as(names, same_N)})"
            )
        notes.append(f"Images of very different sizes: from {texts[0]} to {texts[1]}.")
    is_small_N = np.minimum(width_N, height_N) < LEAST_SIDE
    if is_small_N.any():
        notes.append(
            f"Images with a side of less than {LEAST_SIDE} pixels:"
            f" {_images_such_as(names, is_small_N)}."
        )
    return notes


def suffix_notes(names: Sequence[str]) -> list[str]:
    """Return a note for each suffix that occurs in several letter cases.

    Examples
    --------
    >>> suffix_notes(["a.jpg", "b.JPG", "c.png"])
    ['File suffixes in different letter cases: .jpg (1 image, a.jpg), .JPG (1 image, b.JPG).']
    """
    suffix_N = np.array([PurePath(name).suffix for name in names])
    cases: dict[str, list[str]] = {}
    for suffix, _ in Counter(suffix_N.tolist()).most_common():
        cases.setdefault(suffix.lower(), []).append(suffix)
    notes = []
    for several in (found for found in cases.values() if len(found) > 1):
        texts = [f"{one} ({_images_such_as(names, suffix_N == one)})" for one in several]
        notes.append(f"File suffixes in different letter cases: {', '.join(texts)}.")
    return notes
