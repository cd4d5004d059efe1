"""Two of every pair of commands at once on the same folders."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.faults.jobs import JOBS, Job
from tests.faults.judge import Case
from tests.faults.system_calls import first_failed, rerun
from tests.faults.warm import Ended, Warm

__all__ = ["pair_cases"]

PAIRED = ("resume full", "again full", "tta full", "blend two", "report full", "predict full")
PAIRED = (*PAIRED, "export full", "board", "resume half", "again frozen", "blend config")


def pair_cases(_: Path) -> Iterator[Case]:
    """Yield two commands at once; then the first again, whose result must be right."""
    for number, one in enumerate(PAIRED):
        for other in PAIRED[number:]:
            for delay in (0.0, 0.4):
                yield Case(
                    id=f"{one} and {other}, {delay} apart",
                    kind="pairs",
                    job=one,
                    writes=JOBS[other].writes,
                    perform=partial(_pair, other=JOBS[other], delay=delay),
                    # A run that is finished in the meantime joins the leaderboard.
                    is_free="board" in (one, other) and "resume half" in (one, other),
                )


def _pair(warm: Warm, case: Case, job: Job, *, other: Job, delay: float) -> Ended:
    pids = [warm.start(job.command, job.argv, timeout=45)]
    time.sleep(delay)
    pids.append(warm.start(other.command, other.argv, timeout=45))
    # Both are asked for before either is judged.
    ended = [warm.wait(pid) for pid in reversed(pids)][::-1]
    for which, found in zip((job, other), ended, strict=True):
        first_failed(warm, case, which, found, any_name=True)
    for which in (other, job):
        last = rerun(warm, which)
    return last
