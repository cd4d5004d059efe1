"""Common parts of the benchmarks: flags, JSON files of results, and tables."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from foldblend.files import write_bytes
from foldblend.runs.environment import describe_environment
from folds.config import DataConfig
from folds.data.load import load_data
from folds.data.manifest import Manifest
from pipeline.config.resolved import ResolvedConfig, resolved
from pipeline.config.settings import flatten, make_config
from pipeline.device import resolve_machine

__all__ = ["Results", "data_of", "parser", "run_cv", "settled", "spread"]

ROOT = Path(__file__).resolve().parents[1]
# Some benchmarks import tests.makers, which is not installed.
sys.path.insert(0, str(ROOT))


def parser(doc: str | None, *, results: str) -> argparse.ArgumentParser:
    """Return a parser with the flags that all benchmarks have."""
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--data", default="demo", help="data set, as for run_cv.py --data")
    made.add_argument("--device", default="auto")
    made.add_argument("--json", type=Path, default=ROOT / "benchmarks" / results)
    made.add_argument("--fresh", action="store_true", help="measure everything again")
    return made


class Results:
    """A JSON file of measurements by name.

    Measurements that it has are not made again, so a stopped benchmark can be continued. Those of a
    benchmark that was stopped between its rounds are kept, but made again.
    """

    def __init__(self, args: argparse.Namespace, *, device: str) -> None:
        self.file: Path = args.json
        environment = describe_environment()
        self.where = {
            "data": Path(args.data).name,
            "processor": environment["processor"],
            "cores": (
                len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
            ),
            "gpus": environment["gpus"] if device.startswith("cuda") else [],
            "cuda": environment["cuda"],
            "packages": environment["packages"],
            "python": environment["python"],
        }
        self.all: dict[str, Any] = (
            json.loads(self.file.read_text()) if self.file.is_file() and not args.fresh else {}
        )

    def __contains__(self, name: str) -> bool:
        return not self.all.get(self._key(name), {"partial": True}).get("partial", False)

    def __getitem__(self, name: str) -> Any:
        return self.all[self._key(name)]["result"]

    def put(self, name: str, result: Any, *, partial: bool = False) -> None:
        """Store a measurement with its date, machine and versions."""
        today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
        self.all[self._key(name)] = {
            "date": today,
            "machine": self.where,
            **({"partial": True} if partial else {}),
            "result": result,
        }
        write_bytes(self.file, json.dumps(self.all, indent=1) + "\n")

    def in_rounds(self, name: str, measure: Callable[[], Iterator[Any]]) -> Any:
        """Return a measurement; if it is missing, make it and store it after each round.

        `measure` yields the result so far after each of its rounds.
        """
        if name not in self:
            for found in measure():
                self.put(name, found, partial=True)
            self.put(name, found)
        return self[name]

    def _key(self, name: str) -> str:
        gpus = self.where["gpus"]
        return (
            f"{name}, {self.where['data']},"
            f" {gpus[0] if gpus else str(self.where['cores']) + ' cores'}"
        )


def spread(values: Sequence[float], digits: int = 3) -> dict[str, Any]:
    """Return median, minimum, maximum and number of repeated measurements."""
    kept = [round(float(one), digits) for one in values]
    return {
        "median": round(statistics.median(kept), digits),
        "least": min(kept),
        "most": max(kept),
        "n": len(kept),
    }


def shown(value: dict[str, Any]) -> str:
    """Return a result of `spread` as text."""
    return f"{value['median']:g} ({value['least']:g} to {value['most']:g}, n = {value['n']})"


def print_rows(title: str, rows: Iterable[tuple[str, ...]]) -> None:
    """Print a table."""
    table = [tuple(map(str, row)) for row in rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    print(title)
    for row in table:
        print(
            "  "
            + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def settled(args: argparse.Namespace, **settings: Any) -> ResolvedConfig:
    """Return complete settings of a run, as run_cv.py would resolve them.

    The defaults are 10 epochs with batches of 32.
    """
    config = make_config(data=args.data, device=args.device, **settings)
    machine = resolve_machine(config.machine)
    decided = {
        "img_size": "224",
        "epochs": 10,
        "batch_size": 32,
        "validation_batch_size": 64,
        "folds": 5,
    }
    decided |= {"repeats": 1, "name": "benchmark"}
    undecided = {name: value for name, value in decided.items() if flatten(config)[name] is None}
    return resolved(config, **undecided, **machine)


def data_of(args: argparse.Namespace) -> Manifest:
    """Return the data set, with hashes of all images."""
    return load_data(DataConfig(data=args.data), lambda _: None)[0]


def run_cv(*argv: object) -> str:
    """Run run_cv.py in a new process and return its output."""
    command = [sys.executable, str(ROOT / "run_cv.py"), *map(str, argv)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr or done.stdout}")
    return done.stdout


def equal_tables(one: Path, other: Path) -> bool:
    """Return whether the logits of two run folders are bit for bit equal."""
    names = (
        ("oof.parquet", "test.parquet") if (one / "test.parquet").is_file() else ("oof.parquet",)
    )
    return all(pd.read_parquet(one / name).equals(pd.read_parquet(other / name)) for name in names)
