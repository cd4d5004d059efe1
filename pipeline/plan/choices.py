"""Choices that a plan made on the folds that score its runs, kept in choices.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, TypedDict

from foldblend.files import is_file, remove
from foldblend.runs.checked import between
from foldblend.runs.folder import write_json
from foldblend.runs.info import StoppedInfo
from foldblend.runs.schema import read_checked
from foldblend.scores.race import Optimism
from foldblend.scores.score import Gain
from pipeline.plan.plan_file import Plan

__all__ = ["Choices", "sweep"]

NAME = "choices.json"


class _Optimism(TypedDict):
    value: float
    error: float
    num: Annotated[int, between(0, 10_000)]


class _Content(TypedDict, total=False):
    """Content of choices.json."""

    stopped: dict[str, StoppedInfo]
    blended: list[str]
    optimism: _Optimism


@dataclass(slots=True)
class Choices:
    """The choices of a plan so far."""

    stopped: dict[str, StoppedInfo] = field(default_factory=dict)
    """Runs that clearly lost, by name."""
    blended: list[str] = field(default_factory=list)
    """Names of the runs of the last blend, sorted."""
    optimism: Optimism | None = None
    """By how much the score of the best run is too high, since it was picked on these rows."""
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
        optimism = found.get("optimism")
        return cls(
            stopped=dict(found.get("stopped", {})),
            blended=list(found.get("blended", ())),
            optimism=None if optimism is None else Optimism(optimism["value"], optimism["error"]),
            compared=0 if optimism is None else optimism["num"],
        )

    def write(self, plan: Plan) -> None:
        """Write choices.json."""
        content: dict[str, Any] = {"stopped": self.stopped, "blended": self.blended}
        if self.optimism is not None:
            content["optimism"] = {
                "value": self.optimism.value,
                "error": self.optimism.error,
                "num": self.compared,
            }
        write_json(plan.runs_folder / NAME, content)

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
            found["optimism"] = {"value": self.optimism.value, "error": self.optimism.error}
        return found


def sweep(plan: Plan) -> list[str]:
    """Remove the folders of stopped runs, and return their names."""
    choices = Choices.read(plan)
    swept = []
    for name in choices.stopped:
        folder = plan.runs_folder / name
        # A name in the file is a name among the runs of the plan, and no path.
        if name in {run.name for run in plan.runs} and folder.is_dir():
            remove(folder)
            swept.append(name)
    return swept
