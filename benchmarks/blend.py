"""Measure time and memory of blend.py, start and report included, on synthetic runs.

    python benchmarks/blend.py [--million]

20 runs of the competition's size, 18,900 out-of-fold and 12,600 test rows, are blended by a soft
vote, and by --method auto with the default methods, nested cross-validation, bootstrap and score
against cost. With --million also a soft vote of 20 runs of a million rows, which takes some
minutes and 3 GB of disk to prepare.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import ROOT, Results, parser, spread

from tests.makers.synthetic_runs import write_synthetic_run

NUM_RUNS = 20
NUM_GROUPS = 2700
NUM_TEST = 12600
NUM_MANY = 142_858  # groups of seven images, which are a million rows
TIMES = {"soft": 5, "auto": 3}


def synthetic(folder: Path, num_groups: int, num_test: int) -> Path:
    """Write the runs, each somewhat better than the one before; return their folder."""
    for seed in range(NUM_RUNS):
        path = folder / f"run{seed:02d}"
        write_synthetic_run(
            path, num_people=num_groups, num_test=num_test, strength=0.6 + 0.03 * seed, seed=seed
        )
    return folder


def blended(folder: Path, *argv: str) -> tuple[float, float]:
    """Blend in a new process, and return its seconds and its peak resident memory in MB."""
    output = folder / "blends"
    command = [
        sys.executable,
        str(ROOT / "blend.py"),
        *map(str, sorted(folder.glob("run*"))),
        "--output",
        str(output),
    ]
    start = time.perf_counter()
    process = subprocess.Popen([*command, *argv], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"{' '.join(command)} ended with {status}")
    shutil.rmtree(output)
    return seconds, usage.ru_maxrss / 1e3


def measure(folder: Path, times: int, *argv: str) -> dict[str, Any]:
    """Return seconds and memory of several blends."""
    tries = [blended(folder, *argv) for _ in range(times)]
    return {
        "seconds": spread([one for one, _ in tries], 2),
        "peak MB": max(round(peak) for _, peak in tries),
    }


def main() -> None:
    """Measure what the JSON file lacks, and print all."""
    cli = parser(__doc__, results="blend.json")
    # The name of the data is a part of the keys of blend.json.
    cli.set_defaults(data="drawn runs", device="cpu")
    cli.add_argument("--million", action="store_true", help="also 20 runs of a million rows")
    args = cli.parse_args()
    results = Results(args, device="cpu")
    todo = [
        (f"{NUM_RUNS} runs of 18,900 + 12,600 rows, {name}", NUM_GROUPS, NUM_TEST, name)
        for name in TIMES
    ]
    if args.million:
        todo.append((f"{NUM_RUNS} runs of a million rows, soft", NUM_MANY, 0, "soft"))
    for title, num_groups, num_test, method in todo:
        if title not in results:
            with tempfile.TemporaryDirectory() as root:
                folder = synthetic(Path(root), num_groups, num_test)
                times = 1 if num_groups == NUM_MANY else TIMES[method]
                results.put(title, measure(folder, times, "--method", method))
        print(f"{title}: {results[title]}")


if __name__ == "__main__":
    main()
