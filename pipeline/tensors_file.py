"""Read files of torch.save, of which nothing but tensors and plain values is taken."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, BinaryIO

import torch

__all__ = ["load_tensors"]


def load_tensors(file: Path | BinaryIO) -> Any:
    """Return the content of a file of torch.save on the CPU; no code in it runs.

    A damaged file, or one with other objects, may raise any exception.
    """
    with warnings.catch_warnings():
        # The error says what is wrong; torch would print lines about the file's form as well.
        warnings.simplefilter("ignore")
        return torch.load(file, map_location="cpu", weights_only=True)
