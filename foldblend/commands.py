"""Entry points of the console scripts and of the scripts in the repository root.

Each command is imported when it is called. The modules are given as text because foldblend/ must
not import the packages that depend on it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from foldblend.streams import print_aside
from foldblend.torchrun import World, world_of

# The keys of COMMANDS are attributes of this module too (see __getattr__).
__all__ = ["COMMANDS", "blend_runs_renamed", "renamed", "run_cv_renamed"]

COMMANDS = {
    "run_cv": "pipeline.commands",
    "blend": "ensemble.commands",
    "run_tta": "pipeline.commands",
    "predict": "pipeline.commands",
    "export_model": "pipeline.export.command",
    "plan": "pipeline.plan.command",
    "tune": "pipeline.search.command",
    "run_audit": "folds.commands",
    "import_run": "folds.commands",
    "leaderboard": "reports.commands",
    "report": "reports.commands",
}


# Commands whose processes share the work when torchrun starts several.
WITH_TORCHRUN = {"run_cv"}


def _command(name: str) -> Callable[[Sequence[str] | None], int]:
    def main(argv: Sequence[str] | None = None) -> int:
        """Run the command with `argv` (default: sys.argv) and return its exit code."""
        world = world_of()
        if world.size > 1 and name not in WITH_TORCHRUN:
            return _refuse(name, world)
        command = getattr(importlib.import_module(COMMANDS[name]), name)
        return int(command(sys.argv[1:] if argv is None else list(argv)))

    return main


def _refuse(name: str, world: World) -> int:
    """Refuse a command of which torchrun has started several, and return the exit code."""
    if world.rank:
        return 0
    print_aside(
        f"error: {name}.py under torchrun: its {world.size} processes would write the same files,"
        f" as only run_cv.py shares work; start it as python {name}.py"
    )
    return 2


def __getattr__(name: str) -> Any:
    if name in COMMANDS:
        return _command(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def renamed(old: str, new: str, name: str, argv: Sequence[str] | None = None) -> int:
    """Run a command under its deprecated name and print the new name to stderr."""
    print(f"{old} is deprecated and will be removed: type {new}", file=sys.stderr)
    return _command(name)(argv)


def run_cv_renamed() -> int:
    """Run the deprecated console script run-cv."""
    return renamed("run-cv", "foldblend-cv", "run_cv")


def blend_runs_renamed() -> int:
    """Run the deprecated console script blend-runs."""
    return renamed("blend-runs", "foldblend-blend", "blend")
