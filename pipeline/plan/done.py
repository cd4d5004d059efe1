"""Progress of a plan's runs, read from their folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from foldblend.errors import UserError
from foldblend.files import is_file
from foldblend.runs.check import why_unfinished
from foldblend.runs.folder import is_in_use
from foldblend.runs.run import Run
from foldblend.runs.schema import read_done

__all__ = ["Progress", "progress_of"]

State = Literal["done", "running", "begun", "left"]


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of one run of a plan."""

    state: State
    folds: Mapping[int, float] = field(default_factory=dict)
    """Seconds of each finished fold (model), by its number."""
    score: float | None = None
    """Score of a finished run."""

    @property
    def seconds(self) -> float:
        """Seconds that its finished folds took."""
        return sum(self.folds.values())


def progress_of(folder: Path) -> Progress:
    """Return how far the run in a folder is, which need not exist."""
    if not is_file(folder / "run.json"):
        return Progress("left")
    folds = {}
    for file in sorted(folder.glob("fold_*/done.json")):
        try:
            index = int(file.parent.name.removeprefix("fold_"))
            folds[index] = float(read_done(folder, index)["seconds"])
        except (UserError, ValueError, LookupError):
            continue  # the run itself says what is wrong with it
    if why_unfinished(folder) is None:
        return Progress("done", folds, _score(folder))
    return Progress("running" if is_in_use(folder) else "begun", folds)


def _score(folder: Path) -> float | None:
    try:
        value = Run(folder).report["headline"]["value"]
    except UserError:
        return None
    return None if value is None else float(value)
