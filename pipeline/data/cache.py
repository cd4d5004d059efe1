"""Disk cache of equally sized records, such as decoded images, shared by folds, epochs and runs.

A store is a folder for one kind of record (such as images at one size). Its file `records` has the
records one after another, its file `keys` the 16-byte key of each, a hash of the content, and its
file `sums` the checksum of each. All three only grow. Records and checksums are written to disk
before their keys: a killed process loses at most the records without a key, and the next fill
continues from there. Stores of earlier versions have no checksums; records get one when they are
read.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foldblend.errors import UserError
from foldblend.files import cache_folder, check_no_link, exists, home, open_in_place
from foldblend.locks import hold
from foldblend.reading import read_bounded
from pipeline.data.records import KEY_BYTES, SUM_BYTES, Records, checksum

__all__ = [
    "MEMORY_ONLY",
    "CacheFailed",
    "Store",
    "cache_root",
    "first_places",
    "known_keys",
    "write_records",
]

# Values of --cache that write nothing to disk.
MEMORY_ONLY = ("off", "ram")
# Records are flushed after so many bytes or seconds, so a killed process loses no more than these.
FLUSH_BYTES = 2**26
FLUSH_SECONDS = 10.0
# Bytes of the keys of a store: those of 268 million records.
MOST_KEYS = 2**32
# Errors whose cause is the disk or the folder, which a user can fix.
DISK_ERRORS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EACCES,
    errno.EPERM,
    errno.ENOENT,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ESTALE,
    errno.EROFS,
    errno.EIO,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ENOLCK,
)


class CacheFailed(UserError):
    """A cache that cannot be written, which a run can do without."""

    def __init__(self, folder: Path | str, why: str | None = None) -> None:
        self.what = f"{folder}: the cache cannot be written ({why})"
        # Exceptions are rebuilt from their message alone when they come from another process.
        super().__init__(
            f"{self.what}; free some space, or pass --cache-dir with another folder, or --cache off"
            if why is not None
            else folder
        )


def write_records(
    file: int,
    first: int,
    batches: Iterable[np.ndarray],
    *,
    size: int,
    progress: Callable[[int], object],
    flush: Callable[[int], object] = lambda _: None,
    seen: Callable[[memoryview], object] = lambda _: None,
) -> int:
    """Write records to an open file and return their number.

    Parameters
    ----------
    file
        File descriptor.
    first
        Position of the first record that is written, in records.
    batches
        Arrays of one or several records each.
    size
        Bytes of a record.
    progress
        Called with the number of records of each batch.
    flush
        Called from time to time, and at the end, with the number of records written so far.
    seen
        Called with the bytes of each record, in their order.
    """
    count = flushed = 0
    since = time.monotonic()
    try:
        for batch in batches:
            data = np.ascontiguousarray(batch)
            num, rest = divmod(data.nbytes, size)
            assert not rest, (data.shape, data.dtype, size)
            content = data.data.cast("B")
            for start in range(0, num * size, size):
                seen(content[start : start + size])
            _write_at(file, content, (first + count) * size)
            count += num
            progress(num)
            if (count - flushed) * size >= FLUSH_BYTES or time.monotonic() - since > FLUSH_SECONDS:
                flush(count)
                flushed = count
                since = time.monotonic()
    finally:
        flush(count)
    return count


def _write_at(file: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of the data, since a disk that fills up accepts a part of it without an error."""
    while data:
        written = os.pwrite(file, data, offset)
        data = data[written:]
        offset = offset + written


