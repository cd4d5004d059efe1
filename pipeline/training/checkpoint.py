"""Checkpoints of a fold in training: whole or absent, of this very run, and never able to execute
code.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from foldblend.files import write_with

__all__ = ["CHECKPOINT", "Checkpoints"]

CHECKPOINT = "last.ckpt"
FORMAT = 1  # to be raised when what is in it changes


class Checkpoints:
    """A fold's last.ckpt, written every so many seconds."""

    def __init__(self, folder: Path, run_key: dict[str, str], every: float) -> None:
        self.file = folder / CHECKPOINT
        self.run_key = run_key
        self.every = every
        self.saved = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """Return what was saved, or None where there is nothing of this run that can be read."""
        try:
            payload = torch.load(self.file, map_location="cpu", weights_only=True)
            ours = payload["format"] == FORMAT and payload["run_key"] == self.run_key
            return dict(payload["state"]) if ours else None
        except Exception:  # damaged bytes may raise anything; then the fold begins anew
            return None

    def save(self, state: dict[str, Any]) -> None:
        """Write a checkpoint beside the last one, then put it in its place."""
        payload = {"format": FORMAT, "run_key": self.run_key, "state": state}
        write_with(self.file, lambda draft: torch.save(payload, draft))
        self.saved = time.monotonic()

    def save_if_due(self, state: Callable[[], dict[str, Any]]) -> None:
        """Write a checkpoint if the last one is old enough."""
        if time.monotonic() - self.saved >= self.every:
            self.save(state())

    def remove(self) -> None:
        self.file.unlink(missing_ok=True)
