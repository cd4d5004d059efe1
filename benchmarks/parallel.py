"""Parallel folds compared with serial ones: seconds of the command, equality of logits.

    python benchmarks/parallel.py --data DATA [--backbone tf_efficientnet_lite0 --img-size 128
    --epochs 4]

On a CPU, two folds at once are compared with one at a time, with half of the threads for each fold,
and with one at a time with all threads. On a GPU, 5 folds at once (--at-once) are compared with one
at a time on the same GPU. All ways take turns in each round. Commands include the start of all
processes; the speed of later epochs, of all folds that train at the same time together, does not.
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
    exit_on_sigterm,
    print_rows,
    ratios,
    run_cv,
    settled,
    shown,
    spread,
    timed_parser,
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


def ways_of(args: argparse.Namespace, *, cuda: bool, threads: int) -> dict[str, tuple[int, int]]:
    """Return the number of folds at once, and of threads per fold, of each way by its name."""
    if cuda:
        at_once = {f"{num} at once": (num, max(1, threads // num)) for num in args.at_once}
        return {"serial": (1, threads)} | at_once
    share = max(1, threads // 2)
    return {"serial": (1, share), "2 at once": (2, share), "serial, all threads": (1, threads)}


def later_speeds(run: Path, at_once: int) -> list[float]:
    """Return the training images per second of each epoch after the first one of every fold.

    They are multiplied by the number of folds that train at the same time.
    """
    epochs = [pd.read_csv(file)["images_per_s"][1:] for file in run.glob("fold_*/log.csv")]
    return [at_once * speed for fold in epochs for speed in fold]


def measure(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the seconds of all ways, and ratios to serial folds, after each command."""
    machine = settled(args).machine
    cuda = machine.device.startswith("cuda")
    threads = machine.threads
    ways = ways_of(args, cuda=cuda, threads=threads)
    num_folds = 5 if cuda else 2
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    equal: bool | None = None
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
        command(1, threads, "--only-folds", "0", "--epochs", "1")
        for _ in range(args.rounds):
            for way, (at_once, each) in ways.items():
                seconds[way].append(command(at_once, each))
                run = folder / "outputs" / "run"
                speeds[way] += later_speeds(run, at_once)
                if way == "serial":
                    shutil.rmtree(folder / "serial", ignore_errors=True)
                    run.rename(folder / "serial")
                elif cuda or each == ways["serial"][1]:
                    equal = equal_tables(folder / "serial", run) and equal is not False
                timed = {name: values for name, values in seconds.items() if values}
                bases = {"over_serial": "serial"}
                if not cuda:
                    bases["over_all_threads"] = "serial, all threads"
                yield {
                    "seconds": {name: spread(values, 1) for name, values in timed.items()},
                    "images_per_s_of_later_epochs": {
                        name: spread(values, 1) for name, values in speeds.items() if values
                    },
                    **{key: over(timed, base) for key, base in bases.items()},
                    "threads": {way: each for way, (_, each) in ways.items()},
                    "equal_logits": equal,
                    "epochs": args.epochs,
                    "num_folds": num_folds,
                    "num_pictures": len(Run(folder / "serial").oof),
                }


def over(seconds: dict[str, list[float]], base: str) -> dict[str, Any]:
    """Return the ratios of all ways to `base`, each within a round."""
    bases = seconds.get(base)
    return {way: ratios(values, bases) for way, values in seconds.items()} if bases else {}


def main() -> None:
    """Measure, unless the JSON file has the result, and print the table."""
    exit_on_sigterm()
    cli = timed_parser(__doc__, results="parallel.json")
    cli.add_argument("--backbone", default="tf_efficientnet_lite0")
    cli.add_argument("--img-size", default="128")
    cli.add_argument("--batch-size", type=int, default=32)
    cli.add_argument("--epochs", type=int, default=4)
    cli.add_argument("--rounds", type=int, default=3)
    cli.add_argument(
        "--pictures", type=int, default=0, help="repeat the training images to this number"
    )
    cli.add_argument(
        "--at-once", type=int, nargs="+", default=[5], help="folds at once on a GPU, of five"
    )
    args = cli.parse_args()
    machine = settled(args).machine
    results = Results(args, device=machine.device)
    cuda = machine.device.startswith("cuda")
    num_ways = len(ways_of(args, cuda=cuda, threads=machine.threads))
    name = f"{args.backbone} at {args.img_size}, batch {args.batch_size}, {args.epochs} epochs"
    if args.pictures:
        name += f", {args.pictures} images"
    found = results.in_rounds(
        name, lambda: measure(args), least=num_ways, most=num_ways * args.rounds
    )
    rows = [("folds", "threads per fold", "seconds", "over serial", "over serial, all threads")]
    for way, seconds in found["seconds"].items():
        ratio, other = (found.get(key, {}).get(way) for key in ("over_serial", "over_all_threads"))
        rows.append(
            (
                way,
                found["threads"][way],
                shown(seconds),
                shown(ratio) if ratio else "",
                shown(other) if other else "",
            )
        )
    print_rows(
        f"{name}, {found['num_folds']} folds; logits bit for bit equal: {found['equal_logits']}",
        rows,
    )
    if speeds := found.get("images_per_s_of_later_epochs"):
        print_rows(
            "images per second of later epochs, of all folds together",
            [(way, shown(speed)) for way, speed in speeds.items()],
        )


if __name__ == "__main__":
    main()
