"""Parallel folds compared with serial ones: seconds of the command, equality of logits.

    python benchmarks/parallel.py --data DATA [--backbone tf_efficientnet_lite0 --img-size 128
    --epochs 4]

On a CPU, two folds at once are compared with one at a time, with half of the threads for each fold,
and with one at a time with all threads. On a GPU, 2 and 5 folds at once are compared with one at a
time on the same GPU. All ways take turns in each round.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from common import Results, equal_tables, parser, print_rows, run_cv, settled, shown, spread

from foldblend.runs.run import Run


def measure(args: argparse.Namespace) -> dict[str, Any]:
    machine = settled(args).machine
    cuda = machine.device.startswith("cuda")
    threads = machine.threads or 1
    # For each way: folds at once, threads per fold.
    ways = {"serial": (1, threads), "2 at once": (2, threads), "5 at once": (5, threads)}
    if not cuda:
        share = max(1, threads // 2)
        ways = {"serial": (1, share), "2 at once": (2, share), "serial, all threads": (1, threads)}
    num_folds = 5 if cuda else 2
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    folds: dict[str, list[float]] = {name: [] for name in ways}
    equal = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for round_ in range(args.rounds + 1):
            for way, (at_once, each) in ways.items():
                shutil.rmtree(folder / "outputs", ignore_errors=True)
                flags: list[object] = [
                    "--data",
                    args.data,
                    "--device",
                    machine.device,
                    "--folds",
                    num_folds,
                ]
                flags += [
                    "--backbone",
                    args.backbone,
                    "--pretrained",
                    "none",
                    "--img-size",
                    args.img_size,
                ]
                flags += [
                    "--epochs",
                    args.epochs,
                    "--batch-size",
                    args.batch_size,
                    "--threads",
                    each,
                ]
                flags += ["--parallel-folds", at_once, "--cache-dir", folder / "cache"]
                flags += ["--output", folder / "outputs", "--name", "run"]
                start = time.perf_counter()
                run_cv(*flags)
                # Round 0 only fills the cache and brings files into memory.
                if round_ == 0:
                    break
                seconds[way].append(time.perf_counter() - start)
                run = folder / "outputs" / "run"
                folds[way].append(Run(run).info["seconds"])
                if way == "serial":
                    shutil.rmtree(folder / "serial", ignore_errors=True)
                    run.rename(folder / "serial")
                elif each == ways["serial"][1]:
                    equal &= equal_tables(folder / "serial", run)
    return {
        "seconds": {way: spread(values, 1) for way, values in seconds.items()},
        "over_serial": {
            way: spread([one / other for one, other in zip(values, seconds["serial"], strict=True)])
            for way, values in seconds.items()
        },
        "over_all_threads": {
            way: spread(
                [
                    one / other
                    for one, other in zip(values, seconds["serial, all threads"], strict=True)
                ]
            )
            for way, values in seconds.items()
        }
        if not cuda
        else {},
        "threads": {way: each for way, (_, each) in ways.items()},
        "equal_logits": equal,
        "epochs": args.epochs,
        "num_folds": num_folds,
    }


def main() -> None:
    """Measure, unless the JSON file has the result, and print the table."""
    cli = parser(__doc__, results="parallel.json")
    cli.add_argument("--backbone", default="tf_efficientnet_lite0")
    cli.add_argument("--img-size", default="128")
    cli.add_argument("--batch-size", type=int, default=32)
    cli.add_argument("--epochs", type=int, default=4)
    cli.add_argument("--rounds", type=int, default=3)
    args = cli.parse_args()
    results = Results(args, device=settled(args).machine.device)
    name = f"{args.backbone} at {args.img_size}, batch {args.batch_size}, {args.epochs} epochs"
    if name not in results:
        results.put(name, measure(args))
    found = results[name]
    rows = [("folds", "threads per fold", "seconds", "over serial", "over serial with all threads")]
    for way, seconds in found["seconds"].items():
        all_threads = found["over_all_threads"].get(way)
        rows.append(
            (
                way,
                found["threads"][way],
                shown(seconds),
                shown(found["over_serial"][way]),
                shown(all_threads) if all_threads else "",
            )
        )
    print_rows(
        f"{name}, {found['num_folds']} folds; logits bit for bit equal: {found['equal_logits']}",
        rows,
    )


if __name__ == "__main__":
    main()
