"""Deterministic algorithms of torch, for --deterministic."""

from __future__ import annotations

import os
from typing import Any

import torch

__all__ = ["set_deterministic"]

# Settings of torch that `set_deterministic` has replaced.
_before: dict[str, bool] = {}


def set_deterministic(wanted: bool) -> None:
    """Use deterministic algorithms, or what torch used before they were wanted."""
    memory: Any = torch.utils.deterministic
    if not wanted:
        if _before:
            torch.use_deterministic_algorithms(
                _before["algorithms"], warn_only=_before["warn_only"]
            )
            torch.backends.cudnn.deterministic = _before["cudnn"]
            memory.fill_uninitialized_memory = _before["fill"]
            _before.clear()
        return
    if not _before:
        _before["algorithms"] = torch.are_deterministic_algorithms_enabled()
        _before["warn_only"] = torch.is_deterministic_algorithms_warn_only_enabled()
        _before["cudnn"] = torch.backends.cudnn.deterministic
        _before["fill"] = memory.fill_uninitialized_memory
    # cuBLAS reads it when it is first used, also in child processes.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True
    # Nothing here reads memory before it is written.
    memory.fill_uninitialized_memory = False
