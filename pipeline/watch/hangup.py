"""A run that outlives its terminal."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from tqdm import tqdm

__all__ = ["hangup_held", "outlive_terminal"]


@contextlib.contextmanager
def outlive_terminal(log: Path) -> Iterator[Callable[[str], None]]:
    """Have a process whose terminal is closed (SIGHUP) go on, what it prints going to `log`; yields
    what prints a line.

    Nothing is changed where somebody else handles that signal already, such as nohup, nor outside
    the main thread.
    """
    hangup = getattr(signal, "SIGHUP", None)
    in_main = threading.current_thread() is threading.main_thread()
    if hangup is None or not in_main or signal.getsignal(hangup) is not signal.SIG_DFL:
        yield tqdm.write
        return

    def redirect(*_: object) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):  # a write to a terminal that has gone would fail
            os.dup2(handle, stream)
        os.close(handle)

    def say(line: str) -> None:
        try:
            tqdm.write(line)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            redirect()  # the terminal has gone, and its signal is still to come
            tqdm.write(line)

    signal.signal(hangup, redirect)
    try:
        yield say
    finally:
        signal.signal(hangup, signal.SIG_DFL)


@contextlib.contextmanager
def hangup_held() -> Iterator[None]:
    """Hold SIGHUP back from a process that is started, for as long as it takes to say that it
    ignores it.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
