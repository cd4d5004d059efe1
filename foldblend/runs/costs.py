"""Deployment cost of a run: forward passes and, where measured, seconds per test image."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from foldblend.errors import UserError
from foldblend.runs.refit import num_refits, refit_share
from foldblend.runs.run import Run
from foldblend.runs.schema import read_environment

__all__ = [
    "device_of",
    "num_models",
    "num_passes",
    "pass_seconds",
    "passes_per_view",
    "picture_seconds",
]

# A model that is slower was not measured; the inverse of a smaller number may be infinite.
LEAST_SPEED = 1e-9


def num_models(run: Run) -> int:
    """Return the number of models of a cross-validated run: one per fold and repeat."""
    return int(run.info["num_folds"] * run.info["num_repeats"])


def passes_per_view(run: Run) -> int:
    """Return the number of forward passes per image and view of a cross-validated run.

    This is one per model, but only one in total for heads that share a frozen backbone. Models
    of folds that refits replace altogether need none.
    """
    if run.frozen:
        return 1
    folds = 0 if refit_share(run.info) == 1 else num_models(run)
    return folds + num_refits(run.info)


def num_passes(run: Run) -> int:
    """Return the number of forward passes per test image, over all models and views.

    Raises UserError for a blend of an early version, which does not record it.
    """
    if "passes" in run.info:
        return int(run.info["passes"])
    if "members" in run.info:
        raise UserError(
            f"{run.path}: this blend does not record what it costs; blend its members again"
        )
    return len(run.info["views"]) * passes_per_view(run)


def pass_seconds(run: Run) -> float | None:
    """Return the seconds per forward pass of one image, or None where not measured.

    This is the median over folds. `infer_images_per_s` of a fold counts each view of an image.
    """
    speeds = [
        speed
        for fold in run.info.get("folds", ())
        if (speed := fold.get("infer_images_per_s")) and speed > LEAST_SPEED
    ]
    return 1 / statistics.median(speeds) if speeds else None


def picture_seconds(run: Run) -> float | None:
    """Return the seconds per test image, over all models and views, or None where unknown.

    TTA'd runs and blends record it in run.json.
    """
    if run.info["kind"] != "cv":
        written = run.info.get("picture_seconds")
        return None if written is None else float(written)
    seconds = pass_seconds(run)
    return None if seconds is None else num_passes(run) * seconds


def device_of(run: Run) -> str | None:
    """Return the device that a run's speed was measured on, or None.

    The device is a GPU such as "NVIDIA H200", or a processor with its number of threads. It is
    None where it is unknown or where folds ran on different devices. TTA'd runs and blends record
    it in run.json.
    """
    if run.info["kind"] != "cv":
        return run.info.get("device")
    machines = [fold["environment"] for fold in run.info.get("folds", ()) if "environment" in fold]
    if not machines and (written := read_environment(run.path)) is not None:
        machines = [written]
    settings = run.settings
    found = {_device(machine, settings) for machine in machines}
    return found.pop() if len(found) == 1 else None


def _device(machine: Mapping[str, Any], settings: Mapping[Any, Any]) -> str | None:
    kind, _, index = str(settings.get("device", "")).partition(":")
    gpus = machine.get("gpus") or []
    if kind == "cuda" and gpus:
        # With plain "cuda" the folds may have run on any of the GPUs.
        used = gpus[int(index) :][:1] if index.isdecimal() and len(index) < 5 else gpus
        return " and ".join(sorted({*used})) or None
    if not kind or "processor" not in machine:
        return None
    threads = settings.get("threads")
    return machine["processor"] + ("" if threads is None else f", threads: {threads}")
