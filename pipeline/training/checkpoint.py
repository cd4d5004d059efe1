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
from typing import Any

import torch

from foldblend.errors import in_a_line, shown
from foldblend.files import exists, write_bytes
from foldblend.reading import read_bounded

__all__ = ["CHECKPOINT", "Checkpoints"]

CHECKPOINT = "last.ckpt"
# Raise this when the content of a checkpoint changes: older ones are then ignored.
FORMAT = 1


# torch's reader checks no checksum, so the file ends with one of our own.
MAGIC = b"checksum"
SUM_BYTES = 16
FOOTER_BYTES = len(MAGIC) + SUM_BYTES
MOST_BYTES = 2**40


def _footer(content: memoryview) -> bytes:
    """Return what follows the content that torch wrote."""
    return MAGIC + hashlib.blake2b(content, digest_size=SUM_BYTES).digest()


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
            payload = torch.load(io.BytesIO(self._content()), map_location="cpu", weights_only=True)
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
        content = io.BytesIO()
        torch.save(payload, content)
        footer = _footer(content.getbuffer())
        content.seek(0, io.SEEK_END)
        content.write(footer)
        write_bytes(self.file, content.getbuffer())
        self.saved = time.monotonic()

    def _content(self) -> memoryview:
        """Return the content that torch wrote. Raises ValueError if the file has changed since.

        The file of an earlier version has no checksum and is returned as it is.
        """
        data = memoryview(read_bounded(self.file, most=MOST_BYTES))
        content = data[: len(data) - FOOTER_BYTES]
        footer = bytes(data[len(content) :])
        if not footer.startswith(MAGIC):
            return data
        if footer != _footer(content):
            raise ValueError(f"{self.file}: has changed")
        return content

    def save_if_due(self, state: Callable[[], dict[str, Any] | None]) -> None:
        """Write a checkpoint if the last one is at least `every` seconds old."""
        if time.monotonic() - self.saved >= self.every:
            self.save(state())

    def remove(self) -> None:
        self.file.unlink(missing_ok=True)
