"""Commands that torchrun starts in several processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.makers.constants import ROOT

__all__ = ["children_of", "kill_all", "start_torchrun", "torchrun"]


def start_torchrun(num: int, *argv: object, **options: Any) -> subprocess.Popen[str]:
    """Start a script in `num` processes."""
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        + ["--nproc-per-node", str(num), *map(str, argv)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def torchrun(num: int, *argv: object) -> subprocess.CompletedProcess[str]:
    """Run a script in `num` processes to its end."""
    process = start_torchrun(num, *argv)
    try:
        out, err = process.communicate(timeout=600)
    except subprocess.TimeoutExpired:
        kill_all(process)
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def children_of(number: int) -> list[int]:
    """Return the numbers of the processes that a process has started."""
    tasks = Path(f"/proc/{number}/task").glob("*/children")
    return [int(child) for file in tasks for child in file.read_text().split()]


def kill_all(process: subprocess.Popen[str]) -> list[int]:
    """Kill torchrun and its processes at once, and return the numbers of the latter."""
    children = children_of(process.pid)
    for number in (process.pid, *children):
        os.kill(number, signal.SIGKILL)
    process.wait()
    return children
