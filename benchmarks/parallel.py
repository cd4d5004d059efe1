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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from common import (
    Results,
    data_of,
    equal_tables,
    parser,
    print_rows,
    run_cv,
    settled,
    shown,
    spread,
)

from foldblend.runs.run import Run


def repeated(args: argparse.Namespace, folder: Path) -> Path:
    """Write a table of the training images, repeated with new people, and return its file.

    A fast GPU needs long epochs.
    """
    train = data_of(args).train
    tables = []
    for turn in range(-(-args.pictures // len(train))):
        there = folder / "images" / str(turn)
        there.mkdir(parents=True)
        paths = [there / f"{row}{Path(path).suffix}" for row, path in enumerate(train["path"])]
        for path, copy in zip(train["path"], paths, strict=True):
            shutil.copyfile(path, copy)
        person = train["group"].astype(str) + f" {turn}"
        tables.append(
            pd.DataFrame({"image": list(map(str, paths)), "label": train["label"], "who": person})
        )
    file = folder / "images.csv"
    pd.concat(tables).to_csv(file, index=False)
    return file


def measure(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the seconds of all ways, and ratios to serial folds, after each round."""
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
        data: list[object] = ["--data", args.data]
        if args.pictures:
            data = ["--data", repeated(args, folder), "--group-col", "who"]

        def command(at_once: int, each: int, *more: object) -> float:
            shutil.rmtree(folder / "outputs", ignore_errors=True)
            settings = {
                "device": machine.device,
                "folds": num_folds,
                "backbone": args.backbone,
                "pretrained": "none",
                "img-size": args.img_size,
                "epochs": args.epochs,
                "batch-size": args.batch_size,
                "threads": each,
                "parallel-folds": at_once,
                "cache-dir": folder / "cache",
                "output": folder / "outputs",
                "name": "run",
            }
            flags = [part for key, value in settings.items() for part in (f"--{key}", value)]
            start = time.perf_counter()
            run_cv(*data, *flags, *more)
            return time.perf_counter() - start

        # It fills the cache and brings files into memory.
        command(1, threads, "--only-folds", "0")
        for _ in range(args.rounds):
            for way, (at_once, each) in ways.items():
                seconds[way].append(command(at_once, each))
                run = folder / "outputs" / "run"
                folds[way].append(Run(run).info["seconds"])
                if way == "serial":
                    shutil.rmtree(folder / "serial", ignore_errors=True)
                    run.rename(folder / "serial")
                elif each == ways["serial"][1]:
                    equal &= equal_tables(folder / "serial", run)
            yield {
                "seconds": {way: spread(values, 1) for way, values in seconds.items()},
                "over_serial": over(seconds, "serial"),
                "over_all_threads": {} if cuda else over(seconds, "serial, all threads"),
                "threads": {way: each for way, (_, each) in ways.items()},
                "equal_logits": equal,
                "epochs": args.epochs,
                "num_folds": num_folds,
                "num_pictures": len(Run(folder / "serial").oof),
            }


def over(seconds: dict[str, list[float]], base: str) -> dict[str, Any]:
    """Return the ratios of all ways to `base`, each within a round."""
    return {
        way: spread([one / other for one, other in zip(values, seconds[base], strict=True)])
        for way, values in seconds.items()
    }


def main() -> None:
    """Measure, unless the JSON file has the result, and print the table."""
    cli = parser(__doc__, results="parallel.json")
    cli.add_argument("--backbone", default="tf_efficientnet_lite0")
    cli.add_argument("--img-size", default="128")
    cli.add_argument("--batch-size", type=int, default=32)
    cli.add_argument("--epochs", type=int, default=4)
    cli.add_argument("--rounds", type=int, default=3)
    cli.add_argument(
        "--pictures", type=int, default=0, help="repeat the training images to this number"
    )
    args = cli.parse_args()
    results = Results(args, device=settled(args).machine.device)
    name = f"{args.backbone} at {args.img_size}, batch {args.batch_size}, {args.epochs} epochs"
    if args.pictures:
        name += f", {args.pictures} images"
    found = results.in_rounds(name, lambda: measure(args))
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
