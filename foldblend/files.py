"""Atomic file writes, lock files and the cache folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from foldblend.errors import UserError

__all__ = [
    "DRAFT",
    "cache_folder",
    "check_writable",
    "exists",
    "hold",
    "home",
    "is_file",
    "write_bytes",
    "write_with",
]

# Prefix of unfinished files, by which leftovers of a killed process are found and removed.
DRAFT = ".draft-"


def home(path: str | Path) -> Path:
    """Return a path with ~ replaced by the home folder.

    Raises UserError for the home folder of an unknown user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{path}: no such user; write the path without ~") from None


def exists(path: Path) -> bool:
    """Return whether a path exists; False for names that are too long or have a NUL byte.

    `Path.exists` and `Path.is_file` raise OSError or ValueError for these.
    """
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def is_file(path: Path) -> bool:
    """Return whether a path is a file; False for names that no file can have."""
    return exists(path) and path.is_file()


def check_writable(folder: Path, *, flag: str = "--output") -> None:
    """Raise UserError if no file can be written into a folder; leave the folder unchanged.

    Folders that had to be created for the check are removed again.
    """
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f"{DRAFT}{os.getpid()}"
        draft.touch()
        draft.unlink()
    except OSError as error:
        why = "it is a file" if isinstance(error, FileExistsError) else error.strerror
        raise UserError(f"{folder}: cannot be written ({why}); pass another {flag}") from None
    finally:
        for one in made:
            # The folder may be absent, or another process may use it by now.
            with contextlib.suppress(OSError):
                one.rmdir()


def write_with(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file atomically: `write` fills a temporary file, which then replaces `path`.

    The temporary file is in the same folder and is flushed to disk before it is moved.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{DRAFT}{os.getpid()}-{path.name}")
    try:
        draft.touch()
        mode = draft.stat().st_mode
        write(draft)
        # safetensors makes its files readable for the owner only.
        draft.chmod(mode)
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes | str) -> None:
    """Write a file atomically; text as UTF-8."""
    content = data.encode() if isinstance(data, str) else data
    write_with(path, lambda draft: draft.write_bytes(content))


def cache_folder() -> Path:
    """Return the cache folder: $FOLDBLEND_CACHE, or foldblend/ in the user's cache folder."""
    base = os.environ.get("FOLDBLEND_CACHE")
    if base:
        return Path(base).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "foldblend"


@contextlib.contextmanager
def hold(file: Path, *, wait: Callable[[], object] | None = None) -> Iterator[None]:
    """Hold an exclusive lock on a file; the lock ends with the process, the file stays.

    Parameters
    ----------
    file
        The lock file, which is created if it is absent.
    wait
        Called once if another process holds the lock, before waiting for it.

    Raises
    ------
    filelock.Timeout
        An OSError: another process holds the lock and `wait` is None.
    """
    # A soft lock would remain after the process is killed.
    lock = FileLock(file, fallback_to_soft=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if wait is None:
            raise
        wait()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
