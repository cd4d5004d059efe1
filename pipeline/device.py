"""What a run computes on: device, mixed precision, threads."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import Any

import torch

from folds.errors import UserError
from pipeline.config import MachineConfig

__all__ = ["Compute", "compute_of", "resolve_machine"]

DEFAULT_THREADS = torch.get_num_threads()  # read now: compute_of changes it for the whole process


@dataclass(frozen=True, slots=True)
class Compute:
    """A device and how numbers are held on it."""

    device: torch.device
    amp_dtype: torch.dtype | None
    """Type of mixed precision, or None for float32 throughout."""
    memory_format: torch.memory_format

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context for forward passes."""
        if self.amp_dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.amp_dtype)

    def scaler(self) -> torch.amp.GradScaler:
        """Return the gradient scaler; it only acts for float16."""
        return torch.amp.GradScaler(self.device.type, enabled=self.amp_dtype == torch.float16)


def resolve_machine(config: MachineConfig) -> dict[str, Any]:
    """Return the machine settings with every `auto` decided.

    AMP is for CUDA: bfloat16 autocast on CPUs measured 10 to 40 times slower than float32.
    Raises UserError for a device that is not there.
    """
    name = ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: no such kind of device; pass cuda, cuda:1 or cpu") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices; pass --device cpu"
        )
    amp = config.amp and device.type == "cuda"
    amp_dtype = config.amp_dtype
    if amp and amp_dtype == "auto":
        amp_dtype = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = config.threads or DEFAULT_THREADS
    spare = cores if device.type == "cuda" else cores // 2
    return {
        "device": name,
        "amp": amp,
        "amp_dtype": amp_dtype if amp else "auto",
        "threads": threads,
        "workers": min(8, spare) if config.workers is None else config.workers,
    }


def compute_of(config: MachineConfig) -> Compute:
    """Return the Compute of resolved settings, and set torch's threads."""
    assert config.threads is not None
    torch.set_num_threads(config.threads)
    device = torch.device(config.device)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
    return Compute(
        device=device,
        amp_dtype=getattr(torch, config.amp_dtype) if config.amp else None,
        memory_format=torch.channels_last if config.channels_last else torch.contiguous_format,
    )
