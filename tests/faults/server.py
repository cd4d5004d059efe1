"""Fork commands from one process that has imported everything, since importing torch takes seconds.

    python server.py TREE

reads requests from stdin, one JSON object a line, and answers each with one line. It imports the
packages of the folder TREE and nothing of the folder in which this file is.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PACKAGES = ("foldblend", "reports", "folds", "ensemble", "tta", "pipeline")
# What commands import within functions.
IMPORTED_LATE = ("torch.utils.tensorboard", "sklearn.linear_model", "pyarrow.parquet")
# A child that prints without end must not fill the disk.
MOST_PRINTED = 20_000_000


PR_SET_CHILD_SUBREAPER = 36
STREAMS = (
    ("stdin", "r", "strict"),
    ("stdout", "w", "strict"),
    ("stderr", "w", "backslashreplace"),
)


def _import_tree(tree: Path) -> None:
    """Import all modules of a source tree, and check that they are of this tree."""
    sys.path[0] = str(tree)
    sys.path[:] = [str(tree), *[path for path in sys.path if path != str(tree)]]
    for package in PACKAGES:
        module = importlib.import_module(package)
        found = Path(str(module.__file__)).resolve()
        if tree not in found.parents:
            raise SystemExit(f"{package} is imported from {found}, not from {tree}")
        for file in sorted((tree / package).rglob("*.py")):
            name = ".".join(file.relative_to(tree).with_suffix("").parts)
            if not name.endswith(("__main__", "__init__")) and "onnx_" not in name:
                importlib.import_module(name)
    for name in IMPORTED_LATE:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def _be_child(request: dict[str, Any]) -> None:
    """Turn this forked process into the requested command."""
    os.setsid()
    closed = request.get("closed", [])
    for stream, fd in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        target = os.devnull if stream == "stdin" else request[stream]
        flags = os.O_RDONLY if stream == "stdin" else os.O_WRONLY | os.O_CREAT | os.O_APPEND
        opened = os.open(target, flags, 0o600)
        os.dup2(opened, fd)
        if opened != fd:
            os.close(opened)
        if stream in closed:
            os.close(fd)
    streams = [
        None if name in closed else os.fdopen(fd, mode, closefd=False, errors=errors)
        for fd, (name, mode, errors) in enumerate(STREAMS)
    ]
    sys.stdin, sys.stdout, sys.stderr = streams
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    for name, most in request.get("limits", {}).items():
        which = getattr(resource, f"RLIMIT_{name}")
        resource.setrlimit(which, (most, most))
    if "FSIZE" in request.get("limits", {}):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if request.get("uid"):
        _be_user(request["uid"])
    sys.argv = [f"{request['command']}.py", *request["argv"]]
    if request.get("stopped"):
        os.kill(os.getpid(), signal.SIGSTOP)


def _be_user(uid: int) -> None:
    """Take a user id, as of a container's user without an entry in /etc/passwd.

    Files are still opened as root, who may be the only one that can read the interpreter.
    """
    os.setresuid(uid, uid, 0)
    ctypes.CDLL(None).setfsuid(0)


def _run(request: dict[str, Any]) -> int:
    """Run the command as its script would; a traceback is printed as Python prints it."""
    from foldblend import commands

    try:
        return int(getattr(commands, request["command"])() or 0)
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        print(stop.code, file=sys.stderr)
        return 1
    except BaseException:
        if sys.stderr is not None:
            traceback.print_exc()
        return 1


def _flush(code: int) -> int:
    """Flush both streams as an interpreter does at its end, and return the exit code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            code = code or 120
    return code


def _fork(request: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        _be_child(request)
        code = _flush(_run(request))
        if "learn" in request:
            names = [name for name in sys.modules if not name.startswith("__")]
            Path(request["learn"]).write_text("\n".join(names))
    finally:
        # No clean-up of the parent's threads and files in a child.
        os._exit(code)


def _learn(file: Path) -> None:
    """Import what a child had imported when it ended, so that further ones need not."""
    for name in file.read_text().split():
        if name not in sys.modules and name.partition(".")[0] not in ("evil", "wandb"):
            with contextlib.suppress(Exception):
                importlib.import_module(name)


def _printed(request: dict[str, Any]) -> int:
    sizes = [Path(request[stream]) for stream in ("stdout", "stderr")]
    return sum(one.stat().st_size for one in sizes if one.is_file())


def _wait(pid: int, request: dict[str, Any], started: float) -> dict[str, Any]:
    """Wait for a child, kill its process group when its time is over, and say how it ended."""
    until = started + request["timeout"]
    is_late = False
    used = None
    # Short naps at first: most commands end within a second.
    nap = 0.002
    while True:
        ended, status, used = os.wait4(pid, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > until or _printed(request) > MOST_PRINTED:
            is_late = True
            os.killpg(pid, signal.SIGKILL)
            _, status, used = os.wait4(pid, 0)
            break
        time.sleep(nap)
        nap = min(0.05, nap * 1.2)
    # Workers of the command must not outlive it into the next case.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    return {
        "code": os.waitstatus_to_exitcode(status),
        "late": is_late,
        "seconds": round(time.monotonic() - started, 3),
        "peak_kb": used.ru_maxrss,
    }


def _end_orphans(running: Iterable[int]) -> None:
    """Kill what ended commands have left behind in sessions of their own."""
    found = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    for pid in {*map(int, found)} - {*running}:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def main() -> None:
    """Answer requests until stdin ends."""
    import torch

    tree = Path(sys.argv[1]).resolve()
    torch.set_num_threads(1)
    _import_tree(tree)
    # Orphans of commands become children of this process.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    answers = os.fdopen(os.dup(1), "w")
    # What a library prints here must not be taken for an answer.
    os.dup2(2, 1)
    running: dict[int, tuple[dict[str, Any], float]] = {}
    threads = len([*Path("/proc/self/task").iterdir()])
    print(json.dumps({"ready": str(tree), "threads": threads}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            started = running.pop(request["wait"])
            answer = _wait(request["wait"], *started)
            _end_orphans(running)
            if "learn" in started[0] and Path(started[0]["learn"]).is_file():
                _learn(Path(started[0]["learn"]))
        else:
            pid = _fork(request)
            running[pid] = (request, time.monotonic())
            answer = {"pid": pid}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
