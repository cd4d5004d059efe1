"""Device of a finished run's models: that of the training, where this machine has it."""

from __future__ import annotations

import torch

from foldblend.cli import Say
from foldblend.errors import UserError
from pipeline.device import Compute, open_compute
from pipeline.engines.registry import ENGINES, TORCH
from pipeline.predict.recipe import Recipe

__all__ = ["compute_for"]


def compute_for(recipe: Recipe, *, device: str | None, threads: int | None, say: Say) -> Compute:
    """Return where a recipe's models run: as when they were made, where this machine can.

    Parameters
    ----------
    recipe
        The recipe.
    device, threads
        Device and number of threads to use instead; None: those of the run.
    say
        Gets a line where the run's device or engine is not used.

    Raises
    ------
    UserError
        For a device that was asked for and is not there.
    """
    name = device or recipe.device
    if recipe.engine not in (TORCH, *ENGINES):
        say(f"engine {recipe.engine} is not in this version; torch is used")
    try:
        wanted = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: unknown kind of device; pass cuda or cpu") from None
    if not _is_there(wanted):
        if device is not None:
            raise UserError(f"--device {device}: this machine has no such GPU; pass --device cpu")
        say(f"the run was made on {name}, which this machine lacks; the CPU is used")
        name = "cpu"
    return open_compute(
        name,
        threads=threads or recipe.threads,
        amp_dtype=recipe.amp_dtype if name.startswith("cuda") else None,
        channels_last=recipe.channels_last,
    )


def _is_there(device: torch.device) -> bool:
    """Return whether models can run on a device."""
    if device.type == "cuda":
        return (device.index or 0) < torch.cuda.device_count()
    if device.type == "cpu":
        return True
    try:
        return torch.ones(1, device=device).cpu().item() == 1
    except (RuntimeError, NotImplementedError, ImportError, AssertionError):
        return False  # torch was built without it, or it holds no data, as meta
