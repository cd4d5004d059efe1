"""Held-out predictions of the trials of a study, one file each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import safetensors.numpy

from foldblend.arrays_file import read_arrays
from foldblend.errors import UserError
from foldblend.files import is_file, write_bytes

__all__ = ["HeldOut"]


class HeldOut:
    """Held-out logits by trial, on the same rows: repeat after repeat, in the manifest's order."""

    def __init__(self, folder: Path, *, num_rows: int, num_classes: int) -> None:
        self.folder = folder
        self.shape = (num_rows, num_classes)

    def file(self, name: str) -> Path:
        """Return the file of a trial."""
        return self.folder / f"{name}.safetensors"

    def write(self, name: str, logits_NC: np.ndarray) -> None:
        """Keep the logits of a trial; rows that are not predicted yet are NaN."""
        assert logits_NC.shape == self.shape, (logits_NC.shape, self.shape)
        write_bytes(
            self.file(name),
            safetensors.numpy.save({"logits": np.ascontiguousarray(logits_NC, np.float32)}),
        )

    def read(self, name: str) -> np.ndarray | None:
        """Return the logits of a trial; None if its file is missing, damaged or of other data."""
        if not is_file(self.file(name)):
            return None
        try:
            _, arrays = read_arrays(self.file(name), cure="")
        except (UserError, safetensors.SafetensorError, ValueError, KeyError, TypeError):
            return None
        logits_NC = arrays.get("logits")
        if logits_NC is None or logits_NC.shape != self.shape or logits_NC.dtype != np.float32:
            return None
        return logits_NC
