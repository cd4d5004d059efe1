"""Reading of each image for the audit: fingerprint, statistics, features and sketch."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from foldblend.errors import BadImage
from foldblend.images import Box, Levels, boxes_of, crop, read_image
from foldblend.progress import track
from folds.audit.lookalikes import Sketch, few_rows_of_groups, sketch_of
from folds.audit.statistics import statistics_of
from folds.audit.swaps import features_of
from folds.data.duplicates import Print, print_of

__all__ = ["ImageFacts", "facts_of_images"]


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """Data that the checks need of one image."""

    print: Print
    statistics: np.ndarray
    features: np.ndarray | None
    sketch: Sketch | None


def _facts(
    path: str,
    box: Box | None,
    want_features: bool,
    want_sketch: bool,
    max_pixels: int,
    levels: Levels,
    bad: Mapping[str, BadImage],
) -> ImageFacts | BadImage:
    if path in bad:
        return bad[path]
    try:
        whole = read_image(path, max_pixels=max_pixels, levels=levels)
        image = whole if box is None else crop(path, whole, box)
    except BadImage as error:
        return error
    return ImageFacts(
        print_of(image),
        statistics_of(image, Path(path).stat().st_size / (whole.shape[0] * whole.shape[1])),
        features_of(image) if want_features else None,
        sketch_of(image) if want_sketch else None,
    )


def facts_of_images(
    images: pd.DataFrame,
    *,
    deep: bool,
    max_pixels: int,
    levels: Levels,
    bad: Mapping[str, BadImage],
) -> list[ImageFacts | BadImage]:
    """Read images and return the facts of each, or its error.

    Parameters
    ----------
    images
        Rows of all parts, training rows first (see `Exploration.images`).
    deep
        Whether features and sketches of training images are wanted.
    max_pixels
        Most pixels of an image.
    levels
        Treatment of values of more than 8 bits, and of transparency.
    bad
        Errors of images that are known to be unusable, by path.
    """
    is_train = (images["part"] == "train").to_numpy()
    # Only a few images of each group are sketched, because matching them takes most of the time.
    is_sketched = np.zeros(len(images), bool)
    if deep:
        is_sketched[few_rows_of_groups(images["group"].to_numpy()[is_train])] = True
    # Threads are enough: cv2 and hashlib release the interpreter lock.
    with ThreadPoolExecutor() as pool:
        facts = functools.partial(_facts, max_pixels=max_pixels, levels=levels, bad=bad)
        found = pool.map(facts, images["path"], boxes_of(images), is_train & deep, is_sketched)
        return list(track(found, "read images", total=len(images), unit="images"))
