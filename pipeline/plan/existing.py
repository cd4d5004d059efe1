"""Runs that are there before a plan is made: they must be what plan.yaml says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foldblend.errors import UserError, listed
from foldblend.files import is_file
from foldblend.flags import flags_of
from foldblend.runs.run import Run
from pipeline.config.run import RunConfig, parse_size
from pipeline.config.settings import flatten
from pipeline.plan.plan_file import Plan, PlannedRun

__all__ = ["check_existing"]

# Words in place of which config.yaml has what they became.
DECIDED = ("auto", "find")


def check_existing(plan: Plan) -> None:
    """Raise UserError if a run's folder was made with other settings, or runs are of other data.

    Only settings that the plan gives are compared: what a run decided itself stays as it is.
    """
    hashes: dict[str, str] = {}
    for run in plan.runs:
        folder = plan.runs_folder / run.name
        if not is_file(folder / "run.json"):
            continue
        found = Run(folder)
        changed = _changed(plan, run, found.settings)
        if changed:
            raise UserError(
                f"{folder}: was made with other settings than run {run.name} of the plan has"
                f" ({listed(changed)}); rename the run in the plan, or remove the folder"
            )
        hashes[run.name] = str(found.info["data"].get("hash"))
    others = {name: one for name, one in hashes.items() if one != next(iter(hashes.values()))}
    if others:
        first = next(iter(hashes))
        raise UserError(
            f"{plan.runs_folder}: runs {first} and {next(iter(others))} are of different data; pass"
            " another --name for the data as they are now"
        )


def _changed(plan: Plan, run: PlannedRun, written: Mapping[Any, Any]) -> list[str]:
    """Return the settings of the plan that a run was not made with, and what it was made with."""
    known = flags_of(RunConfig)
    asked = flatten(plan.config_of(run))
    given = {**plan.settings, **run.settings}
    changed = []
    for name in given:
        key = str(name)
        value = asked[key]
        if not known[key].identity or value in DECIDED or key not in written:
            continue
        before = written[key]
        if value is not None and not _are_equal(key, before, value):
            changed.append(f"{key} {before} -> {value}")
    return changed


def _are_equal(key: str, before: object, value: object) -> bool:
    """Return whether two values of a setting mean the same, such as the sizes 32 and 32x32."""
    if key == "img_size":
        return parse_size(str(before)) == parse_size(str(value))
    return before == value or str(before) == str(value)
