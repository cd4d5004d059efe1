"""How long blend.py takes, start included, and how much memory: runs of drawn logits of the
competition's size.

    python benchmarks/blend.py [--million]

20 runs of 18,900 out-of-fold and 12,600 test rows: a soft vote, and --method auto over the default
methods with nesting, bootstrap and frontier. With --million also a soft vote of 20 runs of a
million rows, which takes some minutes and 3 GB of disk to prepare.
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
NUM_PEOPLE = 2700
NUM_TEST = 12600
NUM_MANY = 142_858  # people, of seven images: a million rows
TIMES = {"soft": 5, "auto": 3}


def drawn(folder: Path, num_people: int, num_test: int) -> Path:
    """Write the runs, each somewhat better than the one before."""
    for seed in range(NUM_RUNS):
        path = folder / f"run{seed:02d}"
        write_synthetic_run(
            path, num_people=num_people, num_test=num_test, strength=0.6 + 0.03 * seed, seed=seed
        )
    return folder


def blended(folder: Path, *argv: str) -> tuple[float, float]:
    """Return the seconds and the peak of resident memory, in MB, of one blend in a process of its
    own.
    """
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
    """Return seconds and memory of so many blends."""
    tries = [blended(folder, *argv) for _ in range(times)]
    return {
        "seconds": spread([one for one, _ in tries], 2),
        "peak MB": max(round(peak) for _, peak in tries),
    }


def main() -> None:
    """Measure what is missing and print it."""
    cli = parser(__doc__, results="blend.json")
    cli.set_defaults(data="drawn runs", device="cpu")
    cli.add_argument("--million", action="store_true")
    args = cli.parse_args()
    results = Results(args, device="cpu")
    todo = [
        (f"{NUM_RUNS} runs of 18,900 + 12,600 rows, {name}", NUM_PEOPLE, NUM_TEST, name)
        for name in TIMES
    ]
    if args.million:
        todo.append((f"{NUM_RUNS} runs of a million rows, soft", NUM_MANY, 0, "soft"))
    for title, num_people, num_test, method in todo:
        if title not in results:
            with tempfile.TemporaryDirectory() as root:
                folder = drawn(Path(root), num_people, num_test)
                times = 1 if num_people == NUM_MANY else TIMES[method]
                results.put(title, measure(folder, times, "--method", method))
        print(f"{title}: {results[title]}")


if __name__ == "__main__":
    main()
