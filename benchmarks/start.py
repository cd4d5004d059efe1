"""Measure whole commands, start included, that only read tables.

    python benchmarks/start.py [--against FOLDER]

20 simulated runs of the competition's size, 18,900 out-of-fold and 12,600 test rows in 18 classes,
are blended by a soft vote without and with its page, and compared on a leaderboard. A small run
that is finished is started again. Each command shows its help. With --against, the same commands of
another checkout are measured in the same rounds; their ratio is this one's share of its time.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common import ROOT, Results, parser, print_rows, ratios, shown, spread

from foldblend.commands import COMMANDS
from foldblend.runs.folder import file_hash, table_hashes, write_json
from tests.makers.synthetic_runs import write_synthetic_run

NUM_RUNS = 20
NUM_GROUPS = 2700
NUM_TEST = 12600
ROUNDS = 5
SMALL = "--backbone test_resnet --pretrained none --img-size 32 --folds 2 --epochs 1 --name small"
NAME = "seconds of whole commands"


def write_runs(folder: Path) -> list[str]:
    """Write the runs, with the hashes that finished runs have; return their folders."""
    paths = [folder / f"run{seed:02d}" for seed in range(NUM_RUNS)]
    for seed, path in enumerate(paths):
        write_synthetic_run(
            path, num_people=NUM_GROUPS, num_test=NUM_TEST, strength=0.6 + 0.03 * seed, seed=seed
        )
        info = json.loads((path / "run.json").read_text(encoding="utf-8"))
        hashes = {"files": table_hashes(path), "folds_hash": file_hash(path / "folds.csv")}
        write_json(path / "run.json", info | hashes)
    return [*map(str, paths)]


def commands_on(runs: Sequence[str], data: str, folder: Path) -> dict[str, list[str]]:
    """Return the commands that are measured by name, which write to a folder: script and words."""
    vote = ["blend.py", *runs, "--method", "soft", "--output", str(folder / "blends")]
    small = ["run_cv.py", "--data", data, *SMALL.split(), "--output", str(folder / "finished")]
    return {
        "blend, soft vote of 20 runs, --no-page": [*vote, "--name", "plain", "--no-page"],
        "blend, soft vote of 20 runs, with page": [*vote, "--name", "page"],
        "leaderboard of 20 runs": ["leaderboard.py", *runs, "--page", str(folder / "board.html")],
        "run_cv, finished before": small,
        **{f"{name}, help": [f"{name}.py", "--help"] for name in COMMANDS},
    }


def seconds(tree: Path, words: Sequence[str]) -> float:
    """Return the seconds that a command of a source tree takes."""
    command = [sys.executable, str(tree / words[0]), *words[1:]]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}\n{done.stderr}")
    return time.perf_counter() - start


def measured(
    commands: Mapping[str, Mapping[str, Sequence[str]]], trees: Mapping[str, Path]
) -> Iterator[dict[str, Any]]:
    """Yield the spread of the seconds of each command so far, after each round."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for _ in range(ROUNDS):
        for name in commands["now"]:
            for tree, path in trees.items():
                found[name][tree].append(seconds(path, commands[tree][name]))
        yield {
            name: {tree: spread(tries, 2) for tree, tries in one.items()}
            | ({"ratio": ratios(one["now"], one["before"])} if "before" in one else {})
            for name, one in found.items()
        }


def main() -> None:
    """Measure what the JSON file lacks, and print all."""
    cli = parser(__doc__, results="start.json")
    cli.add_argument("--against", type=Path, help="folder of another checkout")
    args = cli.parse_args()
    trees = {"now": ROOT} | ({"before": args.against} if args.against else {})
    results = Results(args, device="cpu")
    if NAME not in results:
        with tempfile.TemporaryDirectory() as root:
            runs = write_runs(Path(root))
            commands = {tree: commands_on(runs, args.data, Path(root, tree)) for tree in trees}
            # The first time, the run is trained and modules are compiled.
            for tree, path in trees.items():
                for words in commands[tree].values():
                    seconds(path, words)
            results.in_rounds(NAME, lambda: measured(commands, trees), most=ROUNDS)
    found = results[NAME]
    columns = [*next(iter(found.values()))]
    rows = [(name, *(shown(one[column]) for column in columns)) for name, one in found.items()]
    print_rows(NAME, [("", *columns), *rows])


if __name__ == "__main__":
    main()
