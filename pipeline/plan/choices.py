"""Choices that a plan made on the folds that score its runs, kept in choices.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from foldblend.files import is_file, remove
from foldblend.runs.folder import is_in_use, write_json
from foldblend.runs.info import StoppedInfo
from foldblend.runs.schema import read_checked
from foldblend.scores.race import Optimism
from foldblend.scores.score import Gain
from pipeline.plan.done import progress_of
from pipeline.plan.plan_file import Plan

__all__ = ["Choices", "sweep"]

NAME = "choices.json"


class _Content(TypedDict, total=False):
    """Content of choices.json."""

    stopped: dict[str, StoppedInfo]


@dataclass(slots=True)
class Choices:
    """The choices of a plan so far."""

    stopped: dict[str, StoppedInfo] = field(default_factory=dict)
    """Runs that clearly lost and were not finished since, by name."""
    optimism: Optimism | None = None
    """By how much the score of the best run is too good, since it was picked on these rows."""
    compared: int = 0
    """Number of runs among which the best one was picked."""

    @classmethod
    def read(cls, plan: Plan) -> Choices:
        """Return the choices that a plan has made; none for a new plan."""
        file = plan.runs_folder / NAME
        if not is_file(file):
            return cls()
        cure = "remove it; the plan then compares its runs again"
        found = read_checked(file, _Content, needed=(), folder=plan.runs_folder, cure=cure)
        stopped = {
            name: one
            for name, one in found.get("stopped", {}).items()
            # One that was finished by hand is a run like the others.
            if name in plan.names and progress_of(plan.runs_folder / name).state != "done"
        }
        return cls(stopped)

    def write(self, plan: Plan) -> None:
        """Write choices.json."""
        write_json(plan.runs_folder / NAME, {"stopped": self.stopped})

    def stop(self, name: str, folds: int, lead: Gain) -> None:
        """Note that a run was stopped after some folds."""
        self.stopped[name] = {
            "folds": folds,
            "lead": float(lead.value),
            "error": float(lead.error),
        }

    def record(self, members: Sequence[str]) -> Mapping[str, Any]:
        """Return the choices for run.json of the blend."""
        found: dict[str, Any] = {"stopped": self.stopped, "runs": [*members]}
        if self.optimism is not None:
            found["optimism"] = self.optimism.as_dict()
        return found


def sweep(plan: Plan) -> list[str]:
    """Remove the folders of stopped runs that no process uses, and return their names."""
    swept = []
    for name in Choices.read(plan).stopped:
        folder = plan.runs_folder / name
        if folder.is_dir() and not is_in_use(folder):
            remove(folder)
            swept.append(name)
    return swept
