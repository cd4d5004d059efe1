"""The blend of a plan's finished runs, a run folder that is valid at every moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ensemble.blend import blend
from foldblend.cli import Say, quiet
from foldblend.errors import UserError
from foldblend.files import exists, is_file, is_link, remove
from foldblend.runs.folder import is_empty, write_json, write_section
from foldblend.runs.info import PlanInfo
from foldblend.runs.run import Run
from foldblend.runs.schema import read_info
from pipeline.plan.plan_file import Plan
from reports.run.screen import finish

__all__ = ["blend_runs", "blended_plan", "check_folder", "heal"]

# Settings of the runs that their blend has too.
OF_THE_BLEND = ("metric", "score_by", "group_pool", "safe_csv")


def _draft(plan: Plan) -> Path:
    """Return the folder of a blend in the making; it lies beside the final one, as members do."""
    return plan.folder.with_name(f"{plan.name}-draft")


def _former(plan: Plan) -> Path:
    """Return the folder of the former blend while another one takes its place."""
    return plan.folder.with_name(f"{plan.name}-former")


def check_folder(plan: Plan) -> None:
    """Raise UserError if a folder of the blend holds something else."""
    for folder in (plan.folder, _former(plan), _draft(plan)):
        if not _is_free(folder, is_draft=folder == _draft(plan)):
            raise UserError(
                f"{folder}: exists and is no blend of a plan; pass another --name, or remove it"
            )


def _is_free(folder: Path, *, is_draft: bool) -> bool:
    """Return whether a folder may be replaced: it is absent or empty, or a plan has made it."""
    if not exists(folder):
        return not is_link(folder)
    try:
        if not folder.is_dir() or is_link(folder):
            return False
        if not (folder / "run.json").is_file():
            return is_empty(folder)
        info = read_info(folder)
    except (UserError, OSError):
        return False
    # The draft of a process that was killed is not marked yet.
    return "plan" in info or (is_draft and info["kind"] == "blend")


def heal(plan: Plan) -> None:
    """Finish the exchange of blends that a killed process had begun, and remove its draft."""
    former = _former(plan)
    if exists(former) and not exists(plan.folder):
        former.rename(plan.folder)
    remove(former)
    remove(_draft(plan))


def blended_plan(plan: Plan) -> PlanInfo | None:
    """Return the runs and choices that the blend knows of, None without a whole blend."""
    try:
        info = read_info(plan.folder)
    except (UserError, OSError):
        return None
    files = [*info.get("files", {}), "report.json", *(["submission.csv"] * info["has_test"])]
    is_whole = info["status"] == "done" and all(is_file(plan.folder / name) for name in files)
    return info.get("plan") if is_whole else None


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
    draft = _draft(plan)
    remove(draft)
    settings = plan.settings
    page = bool(settings.get("page", True))
    of_blend: dict[str, Any] = {name: settings[name] for name in OF_THE_BLEND if name in settings}
    blend(
        [*folders],
        output=plan.output,
        name=draft.name,
        # So that there is a page at every moment; it is written again under the final name.
        page=page,
        say=quiet,
        **of_blend,
    )
    info = read_info(draft)
    more = {"name": plan.name, "notes": [*notes, *info["notes"]], "plan": dict(record)}
    write_json(draft / "run.json", {**info, **more})
    write_section(draft, "0_plan", dict(section))
    _exchange(plan)
    # The report names the folder, so it is written where it stays.
    finish(Run(plan.folder), page=page, report="short", say=say)
    return Run(plan.folder)


def _exchange(plan: Plan) -> None:
    """Put the draft in the place of the former blend."""
    former = _former(plan)
    remove(former)
    if exists(plan.folder):
        plan.folder.rename(former)
    _draft(plan).rename(plan.folder)
    remove(former)
