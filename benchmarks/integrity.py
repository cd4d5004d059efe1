"""Cost of the checks of what is read, as a share of the time of commands.

    python benchmarks/integrity.py

The share is CPU time within the checks (hashes, keys, types, ranges, uniqueness), in all threads,
over wall time of the command. Besides, the command is timed with and without the checks in turn.
Without means: no hash is compared, no type, range or key is looked at; the hash that identifies a
run in a blend is computed as in version 0.2.0. Imports are not in these times. With
`--before TREE`, whole commands of version 0.2.0 and of this one are timed in turn as well.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from common import ROOT, Results, parser, print_rows, spread

from ensemble.blend import blend
from foldblend.runs import checked, schema, tables
from foldblend.runs.folder import file_hash, table_hashes
from foldblend.runs.run import Run
from folds.data.demo import make_demo
from pipeline.cv import cross_validate
from pipeline.data import cache, records
from pipeline.run_tta import run_tta
from reports.board.find import find_runs
from reports.board.leaderboard import leaderboard
from tests.makers.edits import edit_run
from tests.makers.synthetic_runs import write_synthetic_run

ROUNDS = 10
FEW_ROUNDS = 5  # of training
PEOPLE = 2857  # 20,000 images


def quiet(line: str) -> None:
    """Print nothing."""


def unhashed(reader: tables.TableReader, name: str, **_: Any) -> bytes:
    """Return the content of a file without its hash."""
    return (reader.folder / name).read_bytes()


@contextlib.contextmanager
def without_checks() -> Iterator[None]:
    """Leave out all comparisons with hashes, types and ranges."""
    with contextlib.ExitStack() as stack:
        for where, name, instead in (
            (tables.TableReader, "data", unhashed),
            (tables, "problems", lambda *_: iter(())),
            (tables, "problem_of_schema", lambda *_: None),
            (tables.TableReader, "_check_unique", lambda *_: None),
            (tables.TableReader, "_check_repeats", lambda *_: None),
            (tables, "is_finite", lambda _: True),
            (schema, "problem_of_info", lambda _: None),
            (schema, "check_of", lambda _: lambda value, place: None),
            (checked, "check_of", lambda _: lambda value, place: None),
            (Run, "hashes", {}),
        ):
            stack.enter_context(mock.patch.object(where, name, instead))
        yield


class Clock:
    """CPU seconds within functions, summed over threads."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with its time added to the clock."""

        def call(*args: Any, **further: Any) -> Any:
            start = time.thread_time()
            try:
                return function(*args, **further)
            finally:
                self.seconds += time.thread_time() - start

        return call

    def timed_problems(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a generator function with the time of the whole generator added."""
        return lambda *args: iter(self.timed(lambda: [*function(*args)])())

    def timed_hash(self, *start: bytes, **further: Any) -> Any:
        """Return a hash whose update is timed."""
        digest = BLAKE2B(*start, **further)
        return SimpleNamespace(
            update=self.timed(digest.update), hexdigest=digest.hexdigest, digest=digest.digest
        )


BLAKE2B = hashlib.blake2b


@contextlib.contextmanager
def timed_checks() -> Iterator[Clock]:
    """Sum the time within all checks."""
    clock = Clock()
    with contextlib.ExitStack() as stack:
        for where, name, wrap in (
            (tables, "problems", clock.timed_problems),
            (tables, "problem_of_schema", clock.timed),
            (tables.TableReader, "_check_unique", clock.timed),
            (tables.TableReader, "_check_repeats", clock.timed),
            (tables, "is_finite", clock.timed),
            (schema, "check_info", clock.timed),
            (records, "checksum", clock.timed),
            (cache, "checksum", clock.timed),
        ):
            stack.enter_context(mock.patch.object(where, name, wrap(getattr(where, name))))
        stack.enter_context(mock.patch.object(tables.hashlib, "blake2b", clock.timed_hash))
        yield clock


def ratios_of(these: list[float], others: list[float]) -> dict[str, Any]:
    """Return the ratios of times that were measured in turn, and their mean."""
    ratios = [one / other for one, other in zip(these, others, strict=True)]
    error = statistics.stdev(ratios) / len(ratios) ** 0.5 if len(ratios) > 1 else None
    return {
        "ratio": spread(ratios, 4),
        "mean ratio": round(statistics.mean(ratios), 4),
        "standard error": None if error is None else round(error, 4),
    }


def compared(work: Callable[[], object]) -> Iterator[dict[str, Any]]:
    """Yield the share of the checks and the times of a command with and without them."""
    shares: list[float] = []
    seconds: dict[bool, list[float]] = {True: [], False: []}
    work()
    for number in range(ROUNDS):
        start = time.perf_counter()
        with timed_checks() as clock:
            work()
        shares.append(clock.seconds / (time.perf_counter() - start))
        for checks in (True, False) if number % 2 else (False, True):
            start = time.perf_counter()
            with contextlib.nullcontext() if checks else without_checks():
                work()
            seconds[checks].append(time.perf_counter() - start)
        yield {
            "share of checks": spread(shares, 5),
            "with": spread(seconds[True]),
            "without": spread(seconds[False]),
            **ratios_of(seconds[True], seconds[False]),
        }


def shares(work: Callable[[], object]) -> Iterator[dict[str, Any]]:
    """Yield the share of the checks in the time of a command."""
    found: list[float] = []
    for _ in range(FEW_ROUNDS):
        start = time.perf_counter()
        with timed_checks() as clock:
            work()
        found.append(clock.seconds / (time.perf_counter() - start))
        yield {"share of checks": spread(found, 5)}


def against(before: Path, words: list[str]) -> Iterator[dict[str, Any]]:
    """Yield wall seconds of a whole command of another source tree and of this one, in turn."""
    seconds: dict[Path, list[float]] = {before: [], ROOT: []}
    for number in range(ROUNDS):
        for tree in (before, ROOT) if number % 2 else (ROOT, before):
            start = time.perf_counter()
            subprocess.run(
                [sys.executable, str(tree / words[0]), *words[1:]],
                cwd=tree,
                env=os.environ | {"PYTHONPATH": str(tree)},
                capture_output=True,
                check=True,
            )
            seconds[tree].append(time.perf_counter() - start)
        yield {
            "before": spread(seconds[before]),
            "now": spread(seconds[ROOT]),
            **ratios_of(seconds[ROOT], seconds[before]),
        }


def import_seconds() -> dict[str, Any]:
    """Return the seconds that the modules of leaderboard.py take to import, in new processes."""
    code = (
        "import time; start = time.perf_counter();"
        " import reports.board.leaderboard, reports.board.text;"
        " print(time.perf_counter() - start)"
    )
    both = {"all": code}
    both["pydantic"] = (
        "import time; start = time.perf_counter(); from pydantic import TypeAdapter;"
        " print(time.perf_counter() - start)"
    )
    both["checker"] = (
        "import foldblend.scores.metrics, pandas, pyarrow.parquet, time;"
        " start = time.perf_counter();"
        " import foldblend.runs.schema, foldblend.runs.tables;"
        " foldblend.runs.schema.problem_of_info({}); print(time.perf_counter() - start)"
    )
    found = {}
    for name, one in both.items():
        times = [
            float(
                subprocess.run(
                    [sys.executable, "-c", one],
                    cwd=ROOT,
                    capture_output=True,
                    text=True,
                    check=True,
                ).stdout
            )
            for _ in range(7)
        ]
        found[name] = spread(times)
    return found


def hashed(folder: Path) -> Path:
    """Record the hashes of a synthetic run, as runs of this version do."""
    edit_run(folder, files=table_hashes(folder), folds_hash=file_hash(folder / "folds.csv"))
    return folder


def main() -> None:
    """Measure what is missing, and print all."""
    cli = parser(__doc__, results="integrity.json")
    cli.add_argument("--before", type=Path, help="source tree of version 0.2.0 to compare with")
    args = cli.parse_args()
    results = Results(args, device="cpu")
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        outputs = Path(temporary) / "outputs"
        four = [
            hashed(
                write_synthetic_run(
                    outputs / f"run{seed}", num_people=PEOPLE, num_test=20_000, seed=seed
                )
            )
            for seed in range(4)
        ]
        few = [
            hashed(
                write_synthetic_run(outputs / f"few{seed}", num_people=300, num_test=0, seed=seed)
            )
            for seed in range(20)
        ]

        def blended(method: str) -> Callable[[], object]:
            return lambda: blend(
                four, method=method, name="b", overwrite=True, page=False, say=quiet
            )

        def board() -> None:
            runs, skipped = find_runs(few)
            leaderboard(runs, skipped)

        data = make_demo(Path(temporary) / "demo", num_train=20, num_test=10, seed=0)
        run = cross_validate(
            data=str(data),
            backbone="test_resnet",
            pretrained="none",
            img_size=64,
            folds=5,
            epochs=1,
            output=str(outputs),
            name="small",
            page=False,
            say=quiet,
        )

        def augmented() -> None:
            run_tta(run.path, views="hflip", name="tta", overwrite=True, page=False, say=quiet)

        augmented()  # predicts the view once; the others merge what is saved
        for name, work in (
            ("blend of 4 runs of 20,000 rows, soft vote", blended("soft")),
            ("leaderboard of 20 runs of 2,100 rows", board),
            ("TTA of 140 images, 5 folds, views saved", augmented),
        ):
            found[name] = results.in_rounds(name, lambda work=work: compared(work))

        def trained() -> None:
            cross_validate(
                data=str(data),
                backbone="resnet18",
                pretrained="none",
                img_size=64,
                folds=5,
                epochs=2,
                threads=2,
                parallel_folds=1,
                workers=0,
                output=str(outputs),
                name="trained",
                resume=False,
                page=False,
                cache="disk",
                cache_dir=str(Path(temporary) / "cache"),
                say=quiet,
            )

        trained()  # fills the cache
        name = "cross-validation of 140 images, resnet18, checkpoints of each epoch"
        one = results.in_rounds(name, lambda: shares(trained))
        print(f"{name}: {one['share of checks']['median']} of the time are checks")
        folders = [str(one) for one in four]
        whole = {
            "blend": [
                "blend.py",
                *folders,
                *["--method", "soft", "--no-page", "--name", "c", "--overwrite"],
            ],
            "leaderboard": ["leaderboard.py", *map(str, few), "--no-page"],
        }
        for name, words in whole.items() if args.before else ():
            title = f"whole {name} against version 0.2.0"
            one = results.in_rounds(title, lambda words=words: against(args.before, words))
            print(f"{title}: {one['mean ratio']} ({one['standard error']})")
    if "import" not in results:
        results.put("import", import_seconds())
    print_rows(
        "checks as a share of the command, and wall seconds with and without them",
        [
            ("command", "share", "with", "without", "mean ratio", "standard error", "n"),
            *(
                (
                    name,
                    one["share of checks"]["median"],
                    one["with"]["median"],
                    one["without"]["median"],
                    one["mean ratio"],
                    one["standard error"],
                    one["ratio"]["n"],
                )
                for name, one in found.items()
            ),
        ],
    )
    print_rows("seconds to import", [(k, v["median"]) for k, v in results["import"].items()])


if __name__ == "__main__":
    main()
