"""Commands whose k-th system call kills them or fails, by strace."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from tests.faults.warm import Ended, Warm

__all__ = ["can_trace", "count_calls", "run_injected"]

TRACED = "write,openat,fsync,rename,ftruncate,pwrite64,unlink,mkdir,flock,renameat,rmdir,fallocate"


def can_trace() -> bool:
    """Return whether there is an strace that may trace processes that it did not start."""
    if shutil.which("strace") is None:
        return False
    sleeper = subprocess.Popen(["sleep", "10"])
    try:
        tracer = subprocess.Popen(
            ["strace", "-qq", "-p", str(sleeper.pid)],
            stderr=subprocess.DEVNULL,
        )
        is_traced = _wait_for_tracer(sleeper.pid, tracer)
        sleeper.kill()
        tracer.wait(timeout=10)
    finally:
        sleeper.kill()
        sleeper.wait()
    return is_traced


def _field(pid: int, name: str) -> str:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return line.split()[1]
    return ""


def _wait_for_tracer(pid: int, tracer: subprocess.Popen[bytes]) -> bool:
    until = time.monotonic() + 10
    while time.monotonic() < until and tracer.poll() is None:
        if _field(pid, "TracerPid") not in ("", "0"):
            return True
        time.sleep(0.002)
    return False


def _traced(
    warm: Warm, command: str, argv: Sequence[str], flags: Sequence[str], timeout: float
) -> Ended:
    """Run a command under strace: it stops itself before its first step until strace is there."""
    pid = warm.start(command, argv, timeout=timeout, stopped=True)
    while _field(pid, "State") not in ("T", "t"):
        time.sleep(0.002)
    tracer = subprocess.Popen(
        ["strace", "-f", "-qq", "-p", str(pid), *flags],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    attached = _wait_for_tracer(pid, tracer)
    os.kill(pid, signal.SIGCONT)
    ended = warm.wait(pid)
    if not attached:
        tracer.kill()
    tracer.wait(timeout=30)
    if not attached:
        raise SystemExit("strace could not be attached")
    return ended


def count_calls(warm: Warm, command: str, argv: Sequence[str]) -> dict[str, int]:
    """Run a command and return how often its main thread or others make each system call."""
    log = warm.logs / "calls"
    flags = ["-e", f"trace={TRACED}", "-o", str(log)]
    ended = _traced(warm, command, argv, flags, 120)
    if ended.code:
        raise SystemExit(f"under strace: {command} {' '.join(argv)}\n{ended.err[-2000:]}")
    counts: dict[tuple[str, str], int] = {}
    for line in log.read_text(errors="replace").splitlines():
        pid, _, rest = line.partition(" ")
        name = rest.strip().partition("(")[0]
        if name in TRACED.split(","):
            counts[pid, name] = counts.get((pid, name), 0) + 1
    log.unlink()
    # strace counts the calls of each thread apart.
    return {
        name: max((found for (_, of), found in counts.items() if of == name), default=0)
        for name in TRACED.split(",")
    }


def run_injected(
    warm: Warm, command: str, argv: Sequence[str], *, call: str, fault: str, when: str
) -> Ended:
    """Run a command of which a system call is changed, such as by signal=KILL or error=EIO."""
    flags = ["-e", f"trace={call}", "-e", f"inject={call}:{fault}:when={when}", "-o", "/dev/null"]
    return _traced(warm, command, argv, flags, 60)
