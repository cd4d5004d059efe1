"""What a run computes on: device, mixed precision, threads."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import cv2
import torch

from foldblend.errors import UserError
from pipeline.config.resolved import ResolvedMachine
from pipeline.config.run import MachineConfig

__all__ = ["Compute", "compile_pays", "compute_of", "free_memory", "num_cores", "resolve_machine"]

# malloc.h
M_TRIM_THRESHOLD = -1
M_TOP_PAD = -2
M_MMAP_MAX = -4
# Steps of a fold. Compiling takes one to two minutes and saves some milliseconds a step: an
# estimate, to be replaced by what `make bench-gpu` measures on a card.
COMPILE_STEPS = 20_000
DEFAULT_THREADS = torch.get_num_threads()  # read now: compute_of changes it for the whole process


@dataclass(frozen=True, slots=True)
class Compute:
    """A device and how numbers are held on it."""

    device: torch.device
    amp_dtype: torch.dtype | None
    """Type of mixed precision, or None for float32 throughout."""
    memory_format: torch.memory_format
    compile: bool = False
    """Whether training steps go through torch.compile."""

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context for forward passes."""
        if self.amp_dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.amp_dtype)

    def feed(
        self, batches: Iterable[tuple[torch.Tensor, ...]]
    ) -> Iterator[tuple[torch.Tensor, ...]]:
        """Yield batches on the device, each made ready while the one before is computed.

        On the CPU a thread does that (workers are better left out: every page of the model's memory
        would be copied after they are forked); on CUDA the copy runs beside the computation.
        """
        if not self.is_cuda:
            with ThreadPoolExecutor(1) as pool:
                source = iter(batches)
                ahead = pool.submit(next, source, None)
                while (batch := ahead.result()) is not None:
                    ahead = pool.submit(next, source, None)
                    yield batch
            return
        stream = torch.cuda.Stream(self.device)
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
            part.record_stream(computing)  # its memory was allocated for the other stream
        return batch

    def scaler(self) -> torch.amp.GradScaler:
        """Return the gradient scaler; it only acts for float16."""
        return torch.amp.GradScaler(self.device.type, enabled=self.amp_dtype == torch.float16)


def num_cores() -> int:
    """Return the CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def compile_pays(config: MachineConfig, num_steps: int) -> str:
    """Return whether to compile, "on" or "off", for so many training steps a fold.

    Raises UserError where it was asked for and cannot be done.
    """
    can = any(shutil.which(name) for name in (os.environ.get("CC") or "cc", "gcc", "clang"))
    if config.compile == "on" and not can:
        raise UserError("--compile on: needs a C compiler; install gcc, or pass --compile off")
    if config.compile != "auto":
        return config.compile
    pays = torch.device(config.device).type == "cuda" and num_steps >= COMPILE_STEPS
    return "on" if pays and can else "off"


def resolve_machine(config: MachineConfig) -> dict[str, Any]:
    """Return the machine settings with every `auto` decided that needs no more than the machine.

    AMP is for CUDA: bfloat16 autocast on CPUs measured 10 to 40 times slower than float32.
    Raises UserError for a device that is not there.
    """
    name = (
        ("cuda" if torch.cuda.is_available() else "cpu")
        if config.device == "auto"
        else config.device
    )
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(
            f"--device {name}: no such kind of device; pass cuda, cuda:1 or cpu"
        ) from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices; pass"
            " --device cpu"
        )
    amp = config.amp and device.type == "cuda"
    amp_dtype = config.amp_dtype
    if amp and amp_dtype == "auto":
        amp_dtype = (
            "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
        )
    augment_on = "device" if device.type == "cuda" else "cpu"
    cores = num_cores()
    at_once = int(config.parallel_folds) if config.parallel_folds.isdecimal() else 1
    threads = config.threads or max(1, DEFAULT_THREADS // at_once)
    spare = max(1, cores // at_once) if device.type == "cuda" else 0
    return {
        "device": name,
        "amp": amp,
        "amp_dtype": amp_dtype if amp else "auto",
        "threads": threads,
        "augment_on": augment_on if config.augment_on == "auto" else config.augment_on,
        "workers": min(8, spare) if config.workers is None else config.workers,
    }


def _keep_freed_memory() -> None:
    """Have glibc keep what torch frees, for the next step to use.

    It hands large blocks back to the system at once, which then must clear them for every layer of
    every step: inference on the CPU took 1.6 times as long, training about 1.1 times
    (benchmarks/memory.py).
    """
    with contextlib.suppress(OSError, AttributeError):  # another libc
        libc = ctypes.CDLL("libc.so.6")
        for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, 2**26)):
            libc.mallopt(option, value)


def compute_of(config: ResolvedMachine) -> Compute:
    """Return the Compute of resolved settings, and set torch's threads and the process's memory."""
    torch.set_num_threads(config.threads)
    cv2.setNumThreads(0)  # several images at once, not several rows of one
    _keep_freed_memory()
    device = torch.device(config.device)
    if device.type == "cuda":
        if device.index is not None:
            torch.cuda.set_device(
                device
            )  # else what pins memory opens a context on the first GPU as well
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
    return Compute(
        device=device,
        amp_dtype=getattr(torch, config.amp_dtype) if config.amp else None,
        memory_format=torch.channels_last if config.channels_last else torch.contiguous_format,
        compile=config.compile == "on",
    )


def free_memory(device: torch.device) -> int | None:
    """Return the free bytes of a GPU, None for the CPU."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
