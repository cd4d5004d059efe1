"""The GPUs of this machine: free memory, and whether several processes may use one."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from pipeline.device import free_memory

__all__ = ["Card", "cards_of"]

# Columns of nvidia-smi, in this order. It tells the mode, which torch does not, and the free memory
# without a context on the GPU, which would lock other processes out of one in exclusive mode.
COLUMNS = ("uuid", "memory.free", "compute_mode", "mig.mode.current")
WAIT_S = 10


@dataclass(frozen=True, kw_only=True)
class Card:
    """A GPU that folds can be trained on."""

    name: str
    """Its name for torch, such as cuda:0."""
    title: str
    """Its name for people."""
    free: int
    """Free bytes."""
    alone: bool = False
    """Whether only one process at a time can use it (compute mode "exclusive process")."""
    mig: bool = False
    """Whether it is a part of a larger GPU (MIG)."""

    @property
    def note(self) -> str:
        """Return the mode of the GPU in words, "" for the usual one."""
        if self.alone:
            return (
                "in exclusive mode, so it trains one fold at a time (nvidia-smi -c 0 lets several"
                " processes share it)"
            )
        return "a part of a larger GPU (MIG)" if self.mig else ""


def cards_of(device: str) -> tuple[Card, ...]:
    """Return the GPUs that --device names, () for the CPU.

    "cuda" means all GPUs that torch sees, so those of CUDA_VISIBLE_DEVICES. What this process has
    kept of freed memory is given back first, so that others can use it.
    """
    there = torch.device(device)
    if there.type != "cuda":
        return ()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    numbers = range(torch.cuda.device_count()) if device == "cuda" else [there.index or 0]
    rows = _nvidia_smi()
    return tuple(_card(number, rows) for number in numbers)


def _card(number: int, rows: Mapping[str, Sequence[str]]) -> Card:
    name = f"cuda:{number}"
    about = torch.cuda.get_device_properties(number)
    # Older versions of torch do not tell the id.
    own_id = str(getattr(about, "uuid", "")).removeprefix("GPU-")
    free_mib, compute_mode, mig_mode = rows.get(own_id, ("", "", ""))
    mig = "MIG" in about.name or mig_mode.lower() == "enabled"
    # nvidia-smi tells the memory of the whole GPU, not of its part.
    if free_mib.isdecimal() and not mig:
        free = int(free_mib) * 2**20
    else:
        free = free_memory(torch.device(name)) or 0
    return Card(
        name=name,
        title=about.name,
        free=free,
        alone=compute_mode.lower().startswith("exclusive"),
        mig=mig,
    )


def _nvidia_smi() -> dict[str, Sequence[str]]:
    """Return the other `COLUMNS` of each GPU by its id, {} where nvidia-smi is missing or fails."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return {}
    command = [tool, f"--query-gpu={','.join(COLUMNS)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=WAIT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    text = done.stdout.decode(errors="replace")
    rows = (line.split(", ") for line in text.splitlines())
    return {row[0].removeprefix("GPU-"): row[1:] for row in rows if len(row) == len(COLUMNS)}
