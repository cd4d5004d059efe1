"""Checks of all images of a table before they are used: damage, hashes and pixel values."""

from __future__ import annotations

import functools
from collections.abc import Container, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pandas as pd

from foldblend.errors import BadImage
from foldblend.image_bytes import quiet
from foldblend.image_contents import Box, boxes_of, content_hash, crop, image_key, read_content
from foldblend.image_faults import bad_image, damage_of
from foldblend.image_headers import mode_of
from foldblend.image_natures import PLAIN, nature_of
from foldblend.image_values import Values, decode, values_key, values_of
from foldblend.levels import AS_BEFORE, Levels
from foldblend.limits import MAX_PIXELS
from foldblend.progress import track

__all__ = ["Checked", "check_images", "find_values"]


@dataclass(frozen=True, slots=True)
class Checked:
    """A file that can be used as an image."""

    content: str
    """Hash of the file's content."""
    values: Values | None = None
    """Values that have more than 8 bits, or transparency; None for images without either."""


def _check_one(
    path: str,
    box: Box | None,
    known: Container[bytes],
    max_pixels: int,
    levels: Levels,
    remembered: MutableMapping[bytes, Values],
) -> Checked | BadImage:
    try:
        data = read_content(path, max_pixels)
        content = content_hash(data)
        if image_key(content, box) not in known:
            _check_bytes(path, quiet(data), box, max_pixels)
        key = values_key(content, levels)
        values = remembered.get(key) or values_of(path, quiet(data), levels)
        if values is not None:
            remembered[key] = values
        return Checked(content, values)
    except BadImage as error:
        return error


def _check_bytes(path: str, data: bytes, box: Box | None, max_pixels: int) -> None:
    """Raise BadImage if an image, or the part in the box, cannot be used."""
    mode, size = mode_of(path, data, (1, 1) if box is None else None, max_pixels)
    fault, is_decoded = damage_of(data)
    if fault is not None:
        raise bad_image(path, fault)
    if is_decoded and box is None:
        return
    nature = nature_of(data)
    if nature.is_dicom or nature.is_deep:
        # Their values are looked at next, so that they are decoded there.
        if box is not None:
            crop(path, np.broadcast_to(np.uint8(0), size[::-1]), box)
        return
    image = decode(path, data, mode)
    if box is not None:
        crop(path, image, box)


def check_images(
    table: pd.DataFrame,
    known: Container[bytes] = (),
    *,
    max_pixels: int = MAX_PIXELS,
    levels: Levels = AS_BEFORE,
    remembered: MutableMapping[bytes, Values] | None = None,
) -> list[Checked | BadImage]:
    """Decode every image of a manifest's table once and return content hashes or errors.

    Parameters
    ----------
    table
        Rows with the column "path" and, optionally, "box".
    known
        Keys (see `image_key`) of images that were decoded before; these are only hashed.
    max_pixels
        Pixels of the largest image that can be used (--max-pixels).
    levels
        Treatment of other values. A range that is decided from these images is not needed yet.
    remembered
        Values of images by `values_key`, which are not searched for again; others are added.

    Returns
    -------
    list[Checked | BadImage]
        For each row the file's content hash, or the error if the image cannot be used.
    """
    # Threads are enough: cv2, simplejpeg, zlib and hashlib release the GIL.
    with ThreadPoolExecutor() as pool:
        check = functools.partial(
            _check_one,
            known=known,
            max_pixels=max_pixels,
            levels=levels,
            remembered={} if remembered is None else remembered,
        )
        checked = pool.map(check, table["path"], boxes_of(table))
        return list(track(checked, "check images", total=len(table), unit="images"))


def _values_in(path: str, max_pixels: int, levels: Levels) -> Checked | BadImage:
    try:
        data = read_content(path, max_pixels)
        nature = nature_of(data)
        if nature == PLAIN:
            return Checked("")
        mode_of(path, quiet(data), None, max_pixels)
        return Checked("", values_of(path, quiet(data), levels))
    except BadImage as error:
        return error


def find_values(
    table: pd.DataFrame, *, max_pixels: int = MAX_PIXELS, levels: Levels = AS_BEFORE
) -> list[Checked | BadImage]:
    """Return the values of images, as `check_images` does, but without hashes and checks.

    Only images with more than 8 bits are decoded.
    """
    with ThreadPoolExecutor() as pool:
        find = functools.partial(_values_in, max_pixels=max_pixels, levels=levels)
        found = pool.map(find, table["path"])
        return list(track(found, "find pixel values", total=len(table), unit="images"))
