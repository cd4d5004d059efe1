"""The commands, each loaded when it is asked for: the console scripts and the scripts in the root
come here.

They are named by text, not imported: the ground imports no package that stands on it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["COMMANDS", "blend_runs_renamed", "renamed", "run_cv_renamed"]  # and each of COMMANDS

COMMANDS = {
    "run_cv": "pipeline.commands",
    "blend": "ensemble.commands",
    "run_tta": "pipeline.commands",
    "run_audit": "folds.commands",
    "leaderboard": "reports.commands",
    "report": "reports.commands",
}


def _command(name: str) -> Callable[[Sequence[str] | None], int]:
    def main(argv: Sequence[str] | None = None) -> int:
        """Run the command line, by default that of this process, and return its exit code."""
        command = getattr(importlib.import_module(COMMANDS[name]), name)
        return int(command(sys.argv[1:] if argv is None else list(argv)))

    return main


def __getattr__(name: str) -> Any:
    if name in COMMANDS:
        return _command(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def renamed(old: str, new: str, name: str, argv: Sequence[str] | None = None) -> int:
    """Run a command under a name that goes away after this version, and say what to type
    instead.
    """
    print(f"{old} will go away: type {new}", file=sys.stderr)
    return _command(name)(argv)


def run_cv_renamed() -> int:
    """The console script run-cv, of earlier versions."""
    return renamed("run-cv", "foldblend-cv", "run_cv")


def blend_runs_renamed() -> int:
    """The console script blend-runs, of earlier versions."""
    return renamed("blend-runs", "foldblend-blend", "blend")
