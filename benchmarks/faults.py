"""Hostile and unlucky cases against a source tree, and what became of them.

    python benchmarks/faults.py
    python benchmarks/faults.py --tree FOLDER --label before

Each case damages a small world of runs, a blend, an exported file and a cache, and runs a command.
It ends right, or with one line and exit code 2, or the bad run is named and left out; everything
else is a failure. The cases are in tests/faults/. A sweep that was stopped goes on where it was;
`--fresh` starts it again.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from common import ROOT, Results, parser, print_rows

from tests.faults.base import make_base
from tests.faults.judge import FAILURES, GOOD, Case, References, run_case
from tests.faults.kinds import QUOTAS, all_cases, chosen
from tests.faults.warm import Warm

# Written so often that a stopped sweep loses little.
EVERY = 25
NOT_MANY = 40
LONGEST = 200


def flags() -> argparse.Namespace:
    """Return the flags of the command line."""
    cli = parser(__doc__, results="faults.json")
    cli.add_argument("--tree", type=Path, default=ROOT, help="source tree to test")
    cli.add_argument("--label", default="after", help="name of the sweep in the JSON file")
    cli.add_argument("--kinds", default="", help="kinds of cases, joined by commas; default: all")
    cli.add_argument("--limit", type=int, help="most cases of each kind; 0: all there are")
    cli.add_argument("--seed", type=int, default=0, help="seed of the sample")
    cli.add_argument("--only", default="", help="run cases whose id has this text; not stored")
    cli.add_argument("--again", action="store_true", help="run again what had failed")
    cli.add_argument("--work", type=Path, help="folder for the world; default: a temporary one")
    cli.add_argument("--failures", type=Path, help="text file to write all failures to")
    return cli.parse_args()


def commit_of(tree: Path) -> str:
    """Return the commit of a source tree, with a + where files differ from it."""
    told = subprocess.run(
        ["git", "-C", str(tree), "describe", "--always", "--dirty=+", "--abbrev=7"],
        capture_output=True,
        text=True,
        check=False,
    )
    return told.stdout.strip()


def cases_of(args: argparse.Namespace, base: Path) -> list[Case]:
    """Return the cases to run, a sample of each kind."""
    kinds = all_cases(base)
    wanted = args.kinds.split(",") if args.kinds else list(kinds)
    unknown = sorted({*wanted} - {*kinds})
    if unknown:
        raise SystemExit(f"--kinds {', '.join(unknown)}: choose from {', '.join(kinds)}")
    if args.only:
        return [case for kind in wanted for case in kinds[kind] if args.only in case.id]
    samples = []
    for kind in wanted:
        most = QUOTAS.get(kind, 100) if args.limit is None else args.limit or len(kinds[kind])
        samples.append(chosen(kinds[kind], most, args.seed))
    # Kinds take turns in proportion to their numbers, so that a stopped sweep has some of each.
    shares = [
        ((number + 0.5) / len(sample), case)
        for sample in samples
        for number, case in enumerate(sample)
    ]
    return [case for _, case in sorted(shares, key=lambda one: one[0])]


def sweep(args: argparse.Namespace, results: Results, work: Path) -> dict[str, Any]:
    """Run the cases that have no outcome yet and return a summary of all (see `summary`)."""
    name = f"outcomes {args.label}"
    known: dict[str, Any] = {}
    with contextlib.suppress(KeyError):
        known = results[name]
    if name in results and not args.only and not args.again:
        return known
    started = time.monotonic()
    found: dict[str, list[Any]] = dict(known.get("cases", {}))
    with Warm(args.tree, work) as warm:
        base = make_base(warm, work)
        references = References(warm, base)
        cases = cases_of(args, base)
        if args.again:
            cases = [case for case in cases if key_of(case) in known.get("failures", {})]
        todo = [case for case in cases if args.only or key_of(case) not in found]
        print(f"{len(cases)} cases, {len(todo)} of them to run; {warm.ready}", flush=True)
        for number, case in enumerate(todo, 1):
            got = run_case(case, warm, base, references)
            found[key_of(case)] = [case.kind, got.outcome, got.line[:LONGEST], got.seconds]
            if args.only or not got.is_good:
                print(f"{number}/{len(todo)} {got.outcome}: {case.id}\n    {got.line}", flush=True)
            if not args.only and not args.again and number % EVERY == 0:
                results.put(name, {"tree": commit_of(args.tree), "cases": found}, partial=True)
                if args.failures:
                    write_failures(args.failures, found)
    ran = {key_of(case): found[key_of(case)] for case in cases}
    if args.only:
        return summary(args.tree, ran, time.monotonic() - started)
    whole = (
        mended(known, ran) if args.again else summary(args.tree, ran, time.monotonic() - started)
    )
    results.put(name, {**whole, "tree": commit_of(args.tree)})
    return whole


def key_of(case: Case) -> str:
    """Return the name of a case among those of all kinds."""
    return f"{case.kind}: {case.id}"


def summary(tree: Path, found: dict[str, list[Any]], seconds: float) -> dict[str, Any]:
    """Return the numbers of outcomes by kind, and the failures."""
    table: dict[str, Counter[str]] = {}
    for kind, outcome, _, _ in found.values():
        table.setdefault(kind, Counter())[outcome] += 1
    failures = {key: one for key, one in sorted(found.items()) if one[1] not in GOOD}
    return {
        "tree": commit_of(tree),
        "seconds": round(seconds),
        "table": {kind: dict(counts) for kind, counts in table.items()},
        "failures": failures,
    }


def mended(known: dict[str, Any], ran: dict[str, list[Any]]) -> dict[str, Any]:
    """Return a summary with new outcomes of cases that had failed."""
    table = {kind: Counter(counts) for kind, counts in known["table"].items()}
    failures = dict(known["failures"])
    for key, one in ran.items():
        table[one[0]][failures.pop(key)[1]] -= 1
        table[one[0]][one[1]] += 1
        if one[1] not in GOOD:
            failures[key] = one
    plain = {kind: {name: n for name, n in row.items() if n} for kind, row in table.items()}
    return {**known, "table": plain, "failures": failures}


def print_table(table: dict[str, dict[str, int]]) -> None:
    """Print the numbers of outcomes by kind."""
    counts = {kind: Counter(row) for kind, row in table.items()}
    columns = [one for one in (*GOOD, *FAILURES) if any(row[one] for row in counts.values())]
    rows = [("kind", "cases", *columns)]
    for kind, row in counts.items():
        rows.append((kind, str(row.total()), *[str(row[one] or "") for one in columns]))
    total = sum(counts.values(), Counter())
    rows.append(("all", str(total.total()), *[str(total[one]) for one in columns]))
    print_rows("What became of the cases", rows)


def write_failures(file: Path, found: dict[str, list[Any]]) -> None:
    """Write the failures, grouped by kind, outcome and message."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for key, (kind, outcome, line, _) in found.items():
        if outcome not in GOOD:
            message = line.split(": ")[0] if outcome in ("bad message", "silent") else line
            groups.setdefault((kind, outcome, message[:160]), []).append(f"{key}\n        {line}")
    lines = []
    for (kind, outcome, message), members in sorted(groups.items(), key=lambda one: one[0]):
        lines.append(f"\n== {kind} | {outcome} | {len(members)} x | {message}")
        lines += [f"    {member}" for member in members[:12]]
        if len(members) > 12:
            lines.append(f"    ... and {len(members) - 12} more")
    file.write_text("\n".join(lines) + "\n")


def main() -> None:
    """Run the sweep and print its table and failures."""
    args = flags()
    results = Results(args, device="cpu")
    work = args.work or Path(tempfile.mkdtemp(prefix="faults-", dir=_fast_folder()))
    work.mkdir(parents=True, exist_ok=True)
    try:
        found = sweep(args, results, work)
    finally:
        if args.work is None:
            shutil.rmtree(work, ignore_errors=True)
    print_table(found["table"])
    failed = found["failures"]
    for key, (_, outcome, line, _) in list(failed.items())[:NOT_MANY]:
        print(f"{outcome}: {key}\n    {line}")
    if len(failed) > NOT_MANY:
        print(f"and {len(failed) - NOT_MANY} more; --failures FILE lists all")
    if args.failures:
        write_failures(args.failures, failed)
    if failed:
        raise SystemExit(f"{len(failed)} cases failed")


def _fast_folder() -> str | None:
    """Return a folder in memory, where the world is copied in a tenth of the time."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


if __name__ == "__main__":
    main()
