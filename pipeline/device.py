"""Device, mixed precision and threads of a run."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import cv2
import torch

from foldblend.failures import device_failure
from pipeline.config.resolved import ResolvedMachine
from pipeline.deterministic import set_deterministic

__all__ = [
    "Compute",
    "compute_of",
    "emulating_bfloat16",
    "free_memory",
    "large_arrays_given_back",
    "num_cores",
    "open_compute",
    "threads_restored",
]

# Options of mallopt, from malloc.h.
M_TRIM_THRESHOLD = -1
M_TOP_PAD = -2
M_MMAP_THRESHOLD = -3
M_MMAP_MAX = -4
# Arrays of more bytes are given back at once by default, the largest value that glibc takes.
LARGE = 2**25
# Compute capability of the first NVIDIA GPUs with bfloat16 (Ampere).
BFLOAT16_FROM = (8, 0)


@contextlib.contextmanager
def threads_restored() -> Iterator[None]:
    """Give the process its number of threads back at the end.

    Examples
    --------
    >>> before = torch.get_num_threads()
    >>> with threads_restored():
    ...     torch.set_num_threads(before + 1)
    >>> torch.get_num_threads() == before
    True
    """
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True, slots=True)
class Compute:
    """A device with its number format and memory layout."""

    device: torch.device
    amp_dtype: torch.dtype | None
    """Data type of mixed precision; None: float32 everywhere."""
    memory_format: torch.memory_format
    compile: bool = False
    """Whether training steps use torch.compile."""

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context manager of forward passes: mixed precision or nothing."""
        if self.amp_dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.amp_dtype)

    def feed(
        self, batches: Iterable[tuple[torch.Tensor, ...]]
    ) -> Iterator[tuple[torch.Tensor, ...]]:
        """Yield batches on the device; prepare each one while the previous one is computed.

        On the CPU a thread prepares them. (Worker processes would be slower: after the fork, every
        memory page of the model that training changes would be copied.) On CUDA the copy to the
        device overlaps with the computation.
        """
        if not self.is_cuda:
            with ThreadPoolExecutor(1) as pool:
                source = iter(batches)
                ahead = pool.submit(next, source, None)
                while (batch := ahead.result()) is not None:
                    ahead = pool.submit(next, source, None)
                    yield batch
            return
        stream = _copy_stream(self.device)
        waiting = None
        for batch in batches:
            with torch.cuda.stream(stream):
                moved = tuple(part.to(self.device, non_blocking=True) for part in batch)
                arrived = stream.record_event()
            if waiting is not None:
                yield self._arrived(*waiting)
            waiting = (moved, arrived)
        if waiting is not None:
            yield self._arrived(*waiting)

    def _arrived(
        self, batch: tuple[torch.Tensor, ...], event: torch.cuda.Event
    ) -> tuple[torch.Tensor, ...]:
        computing = torch.cuda.current_stream(self.device)
        computing.wait_event(event)
        for part in batch:
            # The memory belongs to the copy stream, which must not reuse it too early.
            part.record_stream(computing)
        return batch

    @property
    def cure_of_infinity(self) -> str:
        """Return the cure for losses or logits that are not finite."""
        cure = "lower --lr or pass --clip-grad 1"
        if self.amp_dtype != torch.float16:
            return cure
        other = "" if emulating_bfloat16(self.device) else ", --amp-dtype bfloat16"
        return f"float16 ends at 65,504: pass --no-amp{other}, or {cure}"

    def scaler(self) -> torch.amp.GradScaler:
        """Return the gradient scaler, which has an effect with float16 only."""
        return torch.amp.GradScaler(self.device.type, enabled=self.amp_dtype == torch.float16)


@functools.cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream that copies batches to a GPU, one for all feeds.

    torch keeps freed memory for the stream that it was allocated on, so that streams of their own
    would take more memory with each feed.
    """
    return torch.cuda.Stream(device)


def num_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def emulating_bfloat16(device: torch.device) -> str | None:
    """Return the first GPU of a device that has no bfloat16 of its own, None if all have it.

    The device cuda means all GPUs, since folds are spread over them.
    """
    if torch.version.hip is not None:
        return None
    gpus = range(torch.cuda.device_count()) if device.index is None else [device.index]
    for index in gpus:
        if torch.cuda.get_device_capability(index) < BFLOAT16_FROM:
            return f"cuda:{index} ({torch.cuda.get_device_name(index)})"
    return None


def _keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next step.

    By default it returns large blocks to the system at once, which then clears them again for every
    layer of every step: inference on the CPU took 1.6 times as long, training about 1.1 times
    (benchmarks/memory.py).
    """
    _mallopt({M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1, M_TOP_PAD: 2**26})


def _mallopt(options: Mapping[int, int]) -> None:
    """Set options of glibc's malloc; other C libraries are left as they are."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        for option, value in options.items():
            libc.mallopt(option, value)


@contextlib.contextmanager
def large_arrays_given_back() -> Iterator[None]:
    """Give memory that was kept back to the system, and that of large arrays when they are freed.

    Kept memory is in pieces. For arrays that take a large part of the memory, and live for
    seconds, it is better to have new memory each time.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    _mallopt({M_MMAP_THRESHOLD: LARGE, M_MMAP_MAX: 2**16})
    try:
        yield
    finally:
        _keep_freed_memory()


def compute_of(config: ResolvedMachine) -> Compute:
    """Return the Compute of resolved settings, and set up this process's threads and memory."""
    return open_compute(
        config.device,
        threads=config.threads,
        amp_dtype=config.amp_dtype if config.amp else None,
        channels_last=config.channels_last,
        compiled=config.compile == "on",
        deterministic=config.deterministic,
    )


@contextlib.contextmanager
def _failures_named(device: torch.device) -> Iterator[None]:
    """Raise UserError with the device's name for what it cannot do."""
    try:
        yield
    except RuntimeError as error:
        failure = device_failure(error, device=f"--device {device}")
        if failure is None:
            raise
        raise failure from error


def open_compute(
    name: str,
    *,
    threads: int,
    amp_dtype: str | None,
    channels_last: bool,
    compiled: bool = False,
    deterministic: bool = False,
) -> Compute:
    """Return the Compute of a device, and set up this process's threads and memory.

    `amp_dtype` is the name of the data type of mixed precision, None for float32.
    `deterministic` has an effect on CUDA only, until the next call.
    """
    torch.set_num_threads(threads)
    # Several images are decoded at the same time, so OpenCV should not split each of them.
    cv2.setNumThreads(0)
    _keep_freed_memory()
    device = torch.device(name)
    set_deterministic(deterministic and device.type == "cuda")
    if device.type == "cuda":
        # Otherwise pinning memory would open a context on the first GPU as well.
        if device.index is not None:
            with _failures_named(device):
                torch.cuda.set_device(device)
        # The search for the fastest kernels takes longer than a short run gains by it, and it may
        # find others the next time.
        torch.backends.cudnn.benchmark = compiled and not deterministic
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
    return Compute(
        device=device,
        amp_dtype=None if amp_dtype is None else getattr(torch, amp_dtype),
        memory_format=torch.channels_last if channels_last else torch.contiguous_format,
        compile=compiled,
    )


def free_memory(device: torch.device) -> int | None:
    """Return the free memory of a GPU in bytes, None for the CPU.

    What torch keeps of freed memory is free for this process.
    """
    if device.type != "cuda":
        return None
    with _failures_named(device):
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
