"""Learning rates: --lr auto against 0.001 and other rates, for several families of backbones.

    python benchmarks/rates.py --data london_masks --outputs /tmp/rates

Differences to 0.001 are means over three seeds on the same folds, with an interval from a paired
bootstrap over people. Backbones with packaged ImageNet weights show which rate is good; those with
random weights, on the demo set, only show that training is stable. A row is written to the JSON
file as soon as its runs are done, and finished runs and folds are not repeated, so the benchmark
can be stopped and started again at any time.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ablation import resamples, stacked, value
from common import Results, parser, print_rows, run_cv

from foldblend.runs.run import Run

SEEDS = 3
COMPARED = "0.001"
# Torch predicts, because the fastest engine of a machine is measured.
SHARED = ["--threads", "1", "--infer-engine", "torch", "--no-page"]
SHORT = ("--img-size", "112x80", "--folds", "3", "--epochs", "5")
LEAN = ("--img-size", "96x64", "--folds", "2", "--epochs", "4")
RANDOM = ("--pretrained", "none", "--folds", "2", "--epochs", "4")


@dataclasses.dataclass(frozen=True)
class Study:
    """A backbone with its settings, and the learning rates that are compared."""

    backbone: str
    flags: tuple[str, ...]
    rates: tuple[str, ...] = ("auto",)
    on_demo: bool = False


# The names are part of the keys of rates.json.
STUDIES: dict[str, Study] = {
    "lite0": Study("tf_efficientnet_lite0", SHORT, ("auto", "0.0003", "0.0005", "0.003", "find")),
    "lite1": Study("tf_efficientnet_lite1", LEAN),
    "lite2": Study("tf_efficientnet_lite2", LEAN),
    "vit": Study("vit_tiny_patch16_224", ("--img-size", "64", *RANDOM), on_demo=True),
    "convnext": Study("convnext_atto", ("--img-size", "64", *RANDOM), on_demo=True),
}


def runs_of(args: argparse.Namespace, name: str, rate: str) -> list[Run]:
    """Return the runs of a study at a learning rate, one per seed; missing ones are made."""
    study = STUDIES[name]
    folder = f"{'-'.join(name.replace(',', '').split())}-{rate}"
    data = "demo" if study.on_demo else args.data
    where = ["--data", data, "--device", args.device, "--output", args.outputs]
    flags = ["--backbone", study.backbone, *study.flags, *SHARED, "--lr", rate]
    run_cv(*where, *flags, "--seeds", SEEDS, "--name", folder)
    return [Run(args.outputs / f"{folder}-seed{seed}") for seed in range(SEEDS)]


def last_losses(runs: list[Run]) -> list[float]:
    """Return the mean training loss of the last epoch of each fold."""
    logs = [pd.read_csv(file) for run in runs for file in sorted(run.path.glob("fold_*/log.csv"))]
    return [round(float(log["train_loss"].iloc[-1]), 3) for log in logs]


def rate_of(runs: list[Run]) -> float:
    """Return the learning rate of some runs; the median over folds where each found its own."""
    typed = runs[0].settings["lr"]
    if typed != "find":
        return float(typed)
    tests = [json.loads(file.read_text()) for run in runs for file in run.path.glob("*/lr.json")]
    return float(np.median([one["lr"] for one in tests]))


def row_of(study: Study, runs: list[Run], base: list[Run]) -> dict[str, Any]:
    """Return the scores of runs and their paired differences to those at 0.001."""
    rows = stacked(runs)
    differences = resamples(rows) - resamples(stacked(base))
    return {
        "flags": ["--backbone", study.backbone, *study.flags],
        "lr": rate_of(runs),
        "layer_decay": runs[0].settings["layer_decay"],
        "f1_macro": round(value(rows), 4),
        "seeds": [round(value(stacked([run])), 4) for run in runs],
        "difference": round(value(rows) - value(stacked(base)), 4),
        "interval": np.quantile(differences, [0.025, 0.975]).round(4).tolist(),
        "last_losses": last_losses(runs),
        "seconds": round(sum(run.info["seconds"] for run in runs)),
    }


def main() -> None:
    """Make the missing rows, one study after another, and print the table."""
    cli = parser(__doc__, results="rates.json")
    cli.add_argument(
        "--outputs", type=Path, required=True, help="folder for the runs, kept for the next start"
    )
    cli.add_argument("--only", nargs="*", default=list(STUDIES), metavar="STUDY")
    args = cli.parse_args()
    table = [("study", "rate", "learning rate", "macro F1", "difference to 0.001", "95 %")]
    for name in args.only:
        study = STUDIES[name]
        data = {"data": "demo"} if study.on_demo else {}
        results = Results(argparse.Namespace(**vars(args) | data), device=args.device)
        for rate in (COMPARED, *study.rates):
            key = f"{name}, {rate}"
            if key not in results:
                runs = runs_of(args, name, rate)
                results.put(key, row_of(study, runs, runs_of(args, name, COMPARED)))
            row = results[key]
            low, high = row["interval"]
            score = f"{row['f1_macro']:.4f}"
            gain = f"{row['difference']:+.4f}"
            table.append((name, rate, f"{row['lr']:g}", score, gain, f"[{low:+.4f}, {high:+.4f}]"))
            print(*table[-1], flush=True)
    print_rows(f"OOF macro F1, {SEEDS} seeds", table)


if __name__ == "__main__":
    main()
