"""The command line of plan.py."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

from foldblend.cli import run_command, typed_settings, with_flag
from foldblend.failures import CLOSE
from pipeline.config.command_line import parse_with_run
from pipeline.plan.config import ABOUT, PlanConfig, PlanOptions
from pipeline.watch.hangup import outlive_terminal

__all__ = ["plan"]

# Seconds that Python takes before it comes here.
BEFORE = 0.5


def plan(argv: Sequence[str]) -> int:
    """Run the command line of plan.py and return its exit code."""
    began = time.monotonic() - BEFORE

    def command() -> None:
        config = parse_with_run(PlanConfig, with_flag(argv, "--data"), ABOUT)
        options = dataclasses.replace(config.planning, typed=typed_settings(PlanOptions, argv))
        config = dataclasses.replace(config, planning=options)
        # Importing torch takes seconds, so flags and columns are checked first.
        from folds.data.source import check_source

        if config.planning.plan is None:
            check_source(config.data)
        from pipeline.plan.api import run_plan

        with outlive_terminal(Path(config.output.output) / "hangup.log") as say:
            run_plan(config, already=time.monotonic() - began, say=say)

    spare = f"{CLOSE}, or pass a smaller --batch-size, fewer --workers or --cache disk"
    return run_command(command, spare=spare)
