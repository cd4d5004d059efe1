"""The blend of a plan's finished runs, a run folder that is valid at every moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ensemble.blend import blend
from foldblend.cli import Say
from foldblend.errors import UserError
from foldblend.files import exists, remove
from foldblend.runs.folder import write_json, write_section
from foldblend.runs.run import Run
from foldblend.runs.schema import read_info
from pipeline.plan.plan_file import Plan
from reports.run.screen import finish

__all__ = ["blend_runs", "blended_runs", "check_folder", "heal"]

# Settings of the runs that their blend has too.
OF_THE_BLEND = ("metric", "score_by", "group_pool", "safe_csv")


def _beside(plan: Plan, what: str) -> Path:
    return plan.folder.with_name(f"{plan.name}.{what}")


def check_folder(plan: Plan) -> None:
    """Raise UserError if the folder of the blend holds something else."""
    for folder in (plan.folder, _beside(plan, "old"), _beside(plan, "new")):
        if exists(folder) and not _is_of_a_plan(folder):
            raise UserError(
                f"{folder}: exists and is no blend of a plan; pass another --name, or remove it"
            )


def _is_of_a_plan(folder: Path) -> bool:
    try:
        if not (folder / "run.json").is_file():
            return folder.is_dir() and not any(folder.glob("[!.]*"))
        return read_info(folder).get("kind") == "blend"
    except (UserError, OSError):
        return False


def heal(plan: Plan) -> None:
    """Finish the exchange of blends that a killed process had begun, and remove its draft."""
    old = _beside(plan, "old")
    if exists(old) and not exists(plan.folder):
        old.rename(plan.folder)
    remove(old)
    remove(_beside(plan, "new"))


def blended_runs(plan: Plan) -> set[str]:
    """Return the names of the members of the blend that is there; empty without one."""
    try:
        return {str(one["name"]) for one in read_info(plan.folder).get("members", ())}
    except (UserError, OSError):
        return set()


def blend_runs(
    plan: Plan,
    folders: Sequence[Path],
    *,
    notes: Sequence[str],
    record: Mapping[str, Any],
    section: Mapping[str, Any],
    say: Say,
) -> Run:
    """Blend finished runs into the folder of a plan; until it is complete, the former one stays.

    Parameters
    ----------
    plan
        The plan.
    folders
        Folders of finished runs.
    notes
        What a reader of the score must know of the plan's choices.
    record
        The plan's choices, for run.json.
    section
        The plan as a section of the report.
    say
        Receives the first screen of the report.
    """
    draft = _beside(plan, "new")
    remove(draft)
    settings = plan.settings
    of_blend: dict[str, Any] = {name: settings[name] for name in OF_THE_BLEND if name in settings}
    blend(
        [*folders],
        output=plan.output,
        name=draft.name,
        page=False,
        say=_quiet,
        **of_blend,
    )
    info = read_info(draft)
    more = {"name": plan.name, "notes": [*notes, *info["notes"]], "plan": dict(record)}
    write_json(draft / "run.json", {**info, **more})
    write_section(draft, "0_plan", dict(section))
    _exchange(plan)
    # The report names the folder, so it is written where it stays.
    finish(Run(plan.folder), page=bool(settings.get("page", True)), report="short", say=say)
    return Run(plan.folder)


def _exchange(plan: Plan) -> None:
    """Put the draft in the place of the former blend."""
    old = _beside(plan, "old")
    remove(old)
    if exists(plan.folder):
        plan.folder.rename(old)
    _beside(plan, "new").rename(plan.folder)
    remove(old)


def _quiet(line: str) -> None:
    """Take a line and print nothing."""
