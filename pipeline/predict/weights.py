"""Weights of a run's models, read when they are needed."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import safetensors
import safetensors.torch
import torch

from foldblend.errors import UserError
from foldblend.runs.folder import file_hash, read_json

__all__ = ["FolderWeights", "State", "WeightSource"]

State = dict[str, torch.Tensor]
BACKBONE = "backbone.safetensors"


def _stamp(file: Path) -> tuple[int, int, int]:
    """Return what changes when a file is replaced."""
    about = file.stat()
    return about.st_size, about.st_mtime_ns, about.st_ino


class WeightSource(Protocol):
    """Source of the weights of a cross-validated run's models."""

    def fingerprint(self, index: int | None) -> str:
        """Return a hash of the weights of a model, or of the shared frozen backbone for None."""
        ...

    def read(self, index: int | None) -> State:
        """Return the weights of a model, or of the shared frozen backbone for None.

        With a frozen backbone, a model is its linear head: weight and bias.
        """
        ...


class FolderWeights:
    """Weights in the folder of a run, whose files are those that the run wrote."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stamps: dict[str, tuple[int, int, int]] = {}
        self._digests: dict[str, str] = {}

    def is_replaced(self) -> bool:
        """Return whether a file is gone or another one since its hash was checked."""
        try:
            return any(_stamp(self.folder / name) != one for name, one in self._stamps.items())
        except OSError:
            return True

    def _file(self, index: int | None) -> str:
        return BACKBONE if index is None else f"fold_{index}/best.safetensors"

    def fingerprint(self, index: int | None) -> str:
        """Return a hash of the weights, which done.json has; an unchanged file is hashed once.

        Raises UserError if the file is missing or changed.
        """
        name = self._file(index)
        file = self.folder / name
        record = self.folder / f"fold_{index or 0}" / "done.json"
        done = read_json(record)
        if not isinstance(done, dict) or not isinstance(done.get("files"), dict):
            raise UserError(f"{record}: lacks the hashes of files; run the same command again")
        if not file.is_file():
            raise UserError(f"{file}: the weights are missing; run the same command again")
        now = _stamp(file)
        if name not in self._digests or self._stamps[name] != now:
            self._stamps[name] = now
            self._digests[name] = file_hash(file)
        digest = self._digests[name]
        if digest != done["files"].get(name):
            raise UserError(f"{file}: has changed since training; run the same command again")
        return digest

    def read(self, index: int | None) -> State:
        """Return the weights; raise UserError if the file cannot be read or was replaced."""
        name = self._file(index)
        file = self.folder / name
        try:
            if self._stamps.setdefault(name, _stamp(file)) != _stamp(file):
                raise UserError(f"{file}: was replaced while it was in use; start again")
            return dict(safetensors.torch.load_file(file))
        except (OSError, safetensors.SafetensorError) as error:
            why = " ".join(str(error).split())[:120]
            raise UserError(f"{file}: cannot be read ({why}); make the run again") from None
