"""Faults planted in real data: how many the audit finds, and what else it reports.

    python benchmarks/planted_faults.py --data LAYOUT [--people 80]

There are three kinds of faults. For each person in turn, an image of another person is replaced by
a recompressed copy of one of theirs; the labels of the image with a wrongly worn mask and of the
one without a mask are exchanged; and their images are split at random over two names, with two or
more images each. The first two kinds are planted one at a time, the last kind four at a time.
Findings that the unchanged data set has as well count as false too, and are also counted
separately. The last line is about drawn hands without a fault, of classes that are hard to tell
apart.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from foldblend.images import read_image
from folds.audit.exchanges import find_swaps
from folds.audit.lookalikes import few_rows_of_groups, lookalike_groups, sketch_of
from folds.audit.swaps import features_of, log_proba_of
from folds.config import DataConfig
from folds.data.duplicates import duplicate_pairs, print_of, stacked
from folds.data.manifest import Manifest
from folds.data.source import load_manifest

# The makers of test data are not installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.makers.hands import hands

Names = set[tuple[str, ...]]


def figures(
    name: str, planted: list[Names], reported: list[Names], clean: Names, seconds: float
) -> dict[str, object]:
    """Return counts of planted and reported faults over all trials."""
    found = sum(len(one & other) for one, other in zip(planted, reported, strict=True))
    false = [other - one for one, other in zip(planted, reported, strict=True)]
    num_false = sum(map(len, false))
    num_new = sum(len(one - clean) for one in false)
    num_planted = sum(map(len, planted))
    return {
        "fault": name,
        "planted": num_planted,
        "found": found,
        "trials": len(planted),
        "false": num_false,
        "false without those of the untouched data": num_new,
        "named in the untouched data": len(clean),
        "seconds a trial": round(seconds / max(len(planted), 1), 1),
    }


def copies(manifest: Manifest, people: np.ndarray, rng: np.random.Generator) -> dict[str, object]:
    """Replace an image of each person by a recompressed copy of another person's."""
    train = manifest.train
    group_N = train["group"].to_numpy()
    ids = train["image_id"].to_numpy()
    prints = [print_of(read_image(path)) for path in train["path"]]

    def across_groups(all_prints: list) -> Names:
        pairs = duplicate_pairs(stacked(all_prints))
        return {tuple(sorted((ids[i], ids[j]))) for i, j in pairs if group_N[i] != group_N[j]}

    start = time.perf_counter()
    planted = []
    reported = []
    with tempfile.TemporaryDirectory() as folder:
        for one, other in zip(people, np.roll(people, 1), strict=True):
            source, target = (
                int(rng.choice(np.flatnonzero(group_N == person))) for person in (one, other)
            )
            file = Path(folder) / "copy.jpg"
            quality = int(rng.integers(30, 90))
            cv2.imwrite(
                str(file), cv2.imread(train["path"][source]), [cv2.IMWRITE_JPEG_QUALITY, quality]
            )
            changed = list(prints)
            changed[target] = print_of(read_image(file))
            planted.append({tuple(sorted((ids[source], ids[target])))})
            reported.append(across_groups(changed))
    seconds = time.perf_counter() - start
    return figures(
        "image copied to another person, recompressed",
        planted,
        reported,
        across_groups(prints),
        seconds,
    )


def swaps(manifest: Manifest, people: np.ndarray) -> dict[str, object]:
    """Exchange the labels of two images of each person."""
    train = manifest.train
    mask = np.asarray(manifest.attributes[0].of_class)[manifest.train["label"]]
    group_N = train["group"].to_numpy()
    ids = train["image_id"].to_numpy()
    features = np.stack([features_of(read_image(path)) for path in train["path"]])

    def reported_with(label_N: np.ndarray) -> Names:
        found = find_swaps(log_proba_of(features, label_N, group_N), label_N, group_N)
        return {tuple(sorted((ids[i], ids[j]))) for i, j in found.pairs}

    start = time.perf_counter()
    planted = []
    reported = []
    for person in people:
        rows = [int(np.flatnonzero((group_N == person) & (mask == value))[0]) for value in (1, 2)]
        label_N = mask.copy()
        label_N[rows] = label_N[rows[::-1]]
        planted.append({tuple(sorted(ids[rows]))})
        reported.append(reported_with(label_N))
    seconds = time.perf_counter() - start
    return figures("swapped pair of labels", planted, reported, reported_with(mask), seconds)


def splits(manifest: Manifest, people: np.ndarray, rng: np.random.Generator) -> dict[str, object]:
    """Split the images of each person over two names."""
    group_N = manifest.train["group"].to_numpy()
    sketches = [sketch_of(read_image(path)) for path in manifest.train["path"]]

    def reported_with(names_N: np.ndarray) -> Names:
        rows = few_rows_of_groups(names_N)
        found = lookalike_groups([sketches[row] for row in rows], names_N[rows])
        return {tuple(sorted((names_N[rows[i]], names_N[rows[j]]))) for i, j in found.pairs}

    start = time.perf_counter()
    planted = []
    reported = []
    for some in np.array_split(people, -(-len(people) // 4)):
        names_N = group_N.copy()
        for person in some:
            rows = rng.permutation(np.flatnonzero(group_N == person))
            names_N[rows[: rng.integers(2, len(rows) - 1)]] = f"{person}, again"
        planted.append({tuple(sorted((person, f"{person}, again"))) for person in some})
        reported.append(reported_with(names_N))
    seconds = time.perf_counter() - start
    return figures("folder split in two names", planted, reported, reported_with(group_N), seconds)


def no_swaps(num_trials: int) -> dict[str, object]:
    """Search for swaps among ten classes that differ in small parts of drawn images."""
    start = time.perf_counter()
    reported: list[Names] = []
    for seed in range(num_trials):
        images, label_N, group_N = hands(num_groups=40, seed=seed)
        features = np.stack([features_of(image) for image in images])
        found = find_swaps(log_proba_of(features, label_N, group_N), label_N, group_N)
        reported.append({(str(i), str(j)) for i, j in found.pairs})
    seconds = time.perf_counter() - start
    planted: list[Names] = [set()] * num_trials
    return figures("none: drawn hands, 40 groups of ten classes", planted, reported, set(), seconds)


def main() -> None:
    """Print one line of JSON per kind of fault."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--people", type=int, default=80, help="people to plant faults in")
    args = parser.parse_args()
    manifest = load_manifest(DataConfig(data=args.data))
    rng = np.random.default_rng(0)
    people = rng.permutation(pd.unique(manifest.train["group"]).astype(object))[: args.people]
    print(json.dumps(copies(manifest, people, rng)), flush=True)
    print(json.dumps(swaps(manifest, people)), flush=True)
    print(json.dumps(splits(manifest, people, rng)), flush=True)
    print(json.dumps(no_swaps(10)), flush=True)


if __name__ == "__main__":
    main()
