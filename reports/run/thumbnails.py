"""Small copies of a run's images for its page, read from where the run found them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from foldblend.errors import BadImage
from foldblend.images import Box, Levels, boxes_of, crop, read_image
from foldblend.runs.broken import BrokenRun
from foldblend.runs.folder import PICTURES
from foldblend.runs.run import Run
from reports.html import thumbnail
from reports.run.gallery import GalleryImages

__all__ = ["gallery_images_of"]

# Bytes of thumbnails in a page, which stays below 15 MB with everything else.
EMBED_BYTES = 9_000_000
HEIGHT = 112
QUALITY = 70
CHUNK = 256


def _thumbnail(
    path: str, box: Box | None, *, checked: bool, levels: Levels, height: int
) -> str | None:
    try:
        image = read_image(
            path,
            # A JPEG is decoded at a reduced size, but not below this, so none is enlarged.
            at_least=(height, height) if box is None else None,
            checked=checked,
            levels=levels,
        )
        return thumbnail(
            image if box is None else crop(path, image, box), height=height, quality=QUALITY
        )
    except BadImage:
        return None


def _chunks(ids: Sequence[str]) -> Iterable[Sequence[str]]:
    return (ids[start : start + CHUNK] for start in range(0, len(ids), CHUNK))


def _read(
    table: pd.DataFrame, wanted: Sequence[str], levels: Levels, *, height: int, most_bytes: int
) -> dict[str, str]:
    """Return thumbnails of the wanted images, in their order, up to a number of bytes."""
    found: dict[str, str] = {}
    used = 0
    # Runs of earlier versions have no hashes, and did not search images for damage.
    draw = functools.partial(_thumbnail, checked="content" in table, levels=levels, height=height)
    # Threads are enough, because cv2 releases the interpreter lock.
    with ThreadPoolExecutor() as pool:
        for ids in _chunks(wanted):
            rows = table.loc[list(ids)]
            boxes = [None if box is None else tuple(box) for box in boxes_of(rows)]
            for name, uri in zip(ids, pool.map(draw, rows["path"], boxes), strict=True):
                if uri is None:
                    continue
                if used + len(uri) > most_bytes:
                    return found
                found[name] = uri
                used += len(uri)
    return found


def gallery_images_of(
    run: Run, wanted: Sequence[str], *, height: int = HEIGHT, most_bytes: int = EMBED_BYTES
) -> GalleryImages:
    """Return thumbnails of a run's training images, most wanted first, and the paths of all.

    Images that cannot be read are left out, with a note, because a report does not need them.

    Parameters
    ----------
    run
        A run or blend.
    wanted
        Names of images.
    height
        Height of a thumbnail in pixels.
    most_bytes
        Bytes that all thumbnails may take.
    """
    if not (run.path / PICTURES).is_file():
        return GalleryImages(
            {},
            {},
            f"No thumbnails: the run folder has no {PICTURES}, which lists the image files.",
        )
    try:
        table = run.table("pictures")
    except BrokenRun as error:
        return GalleryImages({}, {}, f"No thumbnails: {error}.")
    table = table[table["part"] == "train"].set_index("image_id")
    here = [name for name in dict.fromkeys(wanted) if name in table.index]
    paths = dict(zip(table.index, table["path"], strict=True))
    # Data that were moved are missing as a whole, so the first images are enough to check.
    if here and not any(Path(paths[name]).is_file() for name in here[:CHUNK]):
        return GalleryImages(
            {},
            {},
            f"No thumbnails: the images are not where the run found them ({paths[here[0]]}).",
        )
    levels = Levels.of_record(run.info.get("preprocess", {}))
    found = _read(table, here, levels, height=height, most_bytes=most_bytes)
    note = f"Thumbnails of {len(found):,} of {len(here):,} images are in this page"
    if len(found) < len(here):
        note += (
            f" (up to {most_bytes / 1e6:.2g} MB, mistakes first); the others are links to their"
            " files"
        )
    return GalleryImages(found, paths, note + ".")
