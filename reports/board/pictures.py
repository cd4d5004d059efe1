"""Images of a board as data of its page: names, predictions in few bytes, and thumbnails."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from foldblend.runs.broken import BrokenRun
from foldblend.runs.run import Run
from reports.board.changed import rows_to_show
from reports.run.gallery import DATA_URI, GalleryImages
from reports.run.thumbnails import gallery_images_of

__all__ = ["DIGITS", "NO_IMAGES", "digits_of", "pictures_data", "thumbnails_of"]

# A class is written with these instead of as a number, which halves the size of a page.
DIGITS = string.ascii_letters + string.digits + "-_"
# Thumbnails show what changes between any two of the first runs, most of it between the first two.
NUM_TOP = 6
NUM_FIRST = 24
MOST_WANTED = 1_000
HEIGHT = 96
NO_IMAGES = GalleryImages({}, {}, "")


def digits_of(values: np.ndarray, num_digits: int) -> str:
    """Return numbers as text with base 64 and a fixed number of digits each.

    Examples
    --------
    >>> digits_of(np.array([0, 2, 25]), 1), digits_of(np.array([0, 65]), 2)
    ('acz', 'aabb')
    """
    places = [values // 64**power % 64 for power in reversed(range(num_digits))]
    letters = np.array(list(DIGITS))[np.stack(places, axis=1).astype(int)]
    return "".join(letters.ravel())


def pictures_data(pictures: Mapping[str, Any], images: GalleryImages) -> dict[str, Any]:
    """Return what the script of the page needs to compare any two runs image by image.

    Images for which all runs predict the same class are counted but not listed.
    """
    label_N = np.array(pictures["true"])
    predicted_MN = np.array(pictures["predicted"])
    rows = np.flatnonzero((predicted_MN != predicted_MN[0]).any(axis=0))
    names = [pictures["image_ids"][row] for row in rows]
    num_digits = 1
    while len(pictures["classes"]) > 64**num_digits:
        num_digits += 1
    return {
        "classes": pictures["classes"],
        "num_images": len(label_N),
        "digits": DIGITS,
        "num_digits": num_digits,
        "image_ids": names,
        "true": digits_of(label_N[rows], num_digits),
        "predicted": [digits_of(one[rows], num_digits) for one in predicted_MN],
        "thumbnails": {
            place: images.thumbnails[name].removeprefix(DATA_URI)
            for place, name in enumerate(names)
            if name in images.thumbnails
        },
        "note": images.note,
    }


def thumbnails_of(
    board: Mapping[str, Any], runs: Sequence[Run], *, most_bytes: int
) -> GalleryImages:
    """Return thumbnails of the images that change most between the first runs of a board.

    All runs of a board have the same images, so they are read from the first run that has them.

    Parameters
    ----------
    board
        A board of `reports.board.leaderboard.leaderboard`.
    runs
        Its runs in any order; none gives no thumbnails.
    most_bytes
        Bytes that all thumbnails may take.
    """
    pictures = board["pictures"]
    predicted_MN = [np.array(one) for one in pictures["predicted"]]
    rows = rows_to_show(
        np.array(pictures["true"]), predicted_MN, num_top=NUM_TOP, num_first=NUM_FIRST
    )
    wanted = [pictures["image_ids"][row] for row in rows[:MOST_WANTED]]
    note = ""
    for run in runs if wanted else ():
        try:
            found = gallery_images_of(run, wanted, height=HEIGHT, most_bytes=most_bytes)
        except BrokenRun:
            continue
        if found.thumbnails:
            return GalleryImages(found.thumbnails, {}, _note(len(found.thumbnails), len(rows)))
        # The first reason why there are none is kept.
        note = note or found.note
    return GalleryImages({}, {}, note)


def _note(num_found: int, num_rows: int) -> str:
    """Return which images have thumbnails, or nothing if all have that change."""
    if num_found == num_rows:
        return ""
    return (
        f"This page holds thumbnails of {num_found:,} of {num_rows:,} images that change between"
        f" the first {NUM_TOP} runs; the others have names only."
    )
