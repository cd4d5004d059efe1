"""What a run costs to deploy: forward passes behind an image, and its seconds where they were
measured. No torch.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from foldblend.errors import UserError
from foldblend.runs.folder import read_json
from foldblend.runs.run import Run

__all__ = [
    "device_of",
    "num_models",
    "num_passes",
    "pass_seconds",
    "passes_a_view",
    "picture_seconds",
]


def num_models(run: Run) -> int:
    """Return how many models a cross-validated run has: one a fold and repeat."""
    return int(run.info["num_folds"] * run.info["num_repeats"])


def passes_a_view(run: Run) -> int:
    """Return how many forward passes a cross-validated run takes to see an image in one view: one
    a model.

    Heads on one frozen backbone share theirs.
    """
    return 1 if run.frozen else num_models(run)


def num_passes(run: Run) -> int:
    """Return the forward passes that one test image takes. Raises UserError for a blend that does
    not say.
    """
    if "passes" in run.info:
        return int(run.info["passes"])
    if "members" in run.info:
        raise UserError(
            f"{run.path}: a blend that does not say what it costs; blend its members again"
        )
    return len(run.info["views"]) * passes_a_view(run)


def pass_seconds(run: Run) -> float | None:
    """Return the seconds of one forward pass of one image, the folds' median; None where none was
    measured.

    `infer_images_per_s` of a fold counts an image once for each view.
    """
    speeds = [
        speed for fold in run.info.get("folds", ()) if (speed := fold.get("infer_images_per_s"))
    ]
    return 1 / statistics.median(speeds) if speeds else None


def picture_seconds(run: Run) -> float | None:
    """Return the compute seconds of one test image, through all models and views; None where not
    known.

    Runs with further views and blends wrote down their own.
    """
    if run.info["kind"] != "cv":
        written = run.info.get("picture_seconds")
        return None if written is None else float(written)
    seconds = pass_seconds(run)
    return None if seconds is None else num_passes(run) * seconds


def device_of(run: Run) -> str | None:
    """Return what a run's speed was measured on: "NVIDIA H200", or a processor and its threads.

    None where that is not known, or where folds were done on several. Runs with further views and
    blends wrote down their own.
    """
    if run.info["kind"] != "cv":
        return run.info.get("device")
    machines = [fold["environment"] for fold in run.info.get("folds", ()) if "environment" in fold]
    if not machines and (file := run.path / "env.json").is_file():
        machines = [read_json(file)]
    settings = run.settings
    found = {_device(machine, settings) for machine in machines}
    return found.pop() if len(found) == 1 else None


def _device(machine: Mapping[str, Any], settings: Mapping[Any, Any]) -> str | None:
    kind, _, index = str(settings.get("device", "")).partition(":")
    gpus = machine.get("gpus") or []
    if kind == "cuda" and gpus:
        used = (
            gpus[int(index) :][:1] if index else gpus
        )  # without a number folds may be done on all of them
        return " and ".join(sorted({*used})) or None
    if not kind or "processor" not in machine:
        return None
    threads = settings.get("threads")
    return machine["processor"] + ("" if threads is None else f", threads: {threads}")
