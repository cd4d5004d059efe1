"""A trial that is claimed, its result, and the numbers of trials by result."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.search.space import Value

__all__ = ["Claim", "Counts", "Result"]


@dataclass(frozen=True)
class Claim:
    """A trial that this process runs."""

    name: str
    settings: Mapping[str, Value]
    """The settings that differ from those of the command."""
    trial: Any = None
    """The trial of Optuna; None for that with the settings of the command."""
    lock: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)


@dataclass(frozen=True)
class Result:
    """A trial with all folds."""

    name: str
    settings: Mapping[str, Value]
    value: float


@dataclass(frozen=True)
class Counts:
    """Numbers of trials by their result."""

    complete: int
    pruned: int
    failed: int
    running: int
    """Trials that processes are running."""
    waiting: int
    """Trials that were cut off and are to be run again."""
    errors: tuple[str, ...]
    """Why trials failed, the last one last."""

    @property
    def finished(self) -> int:
        return self.complete + self.pruned + self.failed
