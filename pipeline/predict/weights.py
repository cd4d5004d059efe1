"""Weights of a run's models, read when they are needed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import safetensors
import safetensors.torch
import torch

from foldblend.errors import UserError, shown
from foldblend.files import is_file
from foldblend.runs.costs import num_models
from foldblend.runs.refit import model_name
from foldblend.runs.run import Run
from foldblend.runs.schema import read_done
from foldblend.runs.tables import read_hashed

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
        self._num_folds: int | None = None
        self._stamps: dict[str, tuple[int, int, int]] = {}

    def is_replaced(self) -> bool:
        """Return whether a file is gone or another one since its hash was checked."""
        try:
            return any(_stamp(self.folder / name) != one for name, one in self._stamps.items())
        except OSError:
            return True

    def _name(self, index: int | None) -> str:
        """Return the name of a model; a shared backbone is that of the first one."""
        if self._num_folds is None:
            self._num_folds = num_models(Run(self.folder))
        return model_name(index or 0, self._num_folds)

    def _file(self, index: int | None) -> str:
        return BACKBONE if index is None else f"{self._name(index)}/best.safetensors"

    def fingerprint(self, index: int | None) -> str:
        """Return the hash of the weights that done.json has; `read` compares the file with it.

        Raises UserError if the file is missing, or done.json has no hash of it.
        """
        name = self._file(index)
        file = self.folder / name
        if not is_file(file):
            raise UserError(f"{file}: the weights are missing; run the same command again")
        self._stamps.setdefault(name, _stamp(file))
        model = self._name(index)
        digest = read_done(self.folder, model)["files"].get(name)
        if digest is None:
            raise UserError(
                f"{self.folder}/{model}/done.json: lacks the hash of {name}; run the same command"
                " again"
            )
        return digest

    def num_bytes(self, indices: Iterable[int | None]) -> int:
        """Return the size of the files of models; absent ones count nothing."""
        files = [self.folder / self._file(index) for index in indices]
        return sum(file.stat().st_size for file in files if is_file(file))

    def read(self, index: int | None) -> State:
        """Return the weights; raise UserError if the file cannot be read, or has changed."""
        name = self._file(index)
        file = self.folder / name
        known = self.fingerprint(index)
        data, digest = read_hashed(file, cure="make the run again")
        if self._stamps[name] != _stamp(file):
            raise UserError(f"{file}: was replaced while it was in use; start again")
        if digest != known:
            raise UserError(f"{file}: has changed since training; run the same command again")
        try:
            return dict(safetensors.torch.load(data))
        # Its own errors, and those of torch for sizes and types that do not fit.
        except (
            safetensors.SafetensorError,
            RuntimeError,
            TypeError,
            ValueError,
            KeyError,
        ) as error:
            why = shown(" ".join(str(error).split()), most=120)
            raise UserError(f"{file}: cannot be read ({why}); make the run again") from None
