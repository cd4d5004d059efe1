"""Test-time augmentation of a plan's best runs, where there is time for it."""

from __future__ import annotations

from pathlib import Path

from foldblend.cli import Say
from foldblend.errors import UserError
from foldblend.failures import WriteFailed
from foldblend.progress import duration
from foldblend.runs.check import why_unfinished
from foldblend.runs.costs import num_models, pass_seconds
from foldblend.runs.run import Run
from pipeline.plan.clock import Clock
from pipeline.plan.plan_file import Plan, PlannedRun
from pipeline.run_tta import run_tta
from tta.config import AUTO_VIEWS

__all__ = ["add_views", "seconds_of_views", "view_folders"]

SUFFIX = "_tta"
# Seconds for what is not a forward pass: choosing views by cross-validation, and the report.
OVERHEAD = 10.0
# What is tried, the best first, and the number of further views.
VIEWS = {"auto": len(AUTO_VIEWS.split(",")), "hflip": 1}


def view_folders(plan: Plan) -> list[Path]:
    """Return the folders of finished runs with further views."""
    folders = [plan.runs_folder / f"{run.name}{SUFFIX}" for run in plan.runs]
    return [one for one in folders if one.is_dir() and why_unfinished(one) is None]


def seconds_of_views(run: Run, num_views: int) -> float | None:
    """Return the seconds that further views of a finished run take, None where unknown."""
    seconds = pass_seconds(run)
    if seconds is None:
        return None
    num_test = 0 if run.test is None else len(run.test)
    of_test = num_test if run.frozen else num_test * num_models(run)
    of_train = len(run.oof) // (run.info["num_repeats"] if run.frozen else 1)
    return OVERHEAD + num_views * (of_train + of_test) * seconds


def add_views(plan: Plan, run: PlannedRun, *, clock: Clock, reserve: float, say: Say) -> bool:
    """Add further views to a finished run if there is time, and return whether that was done.

    Views are chosen by cross-validation among the usual ones; where time is short, it is the
    mirrored image alone.
    """
    folder = plan.runs_folder / run.name
    made = plan.runs_folder / f"{run.name}{SUFFIX}"
    if made.is_dir() and why_unfinished(made) is None:
        return False
    finished = Run(folder)
    left = clock.left - reserve
    times = {views: seconds_of_views(finished, num) for views, num in VIEWS.items()}
    fitting = [views for views, time in times.items() if time is not None and time <= left]
    if not fitting:
        say(f"{run.name}: no further views, as they would take too long")
        return False
    views = fitting[0]
    seconds = times[views]
    what = "views are chosen" if views == "auto" else f"the view {views}"
    say(f"{run.name}: {what}, about {duration(seconds)}; {_left(clock)}")
    try:
        with clock.alarm(reserve):
            run_tta(folder, views=views, name=made.name, overwrite=True, page=False, say=_quiet)
    except WriteFailed:
        raise
    except UserError as error:
        say(f"{run.name}: no further views: {error}")
        return False
    return True


def _left(clock: Clock) -> str:
    return "no limit" if clock.left == float("inf") else f"{duration(clock.left)} are left"


def _quiet(line: str) -> None:
    """Take a line and print nothing."""
