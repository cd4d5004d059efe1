"""Measure time and memory of a soft vote of two runs with millions of rows, by blend.py.

    python benchmarks/big_vote.py [--rows 10_000_000] [--tests 0]

Two runs of 18 classes with random logits are written block by block, and blended in a process of
its own with report and page. Ten million rows take 3 GB of disk. Peak memory is the resident
memory of that process.
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

from common import ROOT, Results, parser

from tests.makers.big_runs import IMAGES, write_big_run

NUM_ROWS = (100_000, 1_000_000, 10_000_000)


def blended(runs: list[Path], output: Path) -> dict[str, Any]:
    """Blend in a new process; return its seconds, peak resident memory and bytes per row."""
    command = [sys.executable, str(ROOT / "blend.py"), *map(str, runs), "--method", "soft"]
    start = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--name", "vote", "--output", str(output)], stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} ended with {status}")
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "processor seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak GB": round(usage.ru_maxrss * 1024 / 1e9, 2),
        "files GB": round(
            sum(one.stat().st_size for one in (output / "vote").rglob("*") if one.is_file()) / 1e9,
            2,
        ),
    }


def measure(folder: Path, num_rows: int, num_test: int, *, has_attributes: bool) -> dict[str, Any]:
    """Write two runs, of which the second is better, and blend them."""
    runs = [
        write_big_run(
            folder / f"run{seed}",
            num_groups=num_rows // IMAGES,
            num_test=num_test,
            strength=0.6 + 0.1 * seed,
            seed=seed,
            has_attributes=has_attributes,
        )
        for seed in range(2)
    ]
    found = blended(runs, folder)
    shutil.rmtree(folder)
    return found


def main() -> None:
    """Measure what the JSON file lacks, and print all."""
    cli = parser(__doc__, results="big_vote.json")
    # The name of the data is a part of the keys of the file.
    cli.set_defaults(data="drawn runs", device="cpu")
    cli.add_argument("--rows", type=int, nargs="+", default=NUM_ROWS, help="out-of-fold rows")
    cli.add_argument("--tests", type=int, default=0, help="test rows")
    cli.add_argument("--plain", action="store_true", help="classes without attributes")
    cli.add_argument("--folder", type=Path, help="where the runs are written; default: /tmp")
    args = cli.parse_args()
    results = Results(args, device="cpu")
    for num_rows in args.rows:
        title = f"soft vote of 2 runs of {num_rows:,} + {args.tests:,} rows"
        title += ", classes without attributes" if args.plain else ""
        if title not in results:
            with tempfile.TemporaryDirectory(dir=args.folder) as root:
                found = measure(
                    Path(root) / "runs", num_rows, args.tests, has_attributes=not args.plain
                )
                results.put(title, found)
        print(f"{title}: {results[title]}", flush=True)


if __name__ == "__main__":
    main()
