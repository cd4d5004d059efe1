"""Levers of a training step on a CPU: ratios of their times to the default.

    python benchmarks/train_step.py [--before CHECKOUT] [--preload LIBRARY ...]

Each lever has a process of its own, which takes turns with one of the default: a step each on a
batch in memory. Threads that wait for each other spin, so that a step takes many times as long
while another process computes. Each round therefore begins when other processes are still, and
those in which they took a seventh of a core or more are made again, up to three times as many as
are wanted. --before measures the default of another checkout too, such as a `git worktree` of an
earlier commit; --preload measures allocators, such as Debian's libjemalloc2.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import ROOT, Results, exit_on_sigterm, parser, print_rows, shown, spread
from step_levers import LEVERS, busy_seconds

BASE = "default"
WARM_STEPS = 3
# Share of a core that other processes take.
DISTURBED = 0.15
# Seconds to wait for other processes before a round.
PATIENCE = 15.0
ENVIRONMENTS = {
    "huge pages (GLIBC_TUNABLES)": {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"},
    "idle threads sleep (OMP_WAIT_POLICY=PASSIVE)": {"OMP_WAIT_POLICY": "PASSIVE"},
}
# Levers that other benchmarks have measured, or earlier ones of this project.
MEASURED_BEFORE = (
    ("torch.compile, lite0 at 128, one thread", "1.02", "40 to 70 s to compile"),
    ("torch.compile, resnet18, one thread", "0.98", "the same"),
    ("bfloat16", "10 to 40", "processors without fast bfloat16 convolutions"),
    ("--parallel-folds 2, one thread each", "1.006", "to serial folds with two; parallel.json"),
    ("the same", "0.715", "to serial folds with one thread; parallel.json"),
)


class Worker:
    """A process that makes steps."""

    def __init__(
        self, args: argparse.Namespace, lever: str, *, root: Path, env: dict[str, str]
    ) -> None:
        given = {
            "lever": lever,
            "backbone": args.backbone,
            "img_size": args.img_size,
            "batch_size": args.batch_size,
            "threads": args.threads,
        }
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "benchmarks" / "step_levers.py"), json.dumps(given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=dict(os.environ) | {"PYTHONPATH": str(root)} | env,
            text=True,
        )

    def steps(self, num: int) -> tuple[float, float]:
        """Return the seconds of each of `num` steps, and the share that others took of a core."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(num, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit("a process of step_levers.py failed; start it alone to see why")
        seconds, others = json.loads(answer)
        return seconds, others

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def wait_until_still() -> None:
    """Wait until other processes compute nothing, but not longer than PATIENCE."""
    end = time.monotonic() + PATIENCE
    busy = busy_seconds()
    while time.monotonic() < end:
        time.sleep(0.1)
        last = busy
        busy = busy_seconds()
        if busy - last < 0.1 * DISTURBED:
            return


def race(base: Worker, lever: Worker, rounds: int) -> dict[str, Any]:
    """Return the milliseconds of both in the rounds that others disturbed least, and the ratios."""
    lever.steps(WARM_STEPS)
    base.steps(1)
    made: list[tuple[float, float, float]] = []
    for _ in range(3 * rounds):
        wait_until_still()
        one, others = lever.steps(1)
        two, others_too = base.steps(1)
        made.append((max(others, others_too), one, two))
        if sum(turn[0] < DISTURBED for turn in made) == rounds:
            break
    kept = sorted(made)[:rounds]
    return {
        "ratio": spread([one / two for _, one, two in kept]),
        "milliseconds": spread([one * 1000 for _, one, _ in kept], 1),
        "milliseconds_of_default": spread([two * 1000 for _, _, two in kept], 1),
        "ratio_of_fastest": round(
            min(one for _, one, _ in kept) / min(two for _, _, two in kept), 3
        ),
        "others_at_most": round(kept[-1][0], 2),
        "rounds_made": len(made),
    }


def ways(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return what is special of the process of each lever, by the lever's name."""
    default: dict[str, Any] = {"lever": BASE, "root": ROOT, "env": {}}
    found: dict[str, dict[str, Any]] = {}
    if args.before is not None:
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            cwd=args.before,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        found[f"commit {commit}"] = default | {"root": args.before.resolve()}
    found |= {name: default | {"lever": name} for name in LEVERS if name != BASE}
    found |= {name: default | {"env": env} for name, env in ENVIRONMENTS.items()}
    for library in args.preload:
        found[library.name] = default | {"env": {"LD_PRELOAD": str(library.resolve())}}
    # Its spread is that of the comparison itself.
    found["default again"] = default
    return found


@contextlib.contextmanager
def closing(worker: Worker) -> Iterator[Worker]:
    """Kill a process at the end."""
    try:
        yield worker
    finally:
        worker.close()


def main() -> None:
    """Measure the levers that the JSON file does not have, and print the table."""
    exit_on_sigterm()
    cli = parser(__doc__, results="train_step.json")
    cli.add_argument("--backbone", default="tf_efficientnet_lite0")
    cli.add_argument("--img-size", type=int, default=128)
    cli.add_argument("--batch-size", type=int, default=32)
    cli.add_argument("--threads", type=int, default=2)
    cli.add_argument("--rounds", type=int, default=11)
    cli.add_argument("--before", type=Path, help="checkout of an earlier commit")
    cli.add_argument("--preload", type=Path, nargs="*", default=[], help="libraries to preload")
    cli.add_argument("--only", nargs="*", help="names of levers")
    args = cli.parse_args()
    # Batches are random numbers.
    args.data = f"batch {args.batch_size}"
    results = Results(args, device="cpu")
    start = time.perf_counter()
    task = f"{args.backbone} at {args.img_size}, {args.threads} threads"
    wanted = {
        name: way for name, way in ways(args).items() if args.only is None or name in args.only
    }
    rows = []
    with contextlib.ExitStack() as stack:
        base: Worker | None = None
        for name, way in wanted.items():
            key = f"{name}, {task}"
            if key not in results:
                if base is None:
                    base = stack.enter_context(closing(Worker(args, BASE, root=ROOT, env={})))
                    base.steps(WARM_STEPS)
                with closing(Worker(args, **way)) as worker:
                    results.put(key, race(base, worker, args.rounds))
            found = results[key]
            rows.append((name, shown(found["ratio"]), shown(found["milliseconds"])))
            print(*rows[-1], flush=True)
    of_base = [results[f"{name}, {task}"]["milliseconds_of_default"]["median"] for name in wanted]
    print_rows(
        f"{task}, batch {args.batch_size}: the default takes"
        f" {statistics.median(of_base):.0f} ms a step ({time.perf_counter() - start:.0f} s)",
        [("lever", "seconds, of the default's", "ms per step"), *rows],
    )
    print_rows(
        "measured before", [("lever", "seconds, of the default's", "note"), *MEASURED_BEFORE]
    )


if __name__ == "__main__":
    main()
