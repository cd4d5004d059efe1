"""Common parts of the benchmarks: flags, JSON files of results, and tables."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import signal
import statistics
import subprocess
import sys
import time
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
from pipeline.config.run import RunConfig
from pipeline.config.settings import flatten, make_config
from pipeline.machine import resolve_machine

__all__ = [
    "Results",
    "Stopped",
    "data_of",
    "exit_on_sigterm",
    "parser",
    "ratios",
    "run_cv",
    "settled",
    "spread",
    "steps_config",
    "timed_parser",
]

# Without a run's model, auto has nothing to decide from.
RATES: dict[str, Any] = {"lr": 1e-3, "layer_decay": None, "drop_path": None}
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


def timed_parser(doc: str | None, *, results: str) -> argparse.ArgumentParser:
    """Return the parser of a benchmark that gpu.py starts: it can be limited in time."""
    made = parser(doc, results=results)
    made.add_argument(
        "--seconds",
        type=float,
        default=float("inf"),
        help="no round is begun that would end later; the first one is made in any case",
    )
    return made


class Stopped(SystemExit):
    """Exit after a signal."""


def exit_on_sigterm() -> None:
    """Make SIGTERM raise Stopped, so that temporary folders and child processes are removed."""

    def leave(number: int, _: object) -> None:
        # A second signal would interrupt the clearing up.
        signal.signal(number, signal.SIG_IGN)
        raise Stopped(128 + number)

    signal.signal(signal.SIGTERM, leave)


class Results:
    """A JSON file of measurements by name.

    Measurements that it has are not made again, so a stopped benchmark can be continued. Those of a
    benchmark that was stopped between its rounds are kept, but made again. With --fresh, all are
    made again, and others that the file has stay.
    """

    def __init__(self, args: argparse.Namespace, *, device: str) -> None:
        self.file: Path = args.json
        self.seconds: float = getattr(args, "seconds", float("inf"))
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
        self.all: dict[str, Any] = json.loads(self.file.read_text()) if self.file.is_file() else {}
        # Those of earlier calls that are made again.
        self.stale = set(self.all) if args.fresh else set()

    def __contains__(self, name: str) -> bool:
        key = self._key(name)
        return key in self.all and key not in self.stale and not self.all[key].get("partial", False)

    def __getitem__(self, name: str) -> Any:
        return self.all[self._key(name)]["result"]

    def put(self, name: str, result: Any, *, partial: bool = False) -> None:
        """Store a measurement with its date, machine and versions; the file is always whole."""
        today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
        key = self._key(name)
        self.all[key] = {
            "date": today,
            "machine": self.where,
            **({"partial": True} if partial else {}),
            "result": result,
        }
        self.stale.discard(key)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(self.file, json.dumps(self.all, indent=1) + "\n")

    def in_rounds(
        self,
        name: str,
        measure: Callable[[], Iterator[Any]],
        *,
        least: int = 1,
        most: int | None = None,
    ) -> Any:
        """Return a measurement; if it is missing, make it and store it after each round.

        `measure` yields the result so far after each of its rounds, of which there are `most`.
        After `least` of them, it is stopped where the next one would end after --seconds. On
        SIGTERM, the result so far is returned if there is one.
        """
        if name in self:
            return self[name]
        start = last = time.monotonic()
        longest = 0.0
        num = 0
        rounds = measure()
        try:
            for found in rounds:
                self.put(name, found, partial=True)
                num += 1
                now = time.monotonic()
                longest = max(longest, now - last) if num > 1 else 0.0
                last = now
                is_late = now - start + longest > self.seconds
                if is_late and num >= least and num != most:
                    print(f"{name}: stopped after round {num}, the time is over", flush=True)
                    break
            else:
                self.put(name, found)
        except Stopped:
            if not num:
                raise
            print(f"{name}: stopped after round {num} by a signal", flush=True)
        finally:
            rounds.close()
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


def ratios(values: Sequence[float], bases: Sequence[float]) -> dict[str, Any]:
    """Return the `spread` of the ratios of two measurements made in the same rounds.

    One of them may have a value more, from a round that is not over yet.
    """
    return spread([one / base for one, base in zip(values, bases, strict=False)])


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


def steps_config(**settings: Any) -> RunConfig:
    """Return the settings of training steps without a run; rates are decided."""
    return make_config({**RATES, **settings})


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
    given = flatten(config)
    undecided = {name: value for name, value in decided.items() if given[name] is None}
    undecided |= {name: value for name, value in RATES.items() if given[name] == "auto"}
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
