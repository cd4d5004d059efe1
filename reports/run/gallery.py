"""The gallery of a report: its data, and which images get a thumbnail first."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np

from foldblend.attributes import Attribute
from foldblend.scores.confusion import worst_mistakes
from foldblend.scores.rows import Rows

__all__ = ["MOST_ROWS", "GalleryImages", "Predictions", "gallery_data", "rows_by_interest"]

# Predictions in a gallery: their numbers take 5 MB of the page, and a browser stays quick.
MOST_ROWS = 60_000
DATA_URI = "data:image/jpeg;base64,"


@dataclass(frozen=True, slots=True)
class Predictions:
    """Out-of-fold predictions of a run: names of the images, their rows, probabilities N x C."""

    image_id_N: np.ndarray
    rows: Rows
    proba_NC: np.ndarray


@dataclass(frozen=True, slots=True)
class GalleryImages:
    """Thumbnails and paths of images, by image_id."""

    thumbnails: Mapping[str, str]
    """JPEGs as data URIs."""
    paths: Mapping[str, str]
    """Paths of the files."""
    note: str
    """Which images have a thumbnail, and why others have none."""


def rows_by_interest(
    label_N: np.ndarray, proba_NC: np.ndarray, first: Sequence[int] | np.ndarray = ()
) -> np.ndarray:
    """Return all rows in the order in which they get thumbnails.

    Rows in `first` come first, then mistakes, the most confident first, then correct predictions,
    one of each class in turn.
    """
    wrong = worst_mistakes(label_N, proba_NC)
    right = np.flatnonzero(proba_NC.argmax(axis=1) == label_N)
    by_class = right[np.argsort(label_N[right], kind="stable")]
    counts = np.bincount(label_N[right])
    # The first correct row of each class has turn 0, the second one turn 1, and so on.
    turn = np.arange(len(right)) - np.repeat(np.cumsum(counts) - counts, counts)
    order = np.concatenate(
        [np.asarray(first, dtype=np.int64), wrong, by_class[np.argsort(turn, kind="stable")]]
    )
    # A row that occurs twice keeps its first place.
    _, where = np.unique(order, return_index=True)
    return order[np.sort(where)]


def _links(image_ids: Sequence[str], paths: Mapping[str, str]) -> dict[str, Any]:
    """Return the common folder of all files, and their paths below it if they are not the ids."""
    known = [paths.get(one) for one in image_ids]
    given = [one for one in known if one is not None]
    if not given:
        return {"root": None, "below": None}
    root = os.path.commonpath([PurePath(one).parent for one in given])
    below = [None if one is None else os.path.relpath(one, root) for one in known]
    if all(one == name for one, name in zip(below, image_ids, strict=True)):
        # Usually an id is the path, which then need not be stored twice.
        return {"root": root, "below": None}
    return {"root": root, "below": below}


def gallery_data(
    shown: Predictions,
    images: GalleryImages,
    *,
    classes: Sequence[str],
    attributes: Sequence[Attribute],
    explained: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the data of the gallery: names once each, and rows as columns of small integers.

    Confidences are in thousandths. Thumbnails and paths are stored once per image, also where an
    image has several predictions. `explained` is as `Explanations.data` gives it.
    """
    rows = shown.rows
    image_ids, image_N = np.unique(shown.image_id_N.astype(str), return_inverse=True)
    groups, group_N = np.unique(rows.group_N.astype(str), return_inverse=True)
    places, place_N = np.unique(np.stack([rows.repeat_N, rows.fold_N]), axis=1, return_inverse=True)
    repeated = rows.num_repeats > 1
    row_N = np.arange(len(rows.label_N))
    predicted_N = shown.proba_NC.argmax(axis=1)

    def thousandths(proba_N: np.ndarray) -> list[int]:
        return [int(one) for one in np.rint(proba_N * 1000)]

    return {
        "classes": list(classes),
        "attributes": [
            {"name": one.name, "values": list(one.values), "of_class": list(one.of_class)}
            for one in attributes
        ],
        "group_name": rows.group_name,
        "groups": groups.tolist(),
        "folds": [
            f"{repeat}.{fold}" if repeated else f"{fold}" for repeat, fold in places.T.tolist()
        ],
        "pictures": image_ids.tolist(),
        "links": _links(image_ids.tolist(), images.paths),
        "picture": image_N.tolist(),
        "group": group_N.tolist(),
        "fold": np.ravel(place_N).tolist(),
        "label": rows.label_N.tolist(),
        "predicted": predicted_N.tolist(),
        "confidence": thousandths(shown.proba_NC.max(axis=1)),
        "own": thousandths(shown.proba_NC[row_N, rows.label_N]),
        "thumbnails": [
            images.thumbnails.get(one, "").removeprefix(DATA_URI) for one in image_ids.tolist()
        ],
        "explained": explained,
    }
