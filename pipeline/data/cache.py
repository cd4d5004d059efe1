"""Images decoded and resized once: equal records in one file, by content, for folds, epochs and
later runs.

A store is a folder for one kind of record (such as images at one size): `records`, the records
one after another, and `keys`, 16 bytes for each. Both only grow. Records are on the disk before
their keys, so a kill loses at most what was not yet listed, and the next fill goes on from there.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foldblend.errors import UserError
from foldblend.files import cache_folder, hold

__all__ = [
    "KEY_BYTES",
    "MEMORY_ONLY",
    "Records",
    "Store",
    "cache_root",
    "first_places",
    "in_threads",
    "known_keys",
    "write_records",
]

KEY_BYTES = 16
MEMORY_ONLY = ("off", "ram")  # kinds of --cache that keep nothing on disk
# what a kill can cost
FLUSH_BYTES = 2**26
FLUSH_SECONDS = 10.0
OF_FILES = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EIO,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.ENOLCK,
)
AHEAD = 32  # records in the making, for each thread


@dataclass
class Records:
    """Chosen records of a file, read through a memory map; a pickled copy opens the file anew."""

    path: Path
    shape: tuple[int, ...]
    dtype: str
    slot_N: np.ndarray
    """Where in the file each record lies."""

    def __post_init__(self) -> None:
        self._map: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_map": None}

    def __len__(self) -> int:
        return len(self.slot_N)

    def __getitem__(self, index: int) -> np.ndarray:
        return np.asarray(self.array[self.slot_N[index]])

    def take(self, index_M: np.ndarray | slice) -> np.ndarray:
        """Return a copy of the chosen records, M x shape."""
        return np.asarray(self.array[self.slot_N[index_M]])

    @property
    def array(self) -> np.ndarray:
        """All records of the file, read-only. Raises UserError where it has been removed."""
        if self._map is None:
            try:
                # The file may be growing, and end within a record.
                count = int(self.slot_N.max(initial=-1)) + 1
                self._map = np.memmap(self.path, self.dtype, "r", shape=(count, *self.shape))
            except (OSError, ValueError):
                raise UserError(
                    f"{self.path}: the cache was removed or cut while in use; run again"
                ) from None
        return self._map


def write_records(
    file: int,
    first: int,
    batches: Iterable[np.ndarray],
    *,
    size: int,
    progress: Callable[[int], object],
    flush: Callable[[int], object] = lambda _: None,
) -> int:
    """Write records (one or several an array) from slot `first` on and return how many there were.

    `flush` is told now and then how many there are so far, and always at the end.
    """
    count = flushed = 0
    since = time.monotonic()
    try:
        for batch in batches:
            data = np.ascontiguousarray(batch)
            num, rest = divmod(data.nbytes, size)
            assert not rest, (data.shape, data.dtype, size)
            _write_at(file, data.data.cast("B"), (first + count) * size)
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
    """Write all of the data: a disk that fills up takes a part of it without an error first."""
    while data:
        written = os.pwrite(file, data, offset)
        data = data[written:]
        offset = offset + written


def in_threads(
    make: Callable[[int], np.ndarray], todo: Sequence[int], *, workers: int
) -> Iterator[np.ndarray]:
    """Yield `make(i)` of all i in order, made in threads, a bounded number ahead."""
    with ThreadPoolExecutor(workers) as pool:
        ahead: collections.deque[Future[np.ndarray]] = collections.deque()
        for index in todo:
            ahead.append(pool.submit(make, index))
            if len(ahead) > AHEAD * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


@dataclass(frozen=True)
class Store:
    """A growing file of equal records, each found by its key."""

    folder: Path
    shape: tuple[int, ...]
    dtype: str

    @classmethod
    def at(cls, root: Path, shape: tuple[int, ...], dtype: str, policy: dict[str, Any]) -> Store:
        """Return the store under `root` of what `policy` (plain data) says all its records have in
        common.
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
        """Bytes of a record."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    def missing(self, keys: Sequence[bytes]) -> list[int]:
        """Return the positions of keys without a record, each key once."""
        known = {*self._keys()}
        return [index for key, index in first_places(keys).items() if key not in known]

    def records(self, keys: Sequence[bytes]) -> Records:
        """Return the records of keys that are all there."""
        slot_of = {key: slot for slot, key in enumerate(self._keys())}
        return Records(
            self.folder / "records",
            self.shape,
            self.dtype,
            np.array([slot_of[key] for key in keys]),
        )

    def fill(
        self,
        keys: Sequence[bytes],
        make: Callable[[list[int]], Iterable[np.ndarray]],
        *,
        progress: Callable[[int], object] = lambda _: None,
        wait: Callable[[], object] = lambda: None,
    ) -> None:
        """Make the records of keys that are missing: `make` yields those of the positions it is
        given.

        Only one process fills a store; another waits (`wait` is called before) and finds the work
        done. Raises UserError where the disk is full or the folder cannot be written.
        """
        if not self.missing(keys):  # so that a finished store may be read-only
            progress(len({*keys}))
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with hold(self.folder / "lock", wait=wait):
                self._append(keys, make, progress)
        except OSError as error:
            if error.errno not in OF_FILES:
                raise
            raise UserError(
                f"{self.folder}: the cache cannot be written ({error.strerror}); make room, or pass"
                " --cache-dir with another folder, or --cache off"
            ) from None

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

        def flush(count: int) -> None:
            nonlocal listed
            os.fsync(file)
            # At its place, not at the end: a flush that was interrupted comes again.
            _write_at(
                names,
                b"".join(keys[todo[index]] for index in range(listed, count)),
                (first + listed) * KEY_BYTES,
            )
            os.fsync(names)
            listed = count

        with contextlib.ExitStack() as stack:
            names, file = (
                os.open(self.folder / name, os.O_WRONLY | os.O_CREAT, 0o644)
                for name in ("keys", "records")
            )
            for one in (names, file):
                stack.callback(os.close, one)
            os.ftruncate(
                names, first * KEY_BYTES
            )  # keys cut short by a kill, or whose records are gone
            os.ftruncate(file, first * self.size)  # records that never got their key
            count = write_records(
                file, first, make(todo), size=self.size, progress=progress, flush=flush
            )
            assert count == len(todo), (count, len(todo))

    def _keys(self) -> list[bytes]:
        """Return the keys of the records that are there, in their order."""
        try:
            num_records = (self.folder / "records").stat().st_size // self.size
        except (FileNotFoundError, NotADirectoryError):
            return []
        return _read_keys(self.folder)[:num_records]


def _read_keys(folder: Path) -> list[bytes]:
    """Return the keys of a store in the order of its records; none where there is no store."""
    try:
        data = (folder / "keys").read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [
        data[start : start + KEY_BYTES] for start in range(0, len(data) - KEY_BYTES + 1, KEY_BYTES)
    ]


def first_places(keys: Sequence[bytes]) -> dict[bytes, int]:
    """Return where each key stands first, in that order."""
    places: dict[bytes, int] = {}
    for index, key in enumerate(keys):
        places.setdefault(key, index)
    return places


def cache_root(cache_dir: str | None) -> Path:
    """Return the folder of all that is kept; it can be made again, so it may be removed at any
    time.
    """
    return Path(cache_dir).expanduser() if cache_dir else cache_folder()


def known_keys(root: Path) -> frozenset[bytes]:
    """Return the keys of all stores under a folder."""
    return frozenset(key for file in root.glob("*/keys") for key in _read_keys(file.parent))
