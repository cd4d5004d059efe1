"""The processes that torchrun starts for one command, read from the environment without torch."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["ALONE", "World", "attempt_of", "world_of"]

# torchrun sets all of them. Some clusters set WORLD_SIZE and RANK for whole machines.
RANK = "RANK"
SIZE = "WORLD_SIZE"
LOCAL_RANK = "LOCAL_RANK"
NAMES = (RANK, SIZE, LOCAL_RANK, "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, slots=True)
class World:
    """Hold the number of this process among those of one command."""

    rank: int = 0
    """Number of this process; 0 leads and is the only one that writes and prints."""
    size: int = 1
    """Number of processes; 1 without torchrun."""
    local_rank: int = 0
    """Number of this process on its machine, which is also that of its GPU."""
    local_size: int = 1
    """Number of processes on this machine."""


ALONE = World()


def world_of(environ: Mapping[str, str] = os.environ) -> World:
    """Return the place of this process among those of torchrun; without torchrun, it is alone.

    Examples
    --------
    >>> start = {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    >>> world_of({**start, "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"})
    World(rank=1, size=2, local_rank=1, local_size=2)
    >>> world_of(start)
    World(rank=0, size=1, local_rank=0, local_size=1)
    """
    with contextlib.suppress(KeyError, ValueError):
        rank, size, local_rank = (int(environ[name]) for name in NAMES[:3])
        local_size = int(environ.get("LOCAL_WORLD_SIZE", size))
        if size > 1 and all(environ.get(name) for name in NAMES):
            return World(rank, size, local_rank, local_size)
    return ALONE


def attempt_of(environ: Mapping[str, str] = os.environ) -> str:
    """Return how many times torchrun has started the processes again (--max-restarts).

    Examples
    --------
    >>> attempt_of({}), attempt_of({"TORCHELASTIC_RESTART_COUNT": "2"})
    ('0', '2')
    """
    return environ.get("TORCHELASTIC_RESTART_COUNT", "0")
