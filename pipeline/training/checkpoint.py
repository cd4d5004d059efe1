"""Checkpoints of a fold in training.

A checkpoint is written atomically, is only read back by a run with the same run key, and is loaded
with `weights_only`, so that a file cannot execute code.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from foldblend.errors import in_a_line, shown
from foldblend.files import exists, write_with
from foldblend.reading import read_bounded
from pipeline.tensors_file import load_tensors

__all__ = ["CHECKPOINT", "Checkpoints", "NoCheckpoints"]

CHECKPOINT = "last.ckpt"
# Raise this when the content of a checkpoint changes: older ones are then ignored.
FORMAT = 1
# torch's reader checks no checksum, so the file ends with one of our own.
MAGIC = b"checksum"
SUM_BYTES = 16
FOOTER_BYTES = len(MAGIC) + SUM_BYTES
MOST_CHECKPOINT = 2**40


class _Hashed:
    """A file that hashes what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.blake2b(digest_size=SUM_BYTES)
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def _write(draft: Path, payload: dict[str, Any]) -> None:
    """Write a checkpoint, with its checksum at the end and without a copy in memory."""
    with draft.open("wb") as file:
        hashed = _Hashed(file)
        try:
            torch.save(payload, hashed)  # type: ignore[arg-type]
        except RuntimeError:
            # torch does not say why the disk refused.
            if hashed.error is None:
                raise
            raise hashed.error from None
        file.write(MAGIC + hashed.digest.digest())


def _num_bytes(value: Any) -> int:
    """Return about how many bytes a checkpoint needs: those of its tensors."""
    if isinstance(value, torch.Tensor):
        return value.nbytes
    if isinstance(value, dict | list | tuple):
        return sum(map(_num_bytes, value.values() if isinstance(value, dict) else value))
    return 0


class Checkpoints:
    """A fold's last.ckpt, written at most once per `every` seconds during an epoch."""

    def __init__(self, folder: Path, run_key: dict[str, str], every: float) -> None:
        self.file = folder / CHECKPOINT
        self.run_key = run_key
        self.every = every
        self.saved = time.monotonic()
        self.problem: str | None = None
        """Why the file that is there cannot be read; None if there is none, or of another run."""

    def load(self) -> dict[str, Any] | None:
        """Return the saved state, or None without a readable checkpoint of this run."""
        self.problem = None
        if not exists(self.file):
            return None
        try:
            payload = load_tensors(io.BytesIO(self._content()))
            ours = payload["format"] == FORMAT and payload["run_key"] == self.run_key
            return dict(payload["state"]) if ours else None
        except Exception as error:
            # A damaged file may raise anything. The fold then starts from the beginning.
            self.problem = shown(in_a_line(error))
            return None

    def save(self, state: dict[str, Any] | None) -> None:
        """Write a checkpoint and replace the previous one atomically.

        None stands for a state that is not worth keeping: the previous one would end there again.
        """
        self.saved = time.monotonic()
        if state is None:
            self.remove()
            return
        payload = {"format": FORMAT, "run_key": self.run_key, "state": state}
        write_with(self.file, lambda draft: _write(draft, payload), needed=_num_bytes(payload))
        self.saved = time.monotonic()

    def _content(self) -> bytes:
        """Return the content of the file. Raises ValueError if it has changed since.

        The file of an earlier version has no checksum and is returned as it is.
        """
        data = read_bounded(self.file, most=MOST_CHECKPOINT)
        footer = data[-FOOTER_BYTES:]
        if footer.startswith(MAGIC):
            content = memoryview(data)[:-FOOTER_BYTES]
            if footer[len(MAGIC) :] != hashlib.blake2b(content, digest_size=SUM_BYTES).digest():
                raise ValueError(f"{self.file}: has changed")
        # torch's reader passes over what follows its own content, which saves a copy.
        return data

    def save_if_due(self, state: Callable[[], dict[str, Any] | None]) -> None:
        """Write a checkpoint if the last one is at least `every` seconds old."""
        if time.monotonic() - self.saved >= self.every:
            self.save(state())

    def remove(self) -> None:
        self.file.unlink(missing_ok=True)


class NoCheckpoints(Checkpoints):
    """Checkpoints of a process that trains a fold with others and writes nothing."""

    def load(self) -> dict[str, Any] | None:
        return None

    def save(self, state: dict[str, Any] | None) -> None:
        pass

    def save_if_due(self, state: Callable[[], dict[str, Any] | None]) -> None:
        pass

    def remove(self) -> None:
        pass
