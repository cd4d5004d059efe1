"""Lines that a plan prints of the data, the machine and its runs."""

from __future__ import annotations

from collections.abc import Mapping

from foldblend.errors import counted
from foldblend.progress import duration
from pipeline.config.resolved import ResolvedConfig
from pipeline.plan.choices import Choices
from pipeline.plan.done import Progress, progress_of
from pipeline.plan.estimate import FIRST_BLEND, Speed
from pipeline.plan.plan_file import Plan, PlannedRun
from pipeline.plan.section import HEADER, left_out_lines, rows_of
from reports.text import table

__all__ = ["plan_lines", "speed_lines"]

SPEED_HEADER = ["measured here", "pixels", "read", "predict", "train", "memory"]


def _rate(seconds: float | None) -> str:
    return "-" if not seconds else f"{1 / seconds:,.0f}/s"


def speed_lines(speeds: Mapping[str, Speed], config: ResolvedConfig) -> list[str]:
    """Return the table of what was measured: images per second, and bytes of a training step."""
    machine = config.machine
    rows = [
        [
            name,
            f"{one.pixels:,}",
            _rate(one.read),
            _rate(one.infer),
            _rate(one.train),
            "-" if one.memory is None else f"{one.memory / 1e9:.1f} GB",
        ]
        for name, one in speeds.items()
    ]
    return [
        f"machine: {machine.device}, {counted(machine.threads, 'thread')}; images per second, and"
        f" memory of a training step of {config.train.batch_size} images",
        *table(SPEED_HEADER, rows, name_width=48),
    ]


def plan_lines(plan: Plan, *, left: float | None = None) -> list[str]:
    """Return the table of a plan: what is done, running and left.

    `left` are the seconds of the time limit that are left; None says nothing of them.
    """
    choices = Choices.read(plan)

    def progress(run: PlannedRun) -> Progress:
        return progress_of(plan.runs_folder / run.name)

    lines = [
        f"plan {plan.file}: {counted(len(plan.runs), 'run')}"
        + (f"; time limit {plan.time_limit}" if plan.time_limit else ""),
        *table(HEADER, rows_of(plan, choices, progress), name_width=48),
        *left_out_lines(plan),
    ]
    if left is None:
        return lines
    todo = [
        run
        for run in plan.runs
        if progress(run).state != "done" and run.name not in choices.stopped
    ]
    seconds = sum(run.seconds or 0.0 for run in todo)
    blends = FIRST_BLEND * (len(todo) + 1)
    parts = [f"runs about {duration(seconds)}", f"blends {duration(blends)}"]
    rest = left - seconds - blends
    if rest == float("inf"):
        parts.append("views as long as they take" if plan.views != "none" else "no limit")
    elif plan.views != "none":
        parts.append(f"views the rest, {duration(max(rest, 0.0))}")
    return [*lines, f"time: {', '.join(parts)}"]
