"""Time, memory and quality of our StratifiedGroupKFold, compared with scikit-learn's.

    python benchmarks/splitter.py [--manifests 1000] [--repeats 3] [--json benchmarks/splitter.json]

Quality is the objective of folds/evenness.py (lower is better) on random data sets of five
families with fixed seeds; scikit-learn gets the best of three seeds. Every time is measured in a
new process.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import resource
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from sklearn.model_selection import StratifiedGroupKFold as Theirs

from folds.evenness import unevenness
from folds.kfold import StratifiedGroupKFold, codes_of

# Numbers of people in the competition's training set, by gender x age.
COHORT = np.array([549, 410, 83, 732, 817, 109])
# Class offsets of a person's seven images.
CLASS_OFFSETS = np.array([0, 0, 0, 0, 0, 6, 12])
Rows = tuple[np.ndarray, np.ndarray]


def people(stratum_G: np.ndarray) -> Rows:
    """Return labels and groups of people with seven images each, given their strata 0..5."""
    return (stratum_G[:, None] + CLASS_OFFSETS).ravel(), np.repeat(
        np.arange(len(stratum_G)), len(CLASS_OFFSETS)
    )


def competition(rng: np.random.Generator) -> Rows:
    return people(rng.choice(6, rng.integers(30, 600), p=COHORT / COHORT.sum()))


def unequal_groups(rng: np.random.Generator) -> Rows:
    size_G = np.minimum(1 + rng.pareto(1.2, rng.integers(20, 300)) * 3, 80).astype(int)
    num_classes = rng.integers(2, 12)
    taste_GC = rng.dirichlet(np.full(num_classes, 0.3), len(size_G))
    label = np.concatenate(
        [rng.choice(num_classes, size, p=p) for size, p in zip(size_G, taste_GC, strict=True)]
    )
    return label, np.repeat(np.arange(len(size_G)), size_G)


def missing_files(rng: np.random.Generator) -> Rows:
    label, group = competition(rng)
    kept = rng.random(len(label)) > rng.uniform(0.02, 0.3)
    return label[kept], group[kept]


def altered_labels(rng: np.random.Generator) -> Rows:
    label, group = competition(rng)
    altered = rng.random(len(label)) < rng.uniform(0.01, 0.1)
    return np.where(altered, rng.integers(0, 18, len(label)), label), group


def tiny_classes(rng: np.random.Generator) -> Rows:
    share_C = 1 / np.arange(1, rng.integers(10, 60) + 1) ** rng.uniform(1, 2)
    label = rng.choice(len(share_C), rng.integers(100, 2000), p=share_C / share_C.sum())
    return label, rng.integers(0, len(label) // 4, len(label))


FAMILIES: dict[str, Callable[[np.random.Generator], Rows]] = {
    "competition": competition,
    "unequal groups": unequal_groups,
    "missing files": missing_files,
    "altered labels": altered_labels,
    "tiny classes": tiny_classes,
}


def objective(splitter: Any, label: np.ndarray, group: np.ndarray) -> tuple[float, float]:
    """Return the objective of a splitter's folds, and a lower bound for all splits."""
    fold_N = np.empty_like(label)
    for fold, (_, held_out) in enumerate(splitter.split(label, label, group)):
        fold_N[held_out] = fold
    return unevenness(label, group, fold_N)


def compare_quality(num_manifests: int) -> list[dict[str, Any]]:
    """Return one row per family: where our objective is higher, ratios, and gaps to the bound."""
    names = list(FAMILIES)
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in FAMILIES}
    for index in range(num_manifests):
        name = names[index % len(names)]
        rng = np.random.default_rng(index)
        label, group = (codes_of(column) for column in FAMILIES[name](rng))
        num_folds = int(rng.choice([3, 5, 10]))
        ours, bound = objective(StratifiedGroupKFold(num_folds), label, group)
        seeds = [Theirs(num_folds, shuffle=True, random_state=seed) for seed in range(3)]
        theirs = min(objective(splitter, label, group)[0] for splitter in seeds)
        found[name].append((ours, theirs, bound))
    rows = []
    for name, triples in [
        *found.items(),
        ("all", [one for family in found.values() for one in family]),
    ]:
        ours, theirs, bound = np.array(triples).T
        rows.append(
            {
                "family": name,
                "manifests": len(triples),
                "ours above": int((ours > theirs * (1 + 1e-9) + 1e-12).sum()),
                "median ours/theirs": float(np.median(ours[theirs > 0] / theirs[theirs > 0])),
                "at the bound": int((ours <= bound * (1 + 1e-9) + 1e-9).sum()),
                "median ours - bound": float(np.median(ours - bound)),
                "median theirs - bound": float(np.median(theirs - bound)),
            }
        )
    return rows


def _timed(pipe: Any, ours: bool, scale: int) -> None:
    label, group = people(np.repeat(np.arange(6), COHORT * scale))
    shuffled = np.random.default_rng(0).permutation(len(label))
    label = label[shuffled]
    group = group[shuffled]
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    for _ in (StratifiedGroupKFold(5) if ours else Theirs(5, shuffle=True, random_state=0)).split(
        label, label, group
    ):
        pass
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pipe.send(
        {"images": len(label), "seconds": seconds, "peak_mb": peak / 1024, "before_mb": base / 1024}
    )


def timed(*, ours: bool, scale: int) -> dict[str, float]:
    """Return time and memory of five folds of `scale` times the cohort, in a new process."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_timed, args=(send, ours, scale))
    process.start()
    result = receive.recv()
    process.join()
    return dict(result)


def compare_speed(repeats: int) -> list[dict[str, Any]]:
    """Return one row per size; scikit-learn is left out where it would take many minutes."""
    rows = []
    for scale, with_theirs in ((1, True), (19, True), (186, False)):
        runs = [timed(ours=True, scale=scale) for _ in range(repeats)]
        row = {
            "images": runs[0]["images"],
            "ours s": sorted(round(run["seconds"], 4) for run in runs),
            "ours peak MB": round(max(run["peak_mb"] for run in runs)),
        }
        if with_theirs:
            theirs = [timed(ours=False, scale=scale)["seconds"] for _ in range(repeats)]
            row["theirs s"] = sorted(round(one, 2) for one in theirs)
            row["least ratio"] = round(min(theirs) / max(run["seconds"] for run in runs), 1)
        rows.append(row)
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """Print rows as a Markdown table."""
    columns = list(rows[0])
    print("| " + " | ".join(columns) + " |\n|" + " --- |" * len(columns))
    for row in rows:
        cells = (
            f"{row.get(name, ''):.4g}" if isinstance(row.get(name), float) else row.get(name, "")
            for name in columns
        )
        print("| " + " | ".join(str(cell) for cell in cells) + " |")
    print(flush=True)


def main() -> None:
    """Print both tables and write them as JSON."""
    warnings.filterwarnings("ignore", message="The least populated class")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--manifests", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/splitter.json"))
    args = parser.parse_args()
    speed = compare_speed(args.repeats)
    show(speed)
    quality = compare_quality(args.manifests)
    show(quality)
    versions = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scikit-learn": sklearn.__version__,
    }
    machine = {"processor": platform.processor() or platform.machine(), **versions}
    args.json.write_text(
        json.dumps({"machine": machine, "speed": speed, "quality": quality}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
