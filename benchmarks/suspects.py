"""Wrong labels planted before training: how many the report of a run finds, and what else.

    python benchmarks/suspects.py --data LAYOUT [--seeds 0 1 2 3 4]

In a copy of the layout (made of links) the images `incorrect_mask` and `normal` of three people are
exchanged and the gender of four others is changed, so that models learn from wrong labels too. A
finding counts as right only if it is exactly the line of corrections that repairs a planted fault;
half of a swap is not. Rules were settled on seeds 100 to 102.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import Results, parser, print_rows, run_cv, shown, spread

from foldblend.runs.oof import oof_arrays
from foldblend.runs.run import Run
from foldblend.scores.metrics import METRICS, mean_score
from folds.config import DataConfig
from folds.data.manifest import Manifest
from folds.data.source import load_manifest

NUM_SWAPS = 3
NUM_FLIPS = 4
OTHER = {"male": "female", "female": "male", "normal": "incorrect_mask", "incorrect_mask": "normal"}
MODELS = {
    "lite0 at 168x224": ["--backbone", "tf_efficientnet_lite0", "--img-size", "168x224"],
    "lite2 at 240x320": ["--backbone", "tf_efficientnet_lite2", "--img-size", "240x320"],
}
FLAGS = ["--finetune", "head", "--tta", "hflip", "--no-page"]

Lines = set[tuple[str, str, str]]


def plant(manifest: Manifest, root: Path, seed: int | None) -> Lines:
    """Write the layout with wrong labels and return the corrections that would repair them.

    With seed None no label is changed.
    """
    listing = pd.read_csv(manifest.root / "train" / "train.csv", dtype=str)
    people = (
        np.random.default_rng(seed).permutation(listing["path"].to_numpy(object))
        if seed is not None
        else []
    )
    swapped = people[:NUM_SWAPS]
    flipped = people[NUM_SWAPS : NUM_SWAPS + NUM_FLIPS]
    wrong = listing["path"].isin(flipped)
    planted = {(row.path, "gender", row.gender) for row in listing[wrong].itertuples()}
    planted |= {(person, "swap", "incorrect_mask normal") for person in swapped}
    listing.loc[wrong, "gender"] = listing.loc[wrong, "gender"].map(OTHER)
    for row in manifest.train.itertuples():
        file = Path(row.path)
        stem = OTHER.get(file.stem, file.stem) if row.group in swapped else file.stem
        link = root / "train" / "images" / row.group / (stem + file.suffix)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file.resolve())
    listing.to_csv(root / "train" / "train.csv", index=False)
    return planted


def true_labels(run: Run, manifest: Manifest) -> np.ndarray:
    """Return the labels of a run's rows in the unchanged data, found through the links."""
    label_of = {str(Path(row.path).resolve()): row.label for row in manifest.train.itertuples()}
    path_of = run.path.parent / "layout" / "train" / "images"
    return np.array([label_of[str((path_of / name).resolve())] for name in run.oof["image_id"]])


def measure(manifest: Manifest, model: str, seed: int | None) -> dict[str, Any]:
    """Plant wrong labels, cross-validate, and return planted faults and reported findings."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        start = time.perf_counter()
        planted = plant(manifest, root / "layout", seed)
        run_cv(
            "--data",
            root / "layout",
            "--output",
            folder,
            "--name",
            "planted",
            *MODELS[model],
            *FLAGS,
        )
        run = Run(root / "planted")
        suspects = run.report["suspects"]
        arrays = oof_arrays(run)
        truth = mean_score(METRICS["f1_macro"], true_labels(run, manifest), arrays.proba_NC)
    reported = {(one["target"], one["field"], one["value"]) for one in suspects["findings"]}
    scores = {name: round(suspects[name]["value"], 4) for name in ("given", "corrected")}
    return {
        "planted": sorted(planted),
        "named": sorted(reported),
        "notes": suspects["notes"],
        "f1_macro": {**scores, "true labels": round(truth, 4)},
        "seconds": round(time.perf_counter() - start),
    }


def figures(trials: list[dict[str, Any]], field: str | None) -> dict[str, Any]:
    """Return precision and recall over trials, of findings of one field, or of all (None)."""
    counts = []
    for trial in trials:
        planted, reported = (
            {tuple(one) for one in trial[key] if field in (None, one[1])}
            for key in ("planted", "named")
        )
        counts.append((len(planted & reported), len(planted), len(reported)))
    found, num_planted, num_reported = (sum(column) for column in zip(*counts, strict=True))
    return {
        "planted": num_planted,
        "found": found,
        "named besides": num_reported - found,
        "recall": spread([hits / num for hits, num, _ in counts], 2),
        "precision": spread([hits / num if num else 1.0 for hits, _, num in counts], 2),
    }


def main() -> None:
    """Run the trials that the JSON file does not have, and print precision and recall."""
    cli = parser(__doc__, results="suspects.json")
    cli.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2, 3, 4])
    args = cli.parse_args()
    results = Results(args, device="cpu")
    manifest = load_manifest(DataConfig(data=args.data))
    for model in MODELS:
        for seed in [None, *args.seeds]:
            name = f"{model}, {'nothing planted' if seed is None else f'seed {seed}'}"
            if name not in results:
                results.put(name, measure(manifest, model, seed))
        trials = [results[f"{model}, seed {seed}"] for seed in args.seeds]
        kinds = {"swapped pairs": "swap", "genders": "gender", "together": None}
        rows = {kind: figures(trials, field) for kind, field in kinds.items()}
        results.put(f"{model}, summary", {**rows, "seeds": args.seeds})
        table = [("", "planted", "found", "false", "recall", "precision")]
        table += [
            (
                kind,
                *[str(row[one]) for one in list(row)[:3]],
                shown(row["recall"]),
                shown(row["precision"]),
            )
            for kind, row in rows.items()
        ]
        print_rows(f"{model}, {len(args.seeds)} trials", table)
        num_reported = len(results[f"{model}, nothing planted"]["named"])
        print(f"  nothing planted: {num_reported} reported")


if __name__ == "__main__":
    main()
