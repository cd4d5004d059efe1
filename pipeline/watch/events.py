"""Files of events that TensorBoard reads, written without a thread of their own.

TensorBoard's own writer has one, in which a full disk ends as a traceback.
"""

from __future__ import annotations

import itertools
import os
import socket
import time
from pathlib import Path
from typing import Any, BinaryIO, cast

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter

from foldblend.files import write_all

__all__ = ["Events"]

VERSION = "brain.Event:2"


class Events:
    """A file of events; every call raises OSError if it cannot be written."""

    def __init__(self, folder: Path, purge_step: int) -> None:
        """Start a new file in a folder, which hides events of `purge_step` or later."""
        folder.mkdir(parents=True, exist_ok=True)
        self._file = _new_file(folder)
        self._records = RecordWriter(self)
        self._add(file_version=VERSION)
        self._add(step=purge_step, file_version=VERSION)
        self._add(step=purge_step, session_log=SessionLog(status=SessionLog.START))

    def _add(self, **parts: Any) -> None:
        self._records.write(Event(wall_time=time.time(), **parts).SerializeToString())

    def add(self, summary: Any, step: int = 0) -> None:
        """Add a summary at a step."""
        self._add(step=step, summary=summary)

    def write(self, data: bytes) -> None:
        """Write a record; it is with the system when this returns, and outlives the process."""
        write_all(self._file, data)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _new_file(folder: Path) -> BinaryIO:
    """Open a file of a new name, by which TensorBoard sorts the files of a folder."""
    start = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
    for number in itertools.count():
        try:
            # A buffer would be written, and fail, once more when the file is closed.
            return cast("BinaryIO", (folder / f"{start}.{number}").open("xb", buffering=0))
        except FileExistsError:
            continue
    raise AssertionError
