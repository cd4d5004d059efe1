"""Journal of a prediction that is under way, from which an interrupted one continues.

It is a folder beside the file to write. Rows are appended block by block and every one has the same
size, so that what a killed process left is cut to whole blocks.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from filelock import Timeout

from foldblend.errors import UserError
from foldblend.failures import failed_write
from foldblend.files import open_in_place, write_all, write_bytes
from foldblend.locks import hold
from foldblend.reading import MOST_TEXT, read_bounded

__all__ = ["Journal"]

FLUSH_SECONDS = 5.0
CHUNK = 8192  # rows that are read at once
MOST_KEY = 1024  # bytes of a key


class Journal:
    """Rows of float32 numbers, one per image, and errors of images that were left out."""

    def __init__(self, folder: Path, key: str, *, width: int, block: int, resume: bool) -> None:
        """Open the journal of a prediction, or start it.

        Parameters
        ----------
        folder
            Where it is.
        key
            What identifies the prediction; a journal with another key is started again.
        width
            Numbers per row.
        block
            Rows per block.
        resume
            Whether rows that are there are kept.

        Raises
        ------
        UserError
            If another process has it open, or the folder cannot be written.
        """
        self.folder = folder
        self.width = width
        self.block = block
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._held = contextlib.ExitStack()
            self._held.enter_context(hold(folder / "lock"))
        except Timeout:
            raise UserError(
                f"{folder}: another process is predicting the same file; wait for it, or pass"
                " another --out"
            ) from None
        except OSError as error:
            raise UserError(
                f"{folder}: cannot be written ({error.strerror}); pass another --out"
            ) from None
        self.rows_file = folder / "rows"
        self.bad_file = folder / "bad"
        known = folder / "key"
        is_same = known.is_file() and read_bounded(known, most=MOST_KEY) == key.encode()
        if not (is_same and resume):
            self.rows_file.unlink(missing_ok=True)
            self.bad_file.unlink(missing_ok=True)
            write_bytes(known, key)
        self.done = self._cut()
        append = os.O_WRONLY | os.O_APPEND
        # Without a buffer, which would be written, and fail, when the file is closed.
        self._rows, self._bad = (
            cast("BinaryIO", os.fdopen(open_in_place(file, append), "ab", buffering=0))
            for file in (self.rows_file, self.bad_file)
        )
        self._flushed = time.monotonic()

    def _cut(self) -> int:
        """Cut the files to whole blocks, and return the number of rows."""
        size = 4 * self.width
        there = self.rows_file.stat().st_size // size if self.rows_file.is_file() else 0
        done = there // self.block * self.block
        if self.rows_file.is_file():
            handle = open_in_place(self.rows_file, os.O_WRONLY)
            os.ftruncate(handle, done * size)
            os.close(handle)
        bad = {index: why for index, why in self.bad().items() if index < done}
        lines = "".join(f"{json.dumps([index, why])}\n" for index, why in bad.items())
        write_bytes(self.bad_file, lines)
        return done

    def add(self, rows_NX: np.ndarray, bad: Mapping[int, str]) -> None:
        """Append the rows of a block, and the errors of images that have none."""
        data = np.ascontiguousarray(rows_NX, np.float32).tobytes()
        try:
            for index, why in bad.items():
                write_all(self._bad, f"{json.dumps([index, why])}\n".encode())
            write_all(self._rows, data)
            if time.monotonic() - self._flushed > FLUSH_SECONDS:
                os.fsync(self._bad.fileno())
                os.fsync(self._rows.fileno())
                self._flushed = time.monotonic()
        except OSError as error:
            raise failed_write(self.rows_file, error, needed=len(data)) or error from None
        self.done += len(rows_NX)

    def bad(self) -> dict[int, str]:
        """Return the images that were left out, by number, and why."""
        found: dict[int, str] = {}
        if not self.bad_file.is_file():
            return found
        for line in read_bounded(self.bad_file, most=MOST_TEXT).splitlines():
            try:
                index, why = json.loads(line)
                found[int(index)] = str(why)
            # A killed process left half a line.
            except (ValueError, TypeError, OverflowError, RecursionError):
                continue
        return found

    def chunks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the number of the first row and the rows N x width, some thousands at a time."""
        size = 4 * self.width * CHUNK
        with self.rows_file.open("rb") as file:
            first = 0
            while data := file.read(size):
                rows = np.frombuffer(data, np.float32).reshape(-1, self.width)
                yield first, rows
                first += len(rows)

    def close(self) -> None:
        """Close the files and release the lock; the journal stays."""
        self._rows.close()
        self._bad.close()
        self._held.close()

    def remove(self) -> None:
        """Remove the journal of a prediction that is written."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
