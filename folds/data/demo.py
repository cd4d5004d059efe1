"""The demo set: synthetic faces in the mask competition's layout, in a cache folder."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import cv2
import joblib
import numpy as np
import pandas as pd
from joblib.externals.loky.process_executor import TerminatedWorkerError

from foldblend.drafts import draft_folder, sweep_drafts
from foldblend.errors import UserError
from foldblend.failures import WriteFailed, failed_write
from foldblend.files import cache_folder, temporary_folder
from foldblend.progress import write
from foldblend.siblings import call
from folds.data.demo_faces import draw_image, make_person

__all__ = ["DEMO_NOTE", "DEMO_VERSION", "demo_people", "make_demo"]

DEMO_NOTE = (
    "demo set with synthetic faces: it only shows that everything runs; its scores mean nothing"
)
"""Note of each run on the demo set."""
DEMO_VERSION = 1
NUM_TRAIN = 70
NUM_TEST = 14
LEAST = 5
# Number of people in the competition for each gender and age group: men first, youngest first.
PROPORTIONS = np.array([549, 410, 83, 732, 817, 109])
IMAGE_BYTES = 25_000  # of an image, for the message of a full disk
KILLED = "a process that drew images was killed, probably as memory ran out"
AGE_RANGES = ((18, 30), (30, 60), (60, 75))
IMAGES = (
    *[(f"mask{i}", "worn") for i in range(1, 6)],
    ("incorrect_mask", "incorrect"),
    ("normal", "not worn"),
)


def demo_people(num_people: int, *, least: int, seed: int) -> pd.DataFrame:
    """Return a table of people in the competition's proportions; ages are in years.

    Every stratum of gender and age group has at least `least` people. The others are assigned by
    the largest remainder.
    """
    rng = np.random.default_rng([DEMO_VERSION, seed, 0])
    share = PROPORTIONS / PROPORTIONS.sum()
    count = np.full(6, least)
    while count.sum() < num_people:
        count[np.argmax(share * num_people - count)] += 1
    rows = []
    for stratum in range(6):
        for _ in range(count[stratum]):
            gender = ("male", "female")[stratum // 3]
            (low, high) = AGE_RANGES[stratum % 3]
            rows.append({"gender": gender, "race": "Drawn", "age": int(rng.integers(low, high))})
    people = pd.DataFrame(rows).iloc[rng.permutation(len(rows))].reset_index(drop=True)
    people.insert(0, "id", [f"{index + 1:06d}" for index in range(len(people))])
    # "Drawn" stays in these names, because image ids and the hash of the data contain them.
    people["path"] = people["id"] + "_" + people["gender"] + "_Drawn_" + people["age"].astype(str)
    return people


def draw_person(
    seed: int, person: int, male: bool, age: int, files: list[tuple[Path, str]]
) -> None:
    """Draw the images of one person into files; processes run this in parallel."""
    rng = np.random.default_rng([DEMO_VERSION, seed, 1, person])
    who = make_person(rng, male=male, age=age)
    for file, mask in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = cv2.cvtColor(draw_image(who, rng, mask=mask), cv2.COLOR_RGB2BGR)
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(80, 95))]
        # OpenCV's own writer does not tell why it failed.
        file.write_bytes(cv2.imencode(".jpg", pixels, quality)[1].tobytes())


def make_demo(
    root: Path | None = None, *, num_train: int = NUM_TRAIN, num_test: int = NUM_TEST, seed: int = 0
) -> Path:
    """Draw the demo set unless it exists, and return its root.

    Each person has 7 images of 384 x 512 pixels; `folds.data.layout` describes the files. The
    folder is renamed into place when it is complete, so several processes may call this at once.
    Where the cache folder cannot be written, it is in a temporary folder.
    """
    sizes = (num_train, num_test, seed)
    if root is not None:
        return _made(root, *sizes)
    name = f"demo-v{DEMO_VERSION}-{num_train}-{num_test}-{seed}"
    try:
        return _made(cache_folder() / name / "demo", *sizes)
    except WriteFailed as error:
        place = temporary_folder() / name / "demo"
        if not (place / "train" / "train.csv").is_file():
            why = str(error).partition(";")[0]
            write(f"{why}, so the demo set is drawn in {place.parent}.")
        return _made(place, *sizes)


def _made(root: Path, num_train: int, num_test: int, seed: int) -> Path:
    if (root / "train" / "train.csv").is_file():
        return root
    train = demo_people(num_train, least=min(LEAST, num_train // 6), seed=seed)
    test = demo_people(num_test, least=min(1, num_test // 6), seed=seed + 1)
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        # What a killed process left.
        sweep_drafts(root.parent)
        with draft_folder(root) as draft:
            _draw_all(draft / root.name, train, test, seed)
            try:
                os.replace(draft / root.name, root)
            except OSError:
                # Another process may have been faster; its images are the same.
                if not (root / "train" / "train.csv").is_file():
                    raise
    except (OSError, TerminatedWorkerError) as error:
        if isinstance(error, TerminatedWorkerError):
            raise UserError(f"{root}: {KILLED}; run the same command again") from None
        needed = IMAGE_BYTES * len(IMAGES) * (num_train + num_test)
        raise failed_write(root, error, needed=needed) or error from None
    return root


def _draw_all(root: Path, train: pd.DataFrame, test: pd.DataFrame, seed: int) -> None:
    """Draw the people of both tables into a folder, and write the tables."""
    jobs = []
    test_ids = []
    for index, row in enumerate(train.itertuples()):
        files = [
            (root / "train" / "images" / str(row.path) / f"{stem}.jpg", mask)
            for stem, mask in IMAGES
        ]
        jobs.append((seed, index, row.gender == "male", int(str(row.age)), files))
    for index, row in enumerate(test.itertuples()):
        names = [
            hashlib.sha1(f"{seed}/{index}/{stem}".encode()).hexdigest() + ".jpg"
            for stem, _ in IMAGES
        ]
        files = [
            (root / "eval" / "images" / name, mask)
            for name, (_, mask) in zip(names, IMAGES, strict=True)
        ]
        test_ids += names
        jobs.append((seed + 1, index, row.gender == "male", int(str(row.age)), files))
    joblib.Parallel(n_jobs=-1)(
        joblib.delayed(call)("folds.data.demo:draw_person", *job) for job in jobs
    )
    train.to_csv(root / "train" / "train.csv", index=False)
    if test_ids:
        pd.DataFrame({"ImageID": sorted(test_ids), "ans": 0}).to_csv(
            root / "eval" / "info.csv", index=False
        )
