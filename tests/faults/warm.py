"""Start commands through a warm server (server.py) in a stage, and read what became of them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["Ended", "Warm"]

SERVER = Path(__file__).with_name("server.py")
MOST_KEPT = 200_000


@dataclass(frozen=True)
class Ended:
    """Hold how a command ended, and what it printed.

    A negative code is the signal that killed it.
    """

    code: int
    late: bool
    seconds: float
    peak_kb: int
    out: str
    err: str


def _head(file: Path) -> str:
    """Return what a stream got; endless output is cut."""
    if not file.is_file():
        return ""
    with file.open("rb") as opened:
        return opened.read(MOST_KEPT).decode(errors="surrogateescape")


class Warm:
    """A server that has imported a source tree, and the stage in which its commands run.

    Parameters
    ----------
    tree
        Source tree whose packages are imported.
    place
        Folder of this server alone: it holds the stage and the printed output.
    """

    def __init__(self, tree: Path, place: Path) -> None:
        self.tree = tree.resolve()
        self.stage = place.resolve() / "stage"
        self.logs = place.resolve() / "logs"
        self.marker = place.resolve() / "marker"
        self.logs.mkdir(parents=True, exist_ok=True)
        self.logs.chmod(0o777)
        environment = {
            **{name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ},
            "HOME": str(self.stage / "home"),
            "TMPDIR": str(self.stage / "tmp"),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            # Arrow's other pools start a thread, which a forked child does not have.
            "ARROW_DEFAULT_MEMORY_POOL": "system",
            "PYTHONDONTWRITEBYTECODE": "1",
            "FAULT_MARKER": str(self.marker),
            # Reading the font list takes a second wherever the home folder is new.
            "MPLCONFIGDIR": str(self.logs / "matplotlib"),
        }
        self.environment = environment
        started = {**environment, "HOME": str(self.logs), "TMPDIR": str(self.logs)}
        self.server = subprocess.Popen(
            [sys.executable, str(SERVER), str(self.tree)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=self.logs,
            env=started,
        )
        self.ready = self._answer()
        self.count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the server."""
        assert self.server.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.server.stdin.close()
        self.server.wait(timeout=60)

    def _answer(self) -> dict[str, Any]:
        assert self.server.stdout is not None
        line = self.server.stdout.readline()
        if not line:
            raise SystemExit(f"the server of {self.tree} has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.server.stdin is not None
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return self._answer()

    def start(
        self,
        command: str,
        argv: Sequence[str],
        *,
        timeout: float,
        env: Mapping[str, str | None] | None = None,
        **how: Any,
    ) -> int:
        """Fork a command, such as run_cv, and return its process id.

        `env` changes the environment (None: unset); `how` are further keys of the request: limits,
        closed, uid, stopped, stdout, stderr.
        """
        self.count += 1
        environment = {**self.environment, **(env or {})}
        request = {
            "command": command,
            "argv": list(argv),
            "cwd": str(self.stage),
            "env": {name: value for name, value in environment.items() if value is not None},
            "stdout": str(self.logs / f"{self.count}.out"),
            "stderr": str(self.logs / f"{self.count}.err"),
            "timeout": timeout,
            **how,
        }
        pid = int(self._ask(request)["pid"])
        self._files = {**getattr(self, "_files", {}), pid: (request["stdout"], request["stderr"])}
        return pid

    def kill(self, pid: int) -> None:
        """Kill a command and all processes that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)

    def wait(self, pid: int) -> Ended:
        """Wait for a command that was started."""
        answer = self._ask({"wait": pid})
        out, err = map(Path, self._files.pop(pid))
        ended = Ended(
            code=answer["code"],
            late=answer["late"],
            seconds=answer["seconds"],
            peak_kb=answer["peak_kb"],
            out=_head(out),
            err=_head(err),
        )
        for file in (out, err):
            if file.is_file():
                file.unlink()
        return ended

    def run(self, command: str, argv: Sequence[str], *, timeout: float = 60, **how: Any) -> Ended:
        """Fork a command, wait until it ends, and return how it ended."""
        return self.wait(self.start(command, argv, timeout=timeout, **how))
