"""Progress of a plan's runs, read from their folders."""

from __future__ import annotations

from dataclasses import dataclass
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
    folds: int = 0
    """Finished folds (models)."""
    seconds: float = 0.0
    """Seconds that its finished folds took."""
    score: float | None = None
    """Score of a finished run."""


def progress_of(folder: Path) -> Progress:
    """Return how far the run in a folder is, which need not exist."""
    if not is_file(folder / "run.json"):
        return Progress("left")
    seconds = []
    for file in sorted(folder.glob("fold_*/done.json")):
        try:
            index = int(file.parent.name.removeprefix("fold_"))
            seconds.append(float(read_done(folder, index)["seconds"]))
        except (UserError, ValueError, LookupError):
            continue  # the run itself says what is wrong with it
    spent = sum(seconds)
    if why_unfinished(folder) is None:
        return Progress("done", len(seconds), spent, _score(folder))
    return Progress("running" if is_in_use(folder) else "begun", len(seconds), spent)


def _score(folder: Path) -> float | None:
    try:
        value = Run(folder).report["headline"]["value"]
    except UserError:
        return None
    return None if value is None else float(value)
