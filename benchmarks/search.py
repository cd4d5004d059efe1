"""A search on a frozen backbone: its time and what it finds; and searches that are killed.

    python benchmarks/search.py --data london_masks

The search of recipes/space.yaml starts with an empty cache. Its best run is compared with the
settings of the command on the same folds (paired over groups), and scored nested. Then a small
search on the demo set is killed (SIGKILL) at random moments and started again: no finished trial
may be lost, and its trials must be those of an unbroken search.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from common import ROOT, Results, parser, print_rows

from tests.makers.searches import study_of

SPACE = "head_l2: {low: 0.01, high: 10, log: true}\ntta: [none, hflip]\n"
TINY = ["--backbone", "test_efficientnet", "--pretrained", "none", "--finetune", "head"]
TINY += ["--img-size", "32", "--folds", "3", "--threads", "1", "--infer-engine", "torch"]
TINY += ["--head-l2", "0.3", "--no-page", "--data", "demo"]
NUM_KILLED = 60  # trials of the search that is killed
LONGEST = 20.0  # seconds until a kill


def tune(folder: Path, *flags: object, cache: Path | None = None) -> tuple[float, float]:
    """Run tune.py and return its seconds and its seconds of CPU."""
    command = [sys.executable, str(ROOT / "tune.py"), "--output", str(folder), *map(str, flags)]
    environ = {**os.environ, **({} if cache is None else {"FOLDBLEND_CACHE": str(cache)})}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr or done.stdout}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, cpu


def frozen_search(data: str, trials: int, threads: int | None, *, nested: bool) -> dict[str, Any]:
    """Return the time of a search, and what it says of its best run."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / "outputs"
        cache = Path(scratch) / "cache"
        flags = ["--data", data, "--config", ROOT / "recipes" / "quick.yaml"]
        flags += ["--space", ROOT / "recipes" / "space.yaml", "--trials", trials, "--study", "s"]
        flags += ["--no-page", *([] if threads is None else ["--threads", threads])]
        seconds, cpu = tune(folder, *flags, cache=cache)
        result: dict[str, Any] = {"seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1)}
        if nested:
            seconds, cpu = tune(folder, *flags, "--nested", cache=cache)
            result |= {"nested_seconds": round(seconds, 1), "nested_cpu_seconds": round(cpu, 1)}
        record = json.loads((folder / "s_best" / "run.json").read_text())
        names = ("num_images", "num_groups", "group_name")
        return {
            **result,
            "trials": trials,
            "threads": threads,
            "load": round(os.getloadavg()[0], 1),
            "data": {name: record["data"].get(name) for name in names},
            "search": {name: one for name, one in record["search"].items() if name != "study"},
        }


def complete(folder: Path, name: str) -> dict[int, tuple[Any, Any]]:
    """Return parameters and value of each finished trial of a study."""
    if not (folder / name / "journal.log").is_file():
        return {}
    try:
        trials = study_of(folder, name).trials
    except KeyError:
        return {}
    return {one.number: (one.params, one.value) for one in trials if one.state.name == "COMPLETE"}


def under_kills(kills: int, rng: random.Random) -> dict[str, Any]:
    """Kill a search repeatedly, then let it finish; return what was found."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "space.yaml").write_text(SPACE)
        flags = ["--space", folder / "space.yaml", *TINY, "--trials", NUM_KILLED]
        tune(folder, *flags, "--study", "whole")
        seen = {"kills": 0, "lost_trials": 0, "with_a_cut_trial": 0}
        command = [sys.executable, str(ROOT / "tune.py"), "--output", scratch, *map(str, flags)]
        command += ["--study", "broken"]
        before: dict[int, tuple[Any, Any]] = {}
        while seen["kills"] < kills and len(before) < NUM_KILLED:
            begun = folder / "broken" / "journal.log"
            size = begun.stat().st_size if begun.is_file() else 0
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            end = time.monotonic() + 120
            # Most of the time goes to imports, in which nothing can be lost.
            while (
                process.poll() is None
                and time.monotonic() < end
                and (not begun.is_file() or begun.stat().st_size <= size)
            ):
                time.sleep(0.005)
            time.sleep(rng.uniform(0.0, 1.0))
            process.send_signal(signal.SIGKILL)
            if process.wait() != -signal.SIGKILL:
                break
            seen["kills"] += 1
            after = complete(folder, "broken")
            seen["lost_trials"] += sum(after.get(number) != one for number, one in before.items())
            running = [
                one for one in study_of(folder, "broken").trials if one.state.name == "RUNNING"
            ]
            seen["with_a_cut_trial"] += bool(running)
            before = after
        tune(folder, *flags, "--study", "broken")
        whole = [*complete(folder, "whole").values()]
        return {**seen, "equal": [*complete(folder, "broken").values()] == whole}


def main() -> None:
    """Measure what the JSON file does not have, and print it."""
    cli = parser(__doc__, results="search.json")
    cli.add_argument("--trials", type=int, default=200)
    cli.add_argument("--threads", type=int, help="threads of torch; default: as many as cores")
    cli.add_argument("--kills", type=int, default=10)
    cli.add_argument("--no-nested", action="store_true", help="leave out the nested score")
    args = cli.parse_args()
    results = Results(args, device="cpu")
    threads = f"{args.threads or 'all'} threads"
    name = f"frozen search, {args.trials} trials, {threads}"
    if name not in results:
        found = frozen_search(args.data, args.trials, args.threads, nested=not args.no_nested)
        results.put(name, found)
    if "kills" not in results:
        results.put("kills", under_kills(args.kills, random.Random(0)))
    found = results[name]
    rows = [("", "value", "95 % interval")]
    for key in ("default", "score", "gain", "expected", "nested"):
        one = found["search"].get(key)
        if one is not None:
            rows.append((key, f"{one['value']:.4f}", f"{one['low']:.4f} to {one['high']:.4f}"))
    print_rows(f"{name}: {found['seconds']:.0f} s, {found['cpu_seconds']:.0f} s of CPU", rows)
    seen = results["kills"]
    print_rows("Searches killed (SIGKILL)", [tuple(seen), tuple(map(str, seen.values()))])
    if seen["lost_trials"] or not seen["equal"]:
        raise SystemExit("a killed search lost trials, or went on otherwise than an unbroken one")


if __name__ == "__main__":
    main()