@dataclass(frozen=True)
class Store:
    """Growing file of equally sized records, each found by its key."""

    folder: Path
    shape: tuple[int, ...]
    dtype: str

    @classmethod
    def at(cls, root: Path, shape: tuple[int, ...], dtype: str, policy: dict[str, Any]) -> Store:
        """Return the store under `root` for records of one shape, type and `policy`.

        `policy` is plain data on how the records were made. Its hash is in the folder's name, so
        records that were made differently are in separate stores.
        """
        text = json.dumps([policy, shape, dtype], sort_keys=True)
        name = (
            "x".join(map(str, shape))
            + "-"
            + hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
        )
        return cls(root / name, shape, dtype)

    @property
    def size(self) -> int:
        """Number of bytes of a record."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    def missing(self, keys: Sequence[bytes]) -> list[int]:
        """Return the positions of the keys that have no record, each key once."""
        known = {*self._keys()}
        return [index for key, index in first_places(keys).items() if key not in known]

    def records(self, keys: Sequence[bytes]) -> Records:
        """Return the records of keys, all of which must have one."""
        known = self._keys()
        slot_of = {key: slot for slot, key in enumerate(known)}
        try:
            slot_N = np.array([slot_of[key] for key in keys], dtype=np.int64)
        except KeyError:
            raise UserError(
                f"{self.folder}: the cache was removed or truncated while in use; run again"
            ) from None
        sum_N = _read_sums(self.folder, len(known))[slot_N]
        return Records(self.folder / "records", self.shape, self.dtype, slot_N, sum_N)

    def fill(
        self,
        keys: Sequence[bytes],
        make: Callable[[list[int]], Iterable[np.ndarray]],
        *,
        progress: Callable[[int], object] = lambda _: None,
        wait: Callable[[], object] = lambda: None,
    ) -> None:
        """Make the missing records of `keys`.

        Only one process at a time fills a store. Another one waits and then finds the records.

        Parameters
        ----------
        keys
            Keys of the records that are needed.
        make
            Returns the records at a list of positions in `keys`, in its order.
        progress
            Called with the number of records that became available.
        wait
            Called before this process waits for another one.

        Raises
        ------
        CacheFailed
            If the disk is full or the folder cannot be written.
        """
        check_no_link(self.folder, self.folder.parent)
        # A complete store is not locked, so that it may be on a read-only disk.
        if not self.missing(keys):
            progress(len({*keys}))
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with hold(self.folder / "lock", wait=wait):
                self._append(keys, make, progress)
        except OSError as error:
            if error.errno not in DISK_ERRORS:
                raise
            raise CacheFailed(self.folder, error.strerror) from None

    def _append(
        self,
        keys: Sequence[bytes],
        make: Callable[[list[int]], Iterable[np.ndarray]],
        progress: Callable[[int], object],
    ) -> None:
        todo = self.missing(keys)
        progress(len({*keys}) - len(todo))
        if not todo:
            return
        first = len(self._keys())
        listed = 0
        found: list[int] = []

        def flush(count: int) -> None:
            nonlocal listed
            os.fsync(file)
            new = np.array(found[listed:count], "<u8")
            _write_at(sums, new.tobytes(), (first + listed) * SUM_BYTES)
            os.fsync(sums)
            # Write at the keys' place, not at the end: an interrupted flush is repeated.
            _write_at(
                names,
                b"".join(keys[todo[index]] for index in range(listed, count)),
                (first + listed) * KEY_BYTES,
            )
            os.fsync(names)
            listed = count

        with contextlib.ExitStack() as stack:
            names, file, sums = (self._opened(stack, name) for name in ("keys", "records", "sums"))
            # Remove incomplete keys, keys without a record and records without a key, which a
            # killed process left.
            os.ftruncate(names, first * KEY_BYTES)
            os.ftruncate(file, first * self.size)
            os.ftruncate(sums, first * SUM_BYTES)
            count = write_records(
                file,
                first,
                make(todo),
                size=self.size,
                progress=progress,
                flush=flush,
                seen=lambda data: found.append(checksum(data)),
            )
            assert count == len(todo), (count, len(todo))

    def _opened(self, stack: contextlib.ExitStack, name: str) -> int:
        file = open_in_place(self.folder / name, os.O_WRONLY)
        stack.callback(os.close, file)
        return file

    def _keys(self) -> list[bytes]:
        """Return the keys of the complete records, in the order of the file."""
        try:
            num_records = (self.folder / "records").stat().st_size // self.size
        except (FileNotFoundError, NotADirectoryError):
            return []
        return _read_keys(self.folder)[:num_records]


def _read_keys(folder: Path) -> list[bytes]:
    """Return the keys of a store in the order of its records; none if there is no store."""
    data = _read(folder / "keys")
    return [
        data[start : start + KEY_BYTES] for start in range(0, len(data) - KEY_BYTES + 1, KEY_BYTES)
    ]


def _read_sums(folder: Path, count: int) -> np.ndarray:
    """Return the checksums of a store's records, 0 where a record has none."""
    data = _read(folder / "sums")
    sum_N = np.zeros(count, np.uint64)
    known_N = np.frombuffer(data, "<u8", count=min(len(data) // SUM_BYTES, count))
    sum_N[: len(known_N)] = known_N
    return sum_N


def _read(file: Path) -> bytes:
    if not exists(file):
        return b""
    return read_bounded(file, most=MOST_KEYS, cure="remove it, or pass another --cache-dir")


def first_places(keys: Sequence[bytes]) -> dict[bytes, int]:
    """Return the first position of each distinct key, in that order.

    Examples
    --------
    >>> first_places([b"a", b"b", b"a"])
    {b'a': 0, b'b': 1}
    """
    places: dict[bytes, int] = {}
    for index, key in enumerate(keys):
        places.setdefault(key, index)
    return places


def cache_root(cache_dir: str | None) -> Path:
    """Return the cache folder: --cache-dir, or the default.

    Everything in it can be made again, so a user may delete it at any time.
    """
    return home(cache_dir) if cache_dir else cache_folder()


def known_keys(root: Path) -> frozenset[bytes]:
    """Return the keys of all stores under a folder; those that cannot be read are left out."""
    found: set[bytes] = set()
    for file in root.glob("*/keys"):
        with contextlib.suppress(UserError):
            found.update(_read_keys(file.parent))
    return frozenset(found)
