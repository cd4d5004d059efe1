"""Settings of the machine that are decided once a run is known: device, precision, workers."""

from __future__ import annotations

import os
import shutil
from typing import Any

import torch

from foldblend.errors import UserError, counted
from pipeline.config.run import MachineConfig
from pipeline.device import emulating_bfloat16, num_cores

__all__ = ["MOST_WORKERS", "decide_compile", "resolve_machine", "rows_of", "workers_of"]

# Training steps of a run from which on --compile auto compiles. Compiling takes one to two minutes,
# once for all folds, and saves some milliseconds per step. This is an estimate; `make bench-gpu`
# measures it.
COMPILE_STEPS = 20_000
# Processes that load images for one model.
MOST_WORKERS = 8
# Read at import, because `compute_of` changes the number of threads of the whole process.
DEFAULT_THREADS = torch.get_num_threads()


def rows_of(device: str) -> int:
    """Return the default of --validation-batch-size on a device."""
    return 256 if torch.device(device).type == "cuda" else 64


def workers_of(device: str, num_processes: int) -> int:
    """Return the default of --workers: of each of several processes that train folds.

    On CUDA they share the cores, with at most 8 each; on the CPU a thread loads images.
    """
    if torch.device(device).type != "cuda":
        return 0
    return min(MOST_WORKERS, max(1, num_cores() // num_processes))


def decide_compile(config: MachineConfig, num_steps: int) -> str:
    """Decide --compile: return "on" or "off" for `num_steps` training steps of all folds.

    Raises UserError for --compile on without a C compiler.
    """
    can = any(shutil.which(name) for name in (os.environ.get("CC") or "cc", "gcc", "clang"))
    if config.compile == "on" and not can:
        raise UserError("--compile on: it needs a C compiler; install gcc, or pass --compile off")
    if config.compile != "auto":
        return config.compile
    pays = torch.device(config.device).type == "cuda" and num_steps >= COMPILE_STEPS
    return "on" if pays and can else "off"


def resolve_machine(config: MachineConfig) -> dict[str, Any]:
    """Return the machine settings whose `auto` can be decided from the machine.

    Mixed precision is only used on CUDA: on CPUs, bfloat16 autocast measured 10 to 40 times slower
    than float32. Raises UserError for a missing device.
    """
    name = (
        ("cuda" if torch.cuda.is_available() else "cpu")
        if config.device == "auto"
        else config.device
    )
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: unknown kind of device; pass cuda, cuda:1 or cpu")
    if device.type == "cuda" and torch.cuda.device_count() and not torch.cuda.is_available():
        raise UserError(
            f"--device {name}: torch {torch.__version__} cannot use this machine's GPU, often"
            " because its driver is too old; update the driver, or pass --device cpu"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        num = torch.cuda.device_count()
        others = {0: "cpu", 1: "cuda or cpu"}.get(num, f"cuda:0 to cuda:{num - 1}, cuda or cpu")
        raise UserError(
            f"--device {name}: this machine has {counted(num, 'CUDA device')}; pass --device"
            f" {others}"
        )
    amp = config.amp and device.type == "cuda"
    amp_dtype = config.amp_dtype
    emulating = emulating_bfloat16(device) if amp and amp_dtype != "float16" else None
    if amp and amp_dtype == "bfloat16" and emulating is not None:
        raise UserError(
            f"--amp-dtype bfloat16: {emulating} only emulates it, which is slow; pass --amp-dtype"
            " float16, or --no-amp"
        )
    if amp and amp_dtype == "auto":
        amp_dtype = "bfloat16" if emulating is None else "float16"
    augment_on = "device" if device.type == "cuda" else "cpu"
    at_once = int(config.parallel_folds) if config.parallel_folds.isdecimal() else 1
    threads = config.threads or max(1, DEFAULT_THREADS // at_once)
    return {
        "device": name,
        "amp": amp,
        "amp_dtype": amp_dtype if amp else "auto",
        "threads": threads,
        "augment_on": augment_on if config.augment_on == "auto" else config.augment_on,
        "workers": workers_of(name, at_once) if config.workers is None else config.workers,
    }
