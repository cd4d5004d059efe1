"""A run that outlives its terminal."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

__all__ = ["outlive_terminal"]


@contextlib.contextmanager
def outlive_terminal(log: Path) -> Iterator[None]:
    """Have a process whose terminal is closed (SIGHUP) go on, what it prints going to `log`.

    Nothing is changed where somebody else handles that signal already, such as nohup, nor outside the main thread.
    """
    hangup = getattr(signal, "SIGHUP", None)
    in_main = threading.current_thread() is threading.main_thread()
    if hangup is None or not in_main or signal.getsignal(hangup) is not signal.SIG_DFL:
        yield
        return

    def redirect(*_: object) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):  # a write to a terminal that has gone would fail
            os.dup2(handle, stream)
        os.close(handle)

    signal.signal(hangup, redirect)
    try:
        yield
    finally:
        signal.signal(hangup, signal.SIG_DFL)
