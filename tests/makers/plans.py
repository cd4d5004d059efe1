"""Small plans, whose runs take seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.plan.plan_file import Plan, PlannedRun

# Settings of runs that take seconds.
SMALL: dict[str, Any] = {
    "folds": 3,
    "epochs": 1,
    "img_size": "32x32",
    "pretrained": "none",
    "batch_size": 8,
    "workers": 0,
    "threads": 1,
    "infer_engine": "torch",
    "page": False,
}
FROZEN = PlannedRun(
    name="frozen", settings={"backbone": "test_resnet", "finetune": "head"}, seconds=5
)
TUNED = PlannedRun(name="tuned", settings={"backbone": "test_resnet"}, seconds=5)
OTHER = PlannedRun(name="other", settings={"backbone": "test_vit", "lr": 0.01}, seconds=5)


def silent(line: str) -> None:
    """Take a line and print nothing."""


def small_plan(data: Path, output: Path, *runs: PlannedRun, **more: Any) -> Plan:
    """Return a plan of small runs on some data."""
    settings = {**SMALL, "data": str(data)}
    kept: dict[str, Any] = {"views": "none", "runs": runs or (FROZEN, TUNED, OTHER), **more}
    return Plan(name="p", output=str(output), settings=settings, **kept)
