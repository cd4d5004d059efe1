"""Runs that are killed (SIGKILL) at random moments and resumed.

    python benchmarks/kills.py --kills 50

Runs of several kinds are made once without interruption. Then they are made again, killed at random
moments, and resumed by the same command each time. After every kill, finished folds must still be
finished and all files must be readable. In the end the logits must be bit for bit equal.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import safetensors.torch
import torch
from common import ROOT, Results, equal_tables, parser, print_rows, run_cv

COMMON = [
    "--backbone",
    "test_efficientnet",
    "--pretrained",
    "none",
    "--img-size",
    "64",
    "--folds",
    "3",
]
COMMON += ["--threads", "1", "--save-every", "0.5"]
KINDS = {
    "last weights": ["--epochs", "6", "--drop", "0.2", "--reprob", "0.2"],
    "EMA, mixup, one-cycle, 2 workers": [
        "--epochs",
        "6",
        "--model-ema",
        "--mixup",
        "0.2",
        "--sched",
        "onecycle",
        "--workers",
        "2",
    ],
    "inner choice, accumulation, hflip": [
        "--epochs",
        "6",
        "--select",
        "inner",
        "--grad-accum-steps",
        "2",
        "--tta",
        "hflip",
    ],
    "mean of epochs, 2 folds at once": [
        "--epochs",
        "6",
        "--average-last",
        "3",
        "--parallel-folds",
        "2",
    ],
}


def finished(folder: Path) -> set[str]:
    """Return the folders of the finished folds."""
    return {file.parent.name for file in folder.glob("fold_*/done.json")}


def unreadable(folder: Path) -> list[str]:
    """Return the files of a run folder, such as checkpoints, that cannot be read."""
    bad = []
    for file in folder.rglob("*"):
        if file.is_dir() or file.name.startswith(".") or "tb" in file.parts:
            continue
        try:
            if file.suffix == ".ckpt":
                torch.load(file, weights_only=True)
            elif file.suffix == ".parquet":
                pd.read_parquet(file)
            elif file.suffix == ".safetensors":
                safetensors.torch.load_file(file)
            elif file.suffix == ".csv":
                pd.read_csv(file)
            elif file.suffix == ".json":
                json.loads(file.read_text())
        except FileNotFoundError:
            # A process that is about to end has replaced or removed it.
            pass
        except Exception as error:
            bad.append(f"{file}: {error}")
    return bad


def under_kills(
    command: list[str], folder: Path, kills: int, most: float, rng: random.Random
) -> dict[str, Any]:
    """Kill a run repeatedly, each time within `most` seconds; then let it finish.

    Return the counts of what was found after the kills.
    """
    seen: dict[str, Any] = {
        "kills": 0,
        "lost_folds": 0,
        "unreadable": 0,
        "checkpoints": 0,
        "continued": 0,
    }
    done: set[str] = set()
    while seen["kills"] < kills:
        log = folder.with_suffix(".log")
        with log.open("w") as out:
            process = subprocess.Popen(command, stdout=out, stderr=out)
            moment = time.monotonic() + rng.uniform(0.5, most)
            while process.poll() is None and time.monotonic() < moment:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            code = process.wait()
        # Processes of parallel folds end shortly after the one that started them.
        time.sleep(0.2)
        seen["continued"] += log.read_text().count("continued at")
        if code != -signal.SIGKILL:
            if code:
                raise SystemExit(log.read_text())
            # The run finished before it was killed. Without this file it trains a fold again.
            (folder / "fold_0" / "done.json").unlink()
            done = finished(folder)
            continue
        seen["kills"] += 1
        seen["lost_folds"] += len(done - finished(folder))
        done = finished(folder)
        seen["unreadable"] += len(unreadable(folder))
        seen["checkpoints"] += len(list(folder.glob("fold_*/last.ckpt")))
    subprocess.run(command, check=True, capture_output=True)
    return seen


def main() -> None:
    """Measure the kinds of runs that the JSON file does not have, and print the table."""
    cli = parser(__doc__, results="kills.json")
    cli.add_argument("--kills", type=int, default=50, help="kills over all kinds of runs")
    args = cli.parse_args()
    results = Results(args, device="cpu")
    rng = random.Random(0)
    for number, (kind, flags) in enumerate(KINDS.items()):
        if kind in results:
            continue
        kills = (args.kills + number) // len(KINDS)
        # Kills fall between the first import and a late point of training.
        most = 40.0 if "--parallel-folds" in flags else 20.0
        with TemporaryDirectory() as scratch:
            base = ["--data", args.data, "--device", "cpu", "--output", scratch, *COMMON, *flags]
            run_cv(*base, "--name", "whole")
            command = [sys.executable, str(ROOT / "run_cv.py"), *map(str, base), "--name", "broken"]
            seen = under_kills(command, Path(scratch) / "broken", kills, most, rng)
            seen["bit_equal"] = equal_tables(Path(scratch) / "whole", Path(scratch) / "broken")
        results.put(kind, seen)
    rows = [
        (
            "run",
            "kills",
            "resumed in mid-fold",
            "lost folds",
            "unreadable files",
            "logits bit-equal",
        )
    ]
    for kind in KINDS:
        seen = results[kind]
        names = ("kills", "continued", "lost_folds", "unreadable", "bit_equal")
        rows.append((kind, *[str(seen[name]) for name in names]))
    print_rows("Runs killed (SIGKILL) at random moments", rows)
    damaged = [
        kind
        for kind in KINDS
        if results[kind]["lost_folds"]
        or results[kind]["unreadable"]
        or not results[kind]["bit_equal"]
    ]
    if damaged:
        raise SystemExit(f"damaged by kills: {', '.join(damaged)}")


if __name__ == "__main__":
    main()
