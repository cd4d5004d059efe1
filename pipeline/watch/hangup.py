"""Keep a run going when its terminal is closed (SIGHUP)."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from foldblend.errors import UserError
from foldblend.files import open_in_place
from foldblend.progress import forget_terminal, write

__all__ = ["hangup_held", "outlive_terminal"]


@contextlib.contextmanager
def outlive_terminal(log: Path) -> Iterator[Callable[[str], None]]:
    """Let this process continue when its terminal is closed, and print to a file from then on.

    Nothing changes outside the main thread, or if the signal is already handled or ignored, as
    under nohup.

    Parameters
    ----------
    log
        The file that receives the output after the terminal is closed.

    Yields
    ------
    Callable
        A function that prints one line.
    """
    hangup = getattr(signal, "SIGHUP", None)
    in_main = threading.current_thread() is threading.main_thread()
    if hangup is None or not in_main or signal.getsignal(hangup) is not signal.SIG_DFL:
        yield write
        return

    def redirect(*_: object) -> None:
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            handle = open_in_place(log, os.O_WRONLY | os.O_APPEND)
        except (OSError, UserError):
            # The run is worth more than its lines.
            handle = os.open(os.devnull, os.O_WRONLY)
        # Writing to a closed terminal would fail, so both output streams are replaced.
        for stream in (1, 2):
            os.dup2(handle, stream)
        os.close(handle)
        forget_terminal()

    def say(line: str) -> None:
        try:
            write(line)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            # The terminal is closed, and the signal has not arrived yet.
            redirect()
            write(line)

    signal.signal(hangup, redirect)
    try:
        yield say
    finally:
        signal.signal(hangup, signal.SIG_DFL)


@contextlib.contextmanager
def hangup_held() -> Iterator[None]:
    """Block SIGHUP while a child process starts, until the child ignores it itself."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
