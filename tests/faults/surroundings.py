"""Homes, streams, limits and moments: the same commands in unlucky surroundings."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tests.faults.base import DATA, TINY
from tests.faults.jobs import Job
from tests.faults.judge import Case, FaultError
from tests.faults.system_calls import first_failed, rerun
from tests.faults.warm import Ended, Warm

__all__ = ["surroundings_cases"]

NAMES = ("resume full", "again full", "again frozen", "tta full", "blend two", "predict both")
NAMES = (*NAMES, "export full", "report full", "board", "audit", "resume half")
# No --cache-dir: the folder of the cache is looked for in the home.
AT_HOME = [*DATA, *TINY, "--output", "outputs", "--name", "u", "--backbone", "test_resnet"]
USER = 12345


def surroundings_cases(_: Path) -> Iterator[Case]:
    """Yield commands with other homes, streams, limits, and files that vanish."""
    yield from _homes()
    yield from _streams()
    yield from _limits()
    yield from _vanishing()


def _homes() -> Iterator[Case]:
    homes: dict[str, tuple[dict[str, Any], Callable[[Path], Any]]] = {
        "no home": ({"env": {"HOME": None}, "uid": USER}, lambda _: None),
        "home is /": ({"env": {"HOME": "/proc"}, "uid": USER}, lambda _: None),
        "home is absent": ({"env": {"HOME": "/no/such/home"}, "uid": USER}, lambda _: None),
        "home is a file": ({}, lambda stage: _file(stage / "home")),
        "home is a link to itself": ({}, lambda stage: _loop(stage / "home")),
        "home is empty": ({"env": {"HOME": ""}, "uid": USER}, lambda _: None),
        "no temporary folder": ({"env": {"TMPDIR": "/no/such/folder"}}, lambda _: None),
        "cache cannot be made": ({"env": {"FOLDBLEND_CACHE": "/proc/x"}}, lambda _: None),
        "cache is a file": ({"env": {"FOLDBLEND_CACHE": "canary/file.txt"}}, lambda _: None),
        "no language": ({"env": {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0"}}, lambda _: None),
        "channel is absent": ({"env": {"SM_CHANNEL_TRAIN": "/no/such/folder"}}, lambda _: None),
    }
    for what, (how, prepare) in homes.items():
        for cache in ("disk", "auto", "frozen"):
            flags = (
                ("--finetune", "head", "--head-l2", "0.3")
                if cache == "frozen"
                else ("--cache", cache)
            )
            yield Case(
                id=f"{what}, run_cv {cache}",
                kind="surroundings",
                command="run_cv",
                argv=(*AT_HOME, *flags),
                writes=("outputs/u", "home"),
                prepare=prepare,
                how=how,
                is_free=True,
                names=("home", "HOME", "--cache", "cache", "FOLDBLEND_CACHE", "/proc/x"),
            )
        for name in ("predict both", "audit", "blend two", "export full"):
            yield Case(
                id=f"{what}, {name}",
                kind="surroundings",
                job=name,
                prepare=prepare,
                how=how,
                names=(
                    "home",
                    "HOME",
                    "cache",
                    "FOLDBLEND_CACHE",
                    "/proc/x",
                    "TMPDIR",
                    "temporary",
                ),
            )
    for what, command, argv, made in (
        ("--output=~/x", "run_cv", [*AT_HOME, "--cache", "off", "--output=~/x"], "home/x/u"),
        (
            "--output ~/x",
            "blend",
            ["outputs/full", "outputs/frozen", "--name", "u", "--output", "~/x", "--no-page"],
            "home/x/u",
        ),
        ("--cache-dir=~/x", "run_cv", [*AT_HOME, "--cache", "disk", "--cache-dir=~/x"], "home/x"),
        ("--to=~/x.zip", "export_model", ["outputs/full", "--to=~/x.zip"], "home/x.zip"),
        (
            "--out=~/p.csv",
            "predict",
            ["outputs/full", "data/test.csv", "--out=~/p.csv"],
            "home/p.csv",
        ),
        (
            "--json=~/b.json",
            "leaderboard",
            ["outputs/full", "outputs/frozen", "--no-page", "--json=~/b.json"],
            "home/b.json",
        ),
        (
            "--page=~/b.html",
            "leaderboard",
            ["outputs/full", "outputs/frozen", "--page=~/b.html"],
            "home/b.html",
        ),
    ):
        yield Case(
            id=f"{what}, {command}",
            kind="surroundings",
            command=command,
            argv=tuple(argv),
            writes=("outputs/u",),
            perform=partial(_at_home, made=made),
            is_free=True,
        )


def _at_home(warm: Warm, _: Case, job: Job, *, made: str) -> Ended:
    ended = warm.run(job.command, job.argv, timeout=45)
    if ended.code == 0 and not (warm.stage / made).exists():
        raise FaultError("outside", f"{made} was not made")
    return ended


def _file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("a file\n")


def _loop(path: Path) -> None:
    shutil.rmtree(path)
    path.symlink_to(path.name)


def _streams() -> Iterator[Case]:
    for name in NAMES:
        for what, how in {
            "closed stderr": {"closed": ["stderr"]},
            "closed stdout": {"closed": ["stdout"]},
            "closed stdin": {"closed": ["stdin"]},
            "full stdout": {"stdout": "/dev/full"},
            "full stderr": {"stderr": "/dev/full"},
        }.items():
            yield Case(
                id=f"{what}, {name}",
                kind="surroundings",
                job=name,
                how=how,
                names=("stdout", "standard output"),
            )


def _limits() -> Iterator[Case]:
    for name in NAMES:
        # Smaller limits hold for what is printed as well.
        for size in (20_000, 50_000, 500_000, 1_400_000):
            yield Case(
                id=f"files of at most {size:,} bytes, {name}",
                kind="surroundings",
                job=name,
                perform=partial(_limited, limits={"FSIZE": size}),
            )
        for room in (1, 20, 60, 150, 400):
            yield Case(
                id=f"{room} MB of memory left, {name}",
                kind="surroundings",
                job=name,
                perform=partial(_short_of_memory, room=room * 2**20),
            )
        yield Case(
            id=f"12 open files, {name}",
            kind="surroundings",
            job=name,
            perform=partial(_limited, limits={"NOFILE": 12}),
        )


def _limited(warm: Warm, case: Case, job: Job, *, limits: dict[str, int]) -> Ended:
    """Run a command under limits, look at its message, and run it again without."""
    ended = warm.run(job.command, job.argv, timeout=45, limits=limits)
    first_failed(warm, case, job, ended, any_name=True)
    return rerun(warm, job)


def _short_of_memory(warm: Warm, case: Case, job: Job, *, room: int) -> Ended:
    pages = int(Path(f"/proc/{warm.server.pid}/statm").read_text().split()[0])
    used = pages * os.sysconf("SC_PAGE_SIZE")
    return _limited(warm, case, job, limits={"AS": used + room})


def _vanishing() -> Iterator[Case]:
    for name, moments in {
        "again full": (
            "outputs/full/fold_0/tb",
            "outputs/full/fold_0/done.json",
            "outputs/full/fold_1/tb",
            "outputs/full/oof.parquet",
        ),
        "again frozen": (
            "outputs/frozen/backbone.safetensors",
            "outputs/frozen/fold_0/done.json",
            "outputs/frozen/oof.parquet",
        ),
        "tta full": ("outputs/t2", "outputs/t2/oof.parquet"),
        "blend two": ("outputs/b2", "outputs/b2/oof.parquet", "outputs/b2/run.json"),
    }.items():
        for moment in moments:
            yield Case(
                id=f"its folder removed when {moment} is made, {name}",
                kind="surroundings",
                job=name,
                perform=partial(_removed, moment=moment, folder="/".join(moment.split("/")[:2])),
            )
        for share in (0.2, 0.5, 0.8):
            yield Case(
                id=f"its folder removed at {share} of its time, {name}",
                kind="surroundings",
                job=name,
                perform=partial(_removed, share=share, folder="/".join(moments[0].split("/")[:2])),
            )
    for name in ("again full", "again frozen", "tta full"):
        for size in (0, 1, 100):
            for share in (0.05, 0.15, 0.3, 0.5, 0.7):
                yield Case(
                    id=f"the cache cut to {size} bytes at {share} of its time, {name}",
                    kind="surroundings",
                    job=name,
                    perform=partial(_cut_cache, share=share, size=size),
                )


def _started(warm: Warm, case: Case, job: Job, share: float) -> int:
    references = case.references
    assert references is not None
    _, usual = references.of(case)
    references.fresh(references.base, warm.stage)
    pid = warm.start(job.command, job.argv, timeout=45)
    time.sleep(share * usual.seconds)
    return pid


def _removed(
    warm: Warm, case: Case, job: Job, *, folder: str, moment: str = "", share: float = 0.0
) -> Ended:
    """Remove the folder that a command writes when a file appears in it, or at a time."""
    again = job.argv
    if moment:
        if "again" in case.job:
            shutil.rmtree(warm.stage / folder)
        pid = warm.start(job.command, job.argv, timeout=45)
        until = time.monotonic() + 20
        while not (warm.stage / moment).exists() and time.monotonic() < until:
            time.sleep(0.001)
    else:
        pid = _started(warm, case, job, share)
    # A file that is made meanwhile would keep the folder.
    for _ in range(3):
        shutil.rmtree(warm.stage / folder, ignore_errors=True)
    first_failed(warm, case, job, warm.wait(pid), any_name=True)
    ended = warm.run(job.command, again, timeout=45)
    if ended.code:
        raise FaultError("not continued", ended.err.strip()[-300:])
    return ended


def _cut_cache(warm: Warm, case: Case, job: Job, *, share: float, size: int) -> Ended:
    pid = _started(warm, case, job, share)
    for file in (warm.stage / "cache").rglob("*"):
        if file.is_file() and file.stat().st_size > size:
            os.truncate(file, size)
    first_failed(warm, case, job, warm.wait(pid), any_name=True)
    return rerun(warm, job)
