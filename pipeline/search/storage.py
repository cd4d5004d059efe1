"""Storages of Optuna: a journal or a SQLite database, opened so that damage is one line."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import sqlite3
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from foldblend.errors import UserError, in_a_line, require
from foldblend.failures import failed_write
from foldblend.files import check_writable, exists, home, is_link
from foldblend.locks import hold

__all__ = [
    "StorageFailed",
    "lock_folder",
    "open_storage",
    "readable",
    "require_optuna",
    "storage_file",
    "storage_folder",
]

JOURNAL = "journal.log"
SQLITE = "sqlite:///"
DATABASES = (".db", ".sqlite", ".sqlite3")
# A journal of 10,000 trials has some 30 MB.
MOST_BYTES = 2**30
# Seconds in which another process has written a row of a database.
PATIENCE = 60.0
# The start of each line of a journal.
RECORD = b'{"op_code":'
# The start of a database.
DATABASE = b"SQLite format 3\0"
# The tables of Optuna's databases that are made first, before those that refer to them.
FIRST_TABLE = "studies"
SECOND_TABLE = "version_info"
ANOTHER = "pass another --storage or --study"


class StorageFailed(UserError):
    """A storage that cannot be read or written, which is no fault of a trial."""


def require_optuna() -> None:
    """Raise UserError if Optuna is not installed."""
    try:
        import optuna
    except ImportError:
        raise UserError(
            "tune.py: needs Optuna; pip install 'foldblend[search]' installs it"
        ) from None
    # Trials are told in our own lines.
    optuna.logging.set_verbosity(logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def storage_file(storage: str | None, folder: Path) -> Path:
    """Return the file of --storage, by default the journal in the folder of the study.

    Raises UserError for a storage that is neither a journal nor SQLite.
    """
    if storage is None:
        return folder / JOURNAL
    text = storage.removeprefix(SQLITE)
    cure = "pass a file such as outputs/journal.log, or sqlite:///outputs/study.db"
    require("://" not in text, f"--storage {storage}: is neither a journal nor SQLite; {cure}")
    require(bool(text), f"--storage {storage}: names no file; {cure}")
    return home(text)


def storage_folder(file: Path, folder: Path) -> Path:
    """Return the folder of the predictions of the trials in a storage.

    It is the folder of the study, and one in there for any storage but its journal, because trials
    of two storages have the same names.
    """
    if file.resolve() == (folder / JOURNAL).resolve():
        return folder
    # Both may be moved, or mounted elsewhere, together.
    name = os.fsencode(os.path.relpath(file.resolve(), folder.resolve()))
    return folder / f"storage_{hashlib.blake2b(name, digest_size=4).hexdigest()}"


def lock_folder(file: Path, study: str) -> Path:
    """Return the folder of the locks of a study, which lies beside its storage.

    Searches that write to different folders may share the storage.
    """
    resolved = file.resolve()
    return resolved.with_name(f".{resolved.name}.locks") / study


def _is_database(storage: str | None, file: Path) -> bool:
    return (storage or "").startswith(SQLITE) or file.suffix.lower() in DATABASES


class _JournalLock:
    """A lock of a journal that ends with its process.

    Optuna's own locks stay if a process is killed. Only the holder of the lock writes, so a last
    line without an end is of a process that was killed, and is removed: another one after it would
    make the journal unreadable.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.held = contextlib.ExitStack()

    def acquire(self) -> bool:
        lock = self.file.with_name(f".{self.file.name}.lock")
        self.held.enter_context(hold(lock, wait=lambda: None))
        _cut_last_line(self.file)
        return True

    def release(self) -> None:
        self.held.close()


def _cut_last_line(file: Path) -> None:
    """Remove the last line of a journal if it has no end."""
    with file.open("rb+") as opened:
        size = opened.seek(0, os.SEEK_END)
        end = size
        while end > 0:
            start = max(0, end - 2**16)
            opened.seek(start)
            place = opened.read(end - start).rfind(b"\n")
            if place >= 0:
                end = start + place + 1
                break
            end = start
        if end < size:
            opened.truncate(end)


@contextlib.contextmanager
def readable(file: Path) -> Iterator[None]:
    """Turn errors of Optuna and its libraries into one line that names the storage."""
    try:
        yield
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:
        text = _all_of(error)
        if "disk is full" in text:
            full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise failed_write(file, full) or full from None
        locked = "locked" in text
        why = (
            "another program has locked it"
            if locked
            else f"damaged, or no storage of Optuna: {in_a_line(error)}"
        )
        cure = "wait for it" if locked else "restore it, or pass another --study or --storage"
        raise StorageFailed(f"{file}: cannot be read ({why}); {cure}") from None


def _all_of(error: BaseException | None) -> str:
    """Return the texts of an error and of its causes, of which Optuna's names the least."""
    return "" if error is None else f"{error}\n{_all_of(error.__cause__)}".lower()


def open_storage(storage: str | None, file: Path) -> Any:
    """Return the storage of Optuna in a file, which is created if it is absent.

    Raises
    ------
    UserError
        If the file is damaged, is something else, or cannot be written. A file that is something
        else stays as it is.
    """
    check_writable(file.absolute().parent, flag="--storage" if storage else "--output")
    require(not is_link(file), f"{file}: is a link; remove it, or pass another --storage")
    if exists(file):
        about = file.stat()
        require(stat.S_ISREG(about.st_mode), f"{file}: is not a file; pass another --storage")
        require(
            about.st_size <= MOST_BYTES,
            f"{file}: has {about.st_size:,} bytes, and at most {MOST_BYTES:,} are read of a"
            " storage; pass another --study",
        )
    file.absolute().parent.mkdir(parents=True, exist_ok=True)
    with readable(file):
        if _is_database(storage, file):
            return _database(file)
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        _check_journal(file)
        lock: Any = _JournalLock(file)
        return JournalStorage(JournalFileBackend(str(file), lock_obj=lock))


def _start(file: Path, num: int) -> bytes:
    """Return the first bytes of a file, none if it is absent."""
    if not file.exists():
        return b""
    with file.open("rb") as opened:
        return opened.read(num)


def _check_journal(file: Path) -> None:
    """Raise UserError for a file that is no journal: its last line would be taken for a cut one.

    A process that was killed may have left a part of the first line.
    """
    is_one = RECORD.startswith(_start(file, len(RECORD)))
    require(is_one, f"{file}: is no journal of Optuna; {ANOTHER}")


def _check_database(file: Path) -> None:
    """Raise UserError for a database of something else, to which Optuna would add its tables."""
    start = _start(file, len(DATABASE))
    if not start:
        return
    require(start == DATABASE, f"{file}: is no database of SQLite; {ANOTHER}")
    # Reading alone could not undo the unfinished write of a process that was killed.
    path = f"{file.absolute().as_uri()}?mode=rw"
    with contextlib.closing(sqlite3.connect(path, uri=True, timeout=PATIENCE)) as opened:
        found = opened.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    tables = {name for (name,) in found}
    require(
        SECOND_TABLE in tables or tables <= {FIRST_TABLE},
        f"{file}: is a database of something else than Optuna; {ANOTHER}",
    )


def _database(file: Path) -> Any:
    from optuna.storages import RDBStorage

    # Two processes cannot create the tables at once.
    with hold(file.with_name(f".{file.name}.lock"), wait=lambda: None):
        _check_database(file)
        return RDBStorage(f"{SQLITE}{file}", engine_kwargs={"connect_args": {"timeout": PATIENCE}})
