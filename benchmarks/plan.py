"""Make a plan within a time limit, kill it on the way, and compare its runs with unbroken ones.

    python benchmarks/plan.py --data london_masks --outputs /tmp/plans --kills 150 290 600

The plan is killed (SIGKILL) after so many seconds of each call, and then called until it ends. An
unbroken one is made from the same plan.yaml, and the logits of the runs and folds that both
made are compared bit for bit.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
from common import ROOT, Results, equal_tables, parser, print_rows

from foldblend.runs.check import why_unfinished
from foldblend.runs.run import Run
from pipeline.plan.done import progress_of
from pipeline.plan.plan_file import Plan, read_plan

NAME = "plan"


def call(*words: object, seconds: float | None = None) -> float:
    """Run plan.py, kill it after some seconds if any are given, and return its time."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, str(ROOT / "plan.py"), *map(str, words)], cwd=ROOT)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    else:
        if process.returncode:
            sys.exit(process.returncode)
    return time.perf_counter() - start


def equal_runs(one: Plan, other: Plan) -> dict[str, bool]:
    """Return whether the logits of each run, or else fold, that both plans made are equal."""
    found = {}
    for run in one.runs:
        mine = one.runs_folder / run.name
        its = other.runs_folder / run.name
        if why_unfinished(mine) is None and why_unfinished(its) is None:
            found[run.name] = equal_tables(mine, its)
            continue
        for fold in progress_of(mine).folds.keys() & progress_of(its).folds.keys():
            tables = [
                [pd.read_parquet(run / f"fold_{fold}" / "oof.parquet") for run in (mine, its)],
                [pd.read_parquet(run / f"test_fold_{fold}.parquet") for run in (mine, its)],
            ]
            found[f"{run.name}, fold {fold}"] = all(a.equals(b) for a, b in tables)
    return found


def runs_of(plan: Plan) -> list[dict[str, Any]]:
    """Return each run of a plan: state, seconds, estimate and score."""
    rows = []
    for run in plan.runs:
        done = progress_of(plan.runs_folder / run.name)
        rows.append(
            {
                "name": run.name,
                "state": done.state,
                "folds": done.folds,
                "seconds": done.seconds,
                "estimate": run.seconds,
                "score": done.score,
            }
        )
    return rows


def main() -> None:
    """Make the plan with its kills, then the unbroken one, and write what both made."""
    cli = parser(__doc__, results="plan.json")
    cli.add_argument("--outputs", type=Path, required=True, help="folder of both plans")
    cli.add_argument("--time-limit", default="45m")
    cli.add_argument("--kills", type=float, nargs="*", default=[], help="seconds until each kill")
    cli.add_argument("--threads", type=int, default=2)
    cli.add_argument("--unbroken", action="store_true", help="make the unbroken plan as well")
    args = cli.parse_args()
    results = Results(args, device=args.device)
    flags = ["--device", args.device, "--threads", args.threads]
    asked = ["--data", args.data, "--time-limit", args.time_limit, "--name", NAME, *flags]
    broken = args.outputs / "broken"
    blend = broken / NAME
    lost = 0
    for seconds in args.kills:
        call(*asked, "--output", broken, seconds=seconds)
        lost += blend.exists() and why_unfinished(blend) is not None
    last = call(*asked, "--output", broken)
    plan = read_plan(broken / f"{NAME}-runs" / "plan.yaml")
    made = Run(blend)
    record: dict[str, Any] = {
        "time_limit": args.time_limit,
        "threads": args.threads,
        "kills": args.kills,
        "blends_lost": lost,
        "seconds_of_last_call": last,
        "headline": made.report["headline"],
        "plan": made.info["plan"],
        "members": [{"name": one["name"], "weight": one["weight"]} for one in made.info["members"]],
        "runs": runs_of(plan),
    }
    if args.unbroken:
        other = args.outputs / "unbroken"
        shutil.rmtree(other, ignore_errors=True)
        call("--plan", plan.file, "--output", other, "--time-limit", args.time_limit)
        whole = read_plan(other / f"{NAME}-runs" / "plan.yaml")
        record["equal"] = equal_runs(plan, whole)
    results.put(f"{args.time_limit}, {args.threads} threads", record)
    rows = [("run", "state", "seconds", "estimate", "score")]
    rows += [
        tuple(str(one[key]) for key in ("name", "state", "seconds", "estimate", "score"))
        for one in record["runs"]
    ]
    print_rows(f"{args.data}, {args.time_limit}: {record['headline']}", rows)


if __name__ == "__main__":
    main()
