"""After the folds: refits, soups, students and pseudo-labels against the run they start from.

    python benchmarks/after.py --data london_masks --outputs /tmp/after

Refits have no score out of fold, so they are scored on people that are held out of the whole run:
in each of several splits, a fifth of the people is a labelled test set. Soups of seeds, students
and pseudo-labelled runs have a score out of fold, and are compared there, on all people. All
differences are paired, with intervals from a bootstrap over people. Finished runs are not repeated,
so the benchmark can be stopped and started again at any time.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
from ablation import resamples, stacked, value
from common import Results, parser, print_rows, run_cv

import run_cv as run_cv_script
from ensemble.blend import blend
from foldblend.runs.costs import num_passes
from foldblend.runs.refit import with_refits
from foldblend.runs.run import Run
from foldblend.scores.metrics import METRICS, softmax
from folds.data.layout import read_layout

NUM_SPLITS = {"heads": 20, "trained": 3}
NUM_RESAMPLES = 2000
SEEDS = 3
SHARED = ["--backbone", "tf_efficientnet_lite0", "--threads", "1", "--infer-engine", "torch"]
SHARED += ["--no-page"]
RUNS = {
    "heads": ["--finetune", "head", "--img-size", "224x168"],
    "trained": ["--img-size", "96x128", "--epochs", "6"],
}
SHORT = ["--img-size", "72x96", "--epochs", "5"]
SHARES = {"folds alone": 0.0, "1 of 6": 1 / 6, "half": 0.5, "refit alone": 1.0}


@dataclasses.dataclass(frozen=True)
class Scored:
    """Predictions of held-out people by several ways, with what scores them."""

    label_N: np.ndarray
    group_N: np.ndarray
    proba: dict[str, np.ndarray]

    def values(self, rows: np.ndarray) -> dict[str, tuple[float, float]]:
        """Return macro F1 and log loss of each way on some rows."""
        label_N = self.label_N[rows]
        return {
            name: (
                METRICS["f1_macro"].score(label_N, proba_NC[rows]),
                METRICS["log_loss"].score(label_N, proba_NC[rows]),
            )
            for name, proba_NC in self.proba.items()
        }


def joined(parts: list[Scored]) -> Scored:
    """Return the predictions of several splits as one; a person of two splits is one group."""
    return Scored(
        np.concatenate([one.label_N for one in parts]),
        np.concatenate([one.group_N for one in parts]),
        {name: np.concatenate([one.proba[name] for one in parts]) for name in parts[0].proba},
    )


def differences(scored: Scored, base: str) -> list[dict[str, Any]]:
    """Return the scores of each way, and its paired differences to one of them."""
    code_N = np.unique(scored.group_N, return_inverse=True)[1]
    rows_of = [np.flatnonzero(code_N == group) for group in range(code_N.max() + 1)]
    rng = np.random.default_rng(0)
    samples = []
    for _ in range(NUM_RESAMPLES):
        drawn = rng.integers(len(rows_of), size=len(rows_of))
        samples.append(scored.values(np.concatenate([rows_of[group] for group in drawn])))
    whole = scored.values(np.arange(len(code_N)))
    found = []
    for name in scored.proba:
        row: dict[str, Any] = {"way": name}
        for place, metric in enumerate(("f1_macro", "log_loss")):
            value = whole[name][place]
            change = [one[name][place] - one[base][place] for one in samples]
            row[metric] = round(value, 4)
            row[f"{metric}_difference"] = round(value - whole[base][place], 4)
            row[f"{metric}_interval"] = np.quantile(change, [0.025, 0.975]).round(4).tolist()
        found.append(row)
    return found


def split_tables(args: argparse.Namespace, split: int) -> tuple[Path, Path]:
    """Write the tables of a split: four fifths of the people, and the others as a test set."""
    manifest = read_layout(Path(args.data))
    rows = manifest.train[["path", "group", "label"]].rename(columns={"path": "image"})
    people = rows.groupby("group")["label"].first() % 6
    rng = np.random.default_rng(split)
    held = []
    for kind in sorted(set(people)):
        names = sorted(people.index[people == kind])
        held += [*rng.permutation(names)[: round(len(names) / 5)]]
    folder = args.outputs / "splits"
    folder.mkdir(parents=True, exist_ok=True)
    files = folder / f"{split}_train.csv", folder / f"{split}_test.csv"
    for file, chosen in zip(
        files, (~rows["group"].isin(held), rows["group"].isin(held)), strict=True
    ):
        rows[chosen].to_csv(file, index=False)
    return files


def soup_of(args: argparse.Namespace, flags: list[object]) -> None:
    """Make the soup of the folds of a run, also where run_cv.py would refuse it as too bad."""
    with mock.patch("pipeline.training.soup_of_folds.check_fits"):
        done = run_cv_script.main([*map(str, flags), "--refit", "soup", "--device", args.device])
    if done:
        raise SystemExit(f"{flags}: failed")


def refits_of_split(args: argparse.Namespace, kind: str, split: int) -> Scored:
    """Return the predictions of the held-out people of a split, by folds, refits and soups."""
    train, test = split_tables(args, split)
    name = f"{kind}-{split}"
    where = ["--csv", train, "--test", test, "--group-col", "group", "--output", args.outputs]
    flags = [*where, *SHARED, *RUNS[kind], "--seed", split, "--split-seed", split, "--name", name]
    run_cv(*flags, "--refit", "full", "--device", args.device)
    run = Run(args.outputs / name)
    folder = args.outputs / f"{name}-soup"
    if not folder.exists():
        shutil.copytree(run.path, folder)
    soup_of(args, [*flags[:-1], folder.name])
    soup = Run(folder)
    tables = [pd.read_parquet(run.path / f"test_fold_{fold}.parquet") for fold in range(5)]
    folds = [run.logits(table).astype(float) for table in tables]
    refit = run.logits(run.table("test_refit_0"))
    proba = {
        way: np.mean([with_refits(one, [refit], share) for one in folds], axis=0)
        for way, share in SHARES.items()
    }
    proba["soup of folds alone"] = soup.logits(soup.table("test_refit_0"))
    proba["model of fold 0 alone"] = folds[0]
    labels = run.test_labels
    assert labels is not None
    rows = labels.set_index("image_id").loc[tables[0]["image_id"]]
    answers = pd.read_csv(test, dtype={"group": str})
    of_image = dict(zip(answers["image"], answers["group"], strict=True))
    groups = [of_image[image] for image in tables[0]["image_id"]]
    return Scored(
        rows["label"].to_numpy(),
        np.array(groups),
        {way: softmax(one) for way, one in proba.items()},
    )


def refits(args: argparse.Namespace, kind: str) -> Callable[[], dict[str, Any]]:
    """Return the function that measures refits of a kind of run."""

    def measure() -> dict[str, Any]:
        parts = []
        for split in range(NUM_SPLITS[kind]):
            parts.append(refits_of_split(args, kind, split))
            print(f"refits, {kind}: split {split + 1} of {NUM_SPLITS[kind]}", flush=True)
        scored = joined(parts)
        return {
            "flags": [*SHARED, *RUNS[kind]],
            "splits": len(parts),
            "held-out people": len(set(scored.group_N)),
            "rows": differences(scored, "folds alone"),
        }

    return measure


# Further runs of a seed, against the run that they start from; {base} is its folder.
WAYS: dict[str, list[str]] = {
    "soup of 3 seeds": ["--soup", "--seeds", "3"],
    "student of the blend": ["--teacher", "{blend}"],
    "pseudo-labels": ["--pseudo-from", "{base}", "--pseudo-threshold", "0.7"],
}
HEADS = {"head-a": "168x224", "head-b": "126x168", "head-c": "216x288", "head-d": "240x320"}


def run_of(args: argparse.Namespace, name: str, *flags: str) -> Run:
    """Return a run on all people, which is made if it is absent."""
    run_cv(
        *["--data", args.data, "--device", args.device, "--output", args.outputs, *SHARED],
        *flags,
        "--name",
        name,
    )
    return Run(args.outputs / name)


def blend_of_seven(args: argparse.Namespace) -> Run:
    """Return the blend of three trained runs and four of heads on frozen features."""
    folder = args.outputs / "seven"
    members = [run_of(args, f"base-{seed}", *SHORT, "--seed", str(seed)) for seed in range(SEEDS)]
    members += [
        run_of(args, name, "--finetune", "head", "--img-size", size) for name, size in HEADS.items()
    ]
    if not (folder / "report.json").is_file():
        blend(members, name="seven", output=str(args.outputs), page=False, say=lambda _: None)
    return Run(folder)


def after_run(args: argparse.Namespace, way: str) -> Callable[[], dict[str, Any]]:
    """Return the function that compares a way with the runs that it starts from."""

    def measure() -> dict[str, Any]:
        base = [run_of(args, f"base-{seed}", *SHORT, "--seed", str(seed)) for seed in range(SEEDS)]
        places = {}
        if "{blend}" in WAYS[way]:
            places["blend"] = str(blend_of_seven(args).path)
        runs = []
        for seed, start in enumerate(base):
            flags = [one.format(base=start.path, **places) for one in WAYS[way]]
            # The seeds of a soup follow each other.
            number = str(10 * seed if "--soup" in flags else seed)
            name = f"{way.replace(' ', '-')}-{seed}"
            runs.append(run_of(args, name, *SHORT, *flags, "--seed", number))
            print(f"{way}: seed {seed + 1} of {SEEDS}", flush=True)
        rows = stacked(runs)
        change = resamples(rows) - resamples(stacked(base))
        found = {
            "flags": [*SHARED, *SHORT, *WAYS[way]],
            "seeds": [[round(value(stacked([one])), 4) for one in some] for some in (base, runs)],
            "f1_macro": round(value(rows), 4),
            "difference": round(value(rows) - value(stacked(base)), 4),
            "interval": np.quantile(change, [0.025, 0.975]).round(4).tolist(),
            "seconds": [round(sum(one.info["seconds"] for one in some)) for some in (base, runs)],
        }
        if "blend" in places:
            teacher = Run(Path(places["blend"]))
            found["teacher"] = round(value(stacked([teacher])), 4)
            found["passes"] = [num_passes(teacher), num_passes(runs[0])]
        return found

    return measure


STUDIES: dict[str, Callable[[argparse.Namespace], Callable[[], dict[str, Any]]]] = {
    "refits, heads": lambda args: refits(args, "heads"),
    "refits, trained": lambda args: refits(args, "trained"),
    **{way: lambda args, way=way: after_run(args, way) for way in WAYS},
}


def main() -> None:
    """Make the missing studies and print their tables."""
    cli = parser(__doc__, results="after.json")
    cli.add_argument(
        "--outputs", type=Path, required=True, help="folder for the runs, kept for the next start"
    )
    cli.add_argument("--only", nargs="*", default=list(STUDIES), metavar="STUDY")
    args = cli.parse_args()
    results = Results(args, device=args.device)
    for name in args.only:
        if name not in results:
            results.put(name, STUDIES[name](args)())
        found = results[name]
        if name in WAYS:
            print(name, found, flush=True)
            continue
        header = ("", "macro F1", "difference", "95 %", "log loss", "difference", "95 %")
        table = [header]
        for row in found["rows"]:
            cells = []
            for metric in ("f1_macro", "log_loss"):
                low, high = row[f"{metric}_interval"]
                cells += [f"{row[metric]:.4f}", f"{row[f'{metric}_difference']:+.4f}"]
                cells += [f"[{low:+.4f}, {high:+.4f}]"]
            table.append((row["way"], *cells))
        print_rows(name, table)


if __name__ == "__main__":
    main()
