"""Kills and errors at the k-th system call of every command, and disks that are full."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from tests.faults.jobs import Job
from tests.faults.judge import DRAFT, Case, FaultError, References, judge
from tests.faults.tracing import can_trace, count_calls, run_injected
from tests.faults.warm import Ended, Warm

__all__ = ["error_cases", "first_failed", "full_disk_cases", "kill_cases", "rerun"]

# Calls that change files, and how many places of each are tried.
KILLED = {"rename": 6, "write": 5, "fsync": 3, "unlink": 4, "mkdir": 3, "openat": 4, "rmdir": 1}
KILLED |= {"ftruncate": 1, "renameat": 1}
JOBS = (
    "resume half",
    "again full",
    "again frozen",
    "tta full",
    "tta frozen",
    "blend two",
    "blend config",
    "predict both",
    "export full",
    "report both",
    "board",
    "audit",
    "resume full",
)
FAILED = {
    "fsync": ("EIO", "ENOSPC", "EDQUOT"),
    "rename": ("ENOSPC", "EDQUOT", "EIO"),
    "write": ("ENOSPC", "EIO", "EDQUOT", "EFBIG"),
    "mkdir": ("ENOSPC", "EDQUOT"),
    "ftruncate": ("ENOSPC", "EFBIG"),
    "unlink": ("EIO",),
    "flock": ("ENOLCK", "EIO"),
}
FREE_BYTES = (0, 4096, 20_480, 65_536, 262_144, 1_048_576, 2_097_152)
# Numbers of calls by tree and job, counted when they are first needed.
counted: dict[tuple[Path, str], dict[str, int]] = {}


def _again(job: Job) -> tuple[str, ...]:
    """Return the command line that follows a kill or an error."""
    # A file that is there is not replaced unasked, and the command may have written it whole.
    return (*job.argv, "--overwrite") if job.command in ("export_model", "predict") else job.argv


def _place(warm: Warm, case: Case, job: Job, base: Path, call: str, share: float) -> int:
    key = (warm.tree, case.job)
    if key not in counted:
        counted[key] = count_calls(warm, job.command, job.argv)
        References.fresh(base, warm.stage)
    return 1 + int(share * counted[key][call])


def _killed(
    warm: Warm, case: Case, job: Job, *, base: Path, call: str, share: float, twice: bool
) -> Ended:
    """Kill a command at a call, once or twice, and run it again."""
    place = _place(warm, case, job, base, call, share)
    for at in (place, max(1, place // 2)) if twice else (place,):
        argv = job.argv if at == place else _again(job)
        run_injected(warm, job.command, argv, call=call, fault="signal=KILL", when=str(at))
    return rerun(warm, job)


def rerun(warm: Warm, job: Job) -> Ended:
    ended = warm.run(job.command, _again(job), timeout=60)
    if ended.code:
        last = (ended.err.strip().splitlines() or [""])[-1]
        raise FaultError("not continued", f"the same command ended with {ended.code}: {last[:300]}")
    return ended


def kill_cases(base: Path) -> Iterator[Case]:
    """Yield kills; after each, the same command must finish with the same result."""
    if not can_trace():
        return
    for job in JOBS:
        for call, places in KILLED.items():
            for number in range(places):
                share = (number + 0.5) / places
                for twice in (False, True) if call == "rename" and number % 2 else (False,):
                    yield Case(
                        id=f"{job}: killed {'twice ' if twice else ''}at {share:.2f} of {call}",
                        kind="kills",
                        job=job,
                        perform=partial(_killed, base=base, call=call, share=share, twice=twice),
                        is_swept=True,
                    )


def first_failed(warm: Warm, case: Case, job: Job, ended: Ended, *, any_name: bool = False) -> None:
    """Raise FaultError unless a command that met an error ended as it should."""
    references = case.references
    assert references is not None
    names = (*[Path(one).name for one in job.writes], *job.writes, "stdout", "standard output")
    asked = replace(case, names=() if any_name else names, is_free=True)
    outcome, line = judge(asked, replace(job, is_many=False), ended, warm, references)
    if outcome == "one line" and DRAFT in line:
        outcome = "bad message"
        line = f"it names a draft: {line}"
    if outcome not in ("one line", "right"):
        raise FaultError(outcome, line)


def _failed(
    warm: Warm, case: Case, job: Job, *, base: Path, call: str, error: str, share: float, on: bool
) -> Ended:
    """Let a call fail, once or from then on, look at the message, and run the command again."""
    place = _place(warm, case, job, base, call, share)
    when = f"{place}+" if on else str(place)
    ended = run_injected(warm, job.command, job.argv, call=call, fault=f"error={error}", when=when)
    first_failed(warm, case, job, ended)
    return rerun(warm, job)


def error_cases(base: Path) -> Iterator[Case]:
    """Yield failing system calls; those of writing fail once, since messages are written too."""
    if not can_trace():
        return
    for job in JOBS:
        for call, errors in FAILED.items():
            for error in errors:
                for share in (0.1, 0.5, 0.9):
                    on = call != "write" and share == 0.5
                    yield Case(
                        id=f"{job}: {error} at {share} of {call}{' and on' if on else ''}",
                        kind="errors",
                        job=job,
                        perform=partial(
                            _failed, base=base, call=call, error=error, share=share, on=on
                        ),
                        is_swept=True,
                    )


def can_mount(folder: Path) -> bool:
    """Return whether a file system of a few megabytes can be mounted here."""
    if os.geteuid() or shutil.which("mount") is None:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if done.returncode == 0:
        subprocess.run(["umount", str(folder)], check=True)
    return done.returncode == 0


def _on_full_disk(warm: Warm, case: Case, job: Job, *, where: str, free: int) -> Ended:
    """Run a command with a part of the stage on a disk with so many bytes free, then with room."""
    folder = warm.stage / where
    kept = warm.stage.parent / "kept"
    shutil.rmtree(kept, ignore_errors=True)
    shutil.move(folder, kept)
    folder.mkdir()
    size = "size=256m"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], check=True)
    try:
        shutil.copytree(kept, folder, symlinks=True, dirs_exist_ok=True)
        used = sum(
            -(-file.stat().st_size // 4096) * 4096 for file in folder.rglob("*") if file.is_file()
        )
        _resize(folder, used + free)
        first_failed(warm, case, job, warm.run(job.command, job.argv, timeout=45))
        _resize(folder, 256 * 2**20)
        ended = rerun(warm, job)
        shutil.rmtree(kept)
        shutil.copytree(folder, kept, symlinks=True)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
        shutil.rmtree(folder)
        shutil.move(kept, folder)
    return ended


def _resize(folder: Path, size: int) -> None:
    options = f"remount,size={max(4096, size)}"
    subprocess.run(["mount", "-o", options, str(folder)], check=True)


def full_disk_cases(base: Path) -> Iterator[Case]:
    """Yield commands on a disk with little room, which is made larger for the rerun."""
    if not can_mount(base.parent / "mounted"):
        return
    for job in JOBS:
        where = ("outputs", "cache") if "full" in job or "frozen" in job else ("outputs",)
        if job.startswith(("predict", "export", "board", "audit")):
            continue
        for place in where:
            for free in FREE_BYTES:
                yield Case(
                    id=f"{job}: {free:,} bytes free in {place}",
                    kind="full disks",
                    job=job,
                    perform=partial(_on_full_disk, where=place, free=free),
                    is_swept=True,
                )
