"""Number of worker processes and of batches that they load ahead, by the bytes of a batch."""

from __future__ import annotations

import os
from dataclasses import dataclass

__all__ = ["Ahead", "free_shared_memory", "plan_ahead"]

# Bytes of batches ahead up to which each worker loads two of them. They are in shared memory first,
# and then in pinned memory.
BUDGET = 10**9
# Batches in shared memory besides those that are loaded ahead: one on its way to the device, and
# one that is computed.
IN_USE = 2
SHARED_MEMORY = "/dev/shm"


@dataclass(frozen=True, slots=True)
class Ahead:
    """Worker processes of a loader, and the batches that each of them loads ahead."""

    workers: int
    batches: int | None
    """None without workers."""
    note: str | None = None
    """Line for the log where there are fewer workers than wanted."""


def free_shared_memory() -> int | None:
    """Return the free bytes of shared memory, through which workers hand over batches.

    None where the system has no folder for it, as then it has no limit of its own.
    """
    try:
        about = os.statvfs(SHARED_MEMORY)
    except (OSError, AttributeError):
        return None
    return about.f_bavail * about.f_frsize


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f}".removesuffix(".0") + " MB"


def plan_ahead(workers: int, *, batch_bytes: int, free: int | None, sharing: int = 1) -> Ahead:
    """Return the number of workers and of batches ahead that fit into shared memory.

    Parameters
    ----------
    workers
        Number of processes that is wanted.
    batch_bytes
        Bytes of a batch.
    free
        Free bytes of shared memory, of which half is used; None: no limit.
    sharing
        Number of processes that train at the same time and share it.

    Examples
    --------
    >>> plan_ahead(8, batch_bytes=10**7, free=10**10)
    Ahead(workers=8, batches=2, note=None)
    >>> plan_ahead(8, batch_bytes=10**7, free=64 * 10**6).workers
    1
    """
    if not workers:
        return Ahead(0, None)
    size = max(1, batch_bytes)
    room = None if free is None else free // 2 // sharing
    fitting = workers if room is None else max(0, min(workers, room // size - IN_USE))
    if fitting < workers:
        assert free is not None
        what = (
            "this process loads images itself"
            if not fitting
            else f"only {fitting} of them can load images"
        )
        note = (
            f"{SHARED_MEMORY} has {_megabytes(free)} free, too little for {workers} workers with"
            f" batches of {_megabytes(size)}: {what}, which may be slower; in a container, pass"
            " docker run --shm-size=8g"
        )
        return Ahead(fitting, 1 if fitting else None, note)
    both = 2 * workers * size
    fits = both <= BUDGET and (room is None or both + IN_USE * size <= room)
    return Ahead(workers, 2 if fits else 1)
