"""The plan in the report of its blend: what ran, what was stopped, and what choosing cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from foldblend.errors import counted
from foldblend.progress import duration
from pipeline.plan.choices import Choices
from pipeline.plan.done import Progress
from pipeline.plan.plan_file import Plan, PlannedRun
from reports.blocks import section, table_block, text_block
from reports.text import num

__all__ = ["HEADER", "left_out_lines", "notes_of", "rows_of", "section_of"]


def rows_of(
    plan: Plan, choices: Choices, progress: Callable[[PlannedRun], Progress]
) -> list[list[str]]:
    """Return a row for each run: name, state, folds, time and score."""
    rows = []
    for run in plan.runs:
        done = progress(run)
        stopped = choices.stopped.get(run.name)
        state: str = done.state
        if stopped is not None and done.state != "done":
            state = f"stopped after {counted(stopped['folds'], 'fold')}"
        taken = duration(done.seconds) if done.folds else "-"
        rows.append(
            [
                run.name,
                state,
                f"{len(done.folds)}",
                taken,
                duration(run.seconds),
                "-" if done.score is None else num(done.score),
            ]
        )
    return rows


HEADER = ["run", "state", "folds", "time", "estimate", "OOF score"]


def notes_of(plan: Plan, choices: Choices) -> list[str]:
    """Return what a reader of the score must know of the plan's choices."""
    notes = []
    if choices.stopped:
        notes.append(
            f"{counted(len(choices.stopped), 'run')} of the plan stopped after one or two folds, as"
            " the best run was clearly better there; these folds are scored too"
        )
    if choices.optimism is not None and choices.compared > 1:
        value, error = choices.optimism
        much = (
            f"about {num(value)} +- {num(error)} too good,"
            if choices.optimism.is_known
            else "too good, by an amount that could not be estimated,"
        )
        notes.append(
            f"the best score of the plan's {choices.compared} predictions is {much} as it was"
            " picked on these rows"
        )
    return notes


def section_of(
    plan: Plan, choices: Choices, progress: Callable[[PlannedRun], Progress]
) -> dict[str, Any]:
    """Return the section of the report on the plan."""
    blocks = [
        text_block(
            "These runs were planned for a time limit"
            + (f" of {plan.time_limit}" if plan.time_limit else "")
            + ". All have the same folds. The estimate is the time that a run was expected to take."
        ),
        table_block(HEADER, rows_of(plan, choices, progress)),
    ]
    if choices.stopped:
        blocks.append(text_block(_stopped(choices)))
    blocks += [text_block(note[:1].upper() + note[1:] + ".") for note in notes_of(plan, choices)]
    blocks += [text_block(f"{line[:1].upper()}{line[1:]}.") for line in left_out_lines(plan)]
    return section("Plan", *blocks)


def _stopped(choices: Choices) -> str:
    each = [
        f"{name} (worse by {one['lead']:.4f} +- {one['error']:.4f} after"
        f" {counted(one['folds'], 'fold')})"
        for name, one in choices.stopped.items()
    ]
    why = "the best run was better by more than two standard errors over groups"
    return f"Stopped, since {why}: {', '.join(each)}."


def left_out_lines(plan: Plan) -> list[str]:
    """Return a line for each reason why a plan leaves backbones out."""
    left_out = plan.about.get("left_out")
    by_reason: dict[str, list[str]] = {}
    for name, why in (left_out if isinstance(left_out, dict) else {}).items():
        by_reason.setdefault(str(why), []).append(str(name))
    return [f"left out: {', '.join(names)} ({why})" for why, names in by_reason.items()]
