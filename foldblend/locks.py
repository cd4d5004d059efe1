"""Locks of files, which end with the process that holds them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from foldblend.errors import UserError

__all__ = ["hold", "is_held"]


@contextlib.contextmanager
def hold(
    file: Path, *, wait: Callable[[], object] | None = None, patience: float = 0
) -> Iterator[None]:
    """Hold an exclusive lock on a file; the lock ends with the process, the file stays.

    Parameters
    ----------
    file
        The lock file, which is created if it is absent. What else stands in its place, such as a
        link or a file with further names, is removed first, except a folder.
    wait
        Called once if another process holds the lock, before waiting for it.
    patience
        Seconds to wait before the lock counts as held: `is_held` may hold it for a moment.

    Raises
    ------
    filelock.Timeout
        An OSError: another process holds the lock and `wait` is None.
    OSError
        If the file cannot be opened or locked.
    UserError
        If a folder stands in the file's place.
    """
    with _named(file):
        _make_way(file)
    # A soft lock would remain after the process is killed.
    lock = FileLock(file, fallback_to_soft=False)
    try:
        with _named(file):
            lock.acquire(timeout=patience, poll_interval=0.01)
    except Timeout:
        if wait is None:
            raise
        wait()
        with _named(file):
            lock.acquire()
    try:
        yield
    finally:
        with _named(file):
            lock.release()


def is_held(file: Path) -> bool:
    """Return whether a process holds the lock of a file; nothing is written or created.

    The lock is shared for some microseconds, so two processes that look see the same.
    """
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return False
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return False
        # The same call as filelock's, which locks exclusively.
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except OSError as error:
        return error.errno in (errno.EWOULDBLOCK, errno.EACCES)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _named(file: Path) -> Iterator[None]:
    """Give the errors of a lock its file, which those of `flock` lack."""
    try:
        yield
    except Timeout:
        raise
    except OSError as error:
        lacks = error.errno in (errno.ENOSYS, errno.EOPNOTSUPP)
        number = errno.ENOLCK if lacks else error.errno or errno.EIO
        raise OSError(number, os.strerror(number), str(file)) from None


def _make_way(file: Path) -> None:
    """Remove what stands in the place of a lock file but is none."""
    try:
        about = file.lstat()
    except OSError:  # absent, or the lock says what is wrong
        return
    if stat.S_ISDIR(about.st_mode):
        raise UserError(f"{file}: a folder stands in its place; remove it")
    if not stat.S_ISREG(about.st_mode):
        file.unlink(missing_ok=True)
    elif about.st_nlink > 1:
        # A backup by hard links gives a lock further names. While it is held, it stays.
        with contextlib.suppress(Timeout), FileLock(file, timeout=0, fallback_to_soft=False):
            file.unlink(missing_ok=True)
