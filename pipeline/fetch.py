"""Results of a device as arrays, and the time that it took for them, without making it wait."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch

from pipeline.device import Compute

__all__ = ["fetched", "mark", "seconds_between"]


def fetched(compute: Compute, results: Iterable[torch.Tensor]) -> Iterator[np.ndarray]:
    """Yield results as arrays.

    On CUDA each one is copied while the next one is computed, so that the GPU need not wait.
    """
    if not compute.is_cuda:
        for result in results:
            yield result.cpu().numpy()
        return
    waiting = None
    for result in results:
        host = torch.empty(result.shape, dtype=result.dtype, pin_memory=True)
        host.copy_(result, non_blocking=True)
        copied = torch.cuda.current_stream(compute.device).record_event()
        if waiting is not None:
            yield _copied(*waiting)
        waiting = (host, copied)
    if waiting is not None:
        yield _copied(*waiting)


def _copied(host: torch.Tensor, copied: torch.cuda.Event) -> np.ndarray:
    """Return an array that has arrived from a GPU, in memory that is not pinned."""
    copied.synchronize()
    return host.numpy().copy()


def mark(compute: Compute) -> Any:
    """Return a mark of the time at which the device has done what is queued so far."""
    if not compute.is_cuda:
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    return torch.cuda.current_stream(compute.device).record_event(event)


def seconds_between(start: Any, end: Any) -> float:
    """Return the seconds between two marks of a device."""
    if isinstance(start, float):
        return float(end - start)
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000
