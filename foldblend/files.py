"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from foldblend.errors import UserError

__all__ = ["DRAFT", "cache_folder", "check_writable", "hold", "write_bytes", "write_with"]

DRAFT = ".draft-"


def check_writable(folder: Path) -> None:
    """Raise UserError where no file could be written into a folder, which is left as it is, absent
    if it is.
    """
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f"{DRAFT}{os.getpid()}"
        draft.touch()
        draft.unlink()
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror}); pass another --output"
        ) from None
    finally:
        for one in made:
            with contextlib.suppress(OSError):  # absent, or by now somebody else's too
                one.rmdir()


def write_with(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a draft beside `path`, flush it to disk, and move it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{DRAFT}{os.getpid()}-{path.name}")
    try:
        draft.touch()
        mode = draft.stat().st_mode
        write(draft)
        draft.chmod(mode)  # safetensors lets nobody else read what it writes
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
    """Return the folder for files that can be made again: $FOLDBLEND_CACHE, or the user's cache."""
    base = os.environ.get("FOLDBLEND_CACHE")
    if base:
        return Path(base).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "foldblend"


@contextlib.contextmanager
def hold(file: Path, *, wait: Callable[[], object] | None = None) -> Iterator[None]:
    """Hold a lock file against other processes; a kill frees it, and the file stays.

    Where another process holds it, `wait` is called, and then it is waited for; without `wait`
    filelock's Timeout, an OSError, is raised at once.
    """
    lock = FileLock(file, fallback_to_soft=False)  # a soft lock would outlive a kill
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
