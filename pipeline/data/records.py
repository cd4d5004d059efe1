"""Reading of cached records: each is checked against its checksum when it is first read."""

from __future__ import annotations

import contextlib
import os
import stat
import weakref
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foldblend.errors import UserError
from foldblend.files import open_in_place

__all__ = ["KEY_BYTES", "SUM_BYTES", "Records", "checksum"]

KEY_BYTES = 16
SUM_BYTES = 8
# Added to the checksum of 32 bits, so that 0 stands for a record without one.
HAS_SUM = 2**32


def checksum(data: bytes | memoryview) -> int:
    """Return the checksum of a record, which is never 0; it finds every change of a few bits."""
    return HAS_SUM | zlib.crc32(data)


@dataclass
class Records:
    """Selected records of a file.

    They are read with `pread`, and not through a memory map, which would end the process if the
    file were cut meanwhile. A pickled copy opens the file again.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: str
    slot_N: np.ndarray
    """Position of each record in the file, in records."""
    sum_N: np.ndarray | None = None
    """Checksum of each record, 0 where it is unknown; None: the records are not checked."""

    def __post_init__(self) -> None:
        self._file: int | None = None
        self._sums: int | None = None
        self._checked_N = np.zeros(len(self.slot_N), bool)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None, "_sums": None}

    def __len__(self) -> int:
        return len(self.slot_N)

    def __getitem__(self, index: int) -> np.ndarray:
        """Return a copy of a record. Raises UserError if it is damaged or the file is cut."""
        found = np.empty(self.shape, self.dtype)
        data = found.data.cast("B")
        self._read(data, int(self.slot_N[index]) * found.nbytes)
        if self.sum_N is not None and not self._checked_N[index]:
            self._check(index, data)
        return found

    def select(self, rows: np.ndarray) -> Records:
        """Return the records at some rows."""
        sum_N = None if self.sum_N is None else self.sum_N[rows]
        return Records(self.path, self.shape, self.dtype, self.slot_N[rows], sum_N)

    def take(self, rows: np.ndarray | slice) -> np.ndarray:
        """Return a copy of the records at `rows`, number of rows x shape.

        Raises
        ------
        UserError
            If the file was removed or cut, or a record is damaged.
        """
        row_R = np.arange(len(self.slot_N))[rows]
        slot_R = self.slot_N[row_R]
        found = np.empty((len(row_R), *self.shape), self.dtype)
        if not len(row_R):
            return found
        data = found.data.cast("B")
        size = found[0].nbytes
        # Neighbours in the file are read together.
        starts = np.flatnonzero(np.diff(slot_R, prepend=-2) != 1).tolist()
        for start, end in zip(starts, [*starts[1:], len(row_R)], strict=True):
            self._read(data[start * size : end * size], int(slot_R[start]) * size)
        if self.sum_N is not None:
            for place in np.flatnonzero(~self._checked_N[row_R]).tolist():
                self._check(int(row_R[place]), data[place * size : (place + 1) * size])
        return found

    def _read(self, left: memoryview, offset: int) -> None:
        """Fill a piece of memory with the bytes of the file from an offset on."""
        try:
            while left:
                num = os.preadv(self._opened(), [left], offset)
                if not num:
                    raise OSError
                left = left[num:]
                offset += num
        except OSError:
            raise UserError(
                f"{self.path}: the cache was removed or truncated while in use; run again"
            ) from None

    def _opened(self) -> int:
        if self._file is None:
            file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            weakref.finalize(self, os.close, file)
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise OSError
            self._file = file
        return self._file

    def _check(self, row: int, data: memoryview) -> None:
        """Compare a record with its checksum, which it gets now if it has none."""
        assert self.sum_N is not None
        now = checksum(data)
        if self.sum_N[row] == 0:
            self._keep_sum(int(self.slot_N[row]), now)
        elif self.sum_N[row] != now:
            self._forget(int(self.slot_N[row]))
            raise UserError(
                f"{self.path}: record {self.slot_N[row]} of the cache is damaged; run the same"
                f" command again to make it anew, or remove {self.path.parent}"
            )
        self._checked_N[row] = True

    def _keep_sum(self, slot: int, value: int) -> None:
        # A cache that cannot be written may still be read. Another process may fill it meanwhile.
        with contextlib.suppress(OSError, UserError):
            if self._sums is None:
                sums = self.path.with_name("sums")
                self._sums = open_in_place(sums, os.O_WRONLY, copy=False)
                weakref.finalize(self, os.close, self._sums)
            os.pwrite(self._sums, value.to_bytes(SUM_BYTES, "little"), slot * SUM_BYTES)

    def _forget(self, slot: int) -> None:
        """Remove the key of a damaged record, so that the next fill makes the record again."""
        with contextlib.suppress(OSError, UserError):
            keys = open_in_place(self.path.with_name("keys"), os.O_WRONLY, copy=False)
            os.pwrite(keys, bytes(KEY_BYTES), slot * KEY_BYTES)
            os.close(keys)
