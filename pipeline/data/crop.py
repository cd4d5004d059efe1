"""Crops: the part of each image that the model sees, as the column `box` of a manifest's tables."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pandas as pd

from foldblend.cli import Say
from foldblend.errors import counted, did_you_mean, listed, require
from foldblend.images import AS_BEFORE, Box, Levels, Size, upright_size
from folds.data.manifest import Manifest
from pipeline.data.faces import face_finder, find_faces

__all__ = ["CROPS", "box_finder", "window", "with_crop"]

# The detector's box runs from the hairline to the chin and from ear to ear. The crop is larger by
# this factor, so that it contains the hair, the chin and the whole of a mask.
MARGIN = 1.5
# The crop is shifted up by this share of the face's height, since more of the head is above the
# detector's box than below it.
LIFT = 0.05

Find = Callable[[pd.DataFrame], np.ndarray]
Crop = Callable[[pd.DataFrame, float, Find], tuple[list[Box], str] | None]
"""Function of (table, share, `find_faces`) that returns boxes and a note for log and report.

None means that the table keeps its boxes, or has none.
"""


def with_crop(
    manifest: Manifest,
    crop: str,
    *,
    share: float,
    cache_dir: str | None,
    say: Say,
    keep: bool = True,
) -> tuple[Manifest, str | None]:
    """Return the manifest with each image's crop in the column `box`, and a note for the report.

    Parameters
    ----------
    manifest
        The data; its tables need the column `content` (see folds.data.load).
    crop
        Name in CROPS (--crop).
    share
        Width and height of a centre crop as a share of the image (--crop-share).
    cache_dir, keep
        Folder of the cache, and whether detected faces are cached in it.
    say
        Writes a line to the log.

    Raises
    ------
    UserError
        If the crop contradicts the manifest's boxes, or the face detector is not installed.
    """
    known = listed(CROPS, most=len(CROPS))
    require(
        crop in CROPS,
        f"--crop {crop}: no such crop; pass one of {known}{did_you_mean(crop, CROPS)}",
    )
    require(0 < share <= 1, f"--crop-share {share:g}: pass more than 0, up to 1")
    has_boxes = "box" in manifest.train
    require(
        crop != "box" or has_boxes,
        "--crop box: the images have no boxes; name their columns with --box-cols",
    )
    require(
        crop in ("auto", "box") or not has_boxes,
        f"--crop {crop}: the data already has boxes (--box-cols); leave one of the two out",
    )
    every = pd.concat([table[["path", "content"]] for table in manifest.tables], ignore_index=True)
    cropped = CROPS[crop](
        every,
        share,
        functools.partial(
            find_faces,
            cache_dir=cache_dir,
            keep=keep,
            say=say,
            levels=manifest.levels,
            needs_levels=manifest.needs_levels,
        ),
    )
    if cropped is None:
        return manifest, None
    boxes, note = cropped
    say(note)
    box_N = np.fromiter(boxes, dtype=object, count=len(boxes))
    ends = np.cumsum([len(table) for table in manifest.tables])
    boxed = [
        table.assign(box=part_N)
        for table, part_N in zip(manifest.tables, np.split(box_N, ends[:-1]), strict=True)
    ]
    return manifest.with_tables(boxed), note


def window(size: Size, share: float, centre: tuple[float, float] | None = None) -> Box:
    """Return a box of whole pixels with `share` of an image's width and height.

    It is as near to `centre` (default: the image's centre) as fits into the image.

    Examples
    --------
    >>> window((384, 512), 0.5)
    (96.0, 128.0, 288.0, 384.0)
    """
    lows = []
    highs = []
    for side, middle in zip(size, centre or (size[0] / 2, size[1] / 2), strict=True):
        length = max(1, round(share * side))
        lows.append(min(max(round(middle - length / 2), 0), side - length))
        highs.append(lows[-1] + length)
    return float(lows[0]), float(lows[1]), float(highs[0]), float(highs[1])


def _as_it_is(table: pd.DataFrame, share: float, find: Find) -> None:
    """Keep the manifest's boxes, or whole images."""


def _to_centre(table: pd.DataFrame, share: float, find: Find) -> tuple[list[Box], str]:
    boxes = [window(upright_size(path), share) for path in table["path"]]
    return boxes, f"centre crop: the central {100 * share:g} % of each image's width and height"


def _to_face(table: pd.DataFrame, share: float, find: Find) -> tuple[list[Box], str]:
    """Crop to the largest face with the image's aspect ratio, or to the centre without a face."""
    face_N6 = find(table)
    boxes = [_face_window(face_6, share) for face_6 in face_N6]
    num_missed = int(np.isnan(face_N6).any(axis=1).sum())
    if not num_missed:
        return boxes, f"face crop: a face was found in every image ({len(boxes):,})"
    found = f"no face found in {num_missed:,} of {counted(len(boxes), 'image')}"
    return boxes, f"face crop: {found}, cropped to the central {100 * share:g} % instead"


def _face_window(face_6: np.ndarray, share: float) -> Box:
    """Return the crop for a row of `find_faces`."""
    width, height, x1, y1, x2, y2 = face_6.tolist()
    size = (int(width), int(height))
    if np.isnan(face_6).any():
        return window(size, share)
    around = min(1.0, MARGIN * max((x2 - x1) / width, (y2 - y1) / height))
    return window(size, around, ((x1 + x2) / 2, (y1 + y2) / 2 - LIFT * (y2 - y1)))


def box_finder(crop: str, share: float, levels: Levels = AS_BEFORE) -> Callable[[str], Box | None]:
    """Return a function from an image file to the box of a crop, or None for the whole image.

    Threads may call it. For single images that come later; `with_crop` is for a data set.

    Parameters
    ----------
    crop
        Name in CROPS; with "box", boxes are the caller's, and the function returns None.
    share
        Width and height of a centre crop as a share of the image.
    levels
        Treatment of values of more than 8 bits, and of transparency.

    Raises
    ------
    UserError
        If the face detector is not installed.
    """
    if crop == "face":
        find = face_finder(levels)
        return lambda path: _face_window(find(path, None), share)
    if crop == "center":
        return lambda path: window(upright_size(path), share)
    return lambda path: None


CROPS: dict[str, Crop] = {
    "auto": _as_it_is,
    "whole": _as_it_is,
    "center": _to_centre,
    "face": _to_face,
    "box": _as_it_is,
}
