"""Checks that a folder is a finished run; every stage that reads runs uses them."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

from foldblend.errors import listed
from foldblend.files import exists, home, is_file, is_link
from foldblend.runs.broken import BrokenRun
from foldblend.runs.info import RunInfo
from foldblend.runs.run import Run

__all__ = [
    "BAD_LINK",
    "NEEDED",
    "NEEDED_TO_BUILD_ON",
    "NOT_A_RUN",
    "finished_run",
    "load",
    "why_unfinished",
]

# Keys of run.json that every reader of a run needs.
NEEDED = tuple(sorted(RunInfo.__required_keys__))
# Those that blends and TTA need as well.
NEEDED_TO_BUILD_ON = (*NEEDED, "answers", "has_test", "num_test_folds", "run_key")
NOT_A_RUN = "not a run folder"
BAD_LINK = "is a link that leads nowhere or to itself"


def why_unfinished(folder: Path, *, needed: Sequence[str] = NEEDED) -> str | None:
    """Return why a folder is not a finished run, with the cure, or None if it is one.

    Parameters
    ----------
    folder
        The run folder.
    needed
        Keys that run.json must have.
    """
    if is_link(folder) and not exists(folder):
        return BAD_LINK
    try:
        if not (folder / "run.json").is_file():
            return NOT_A_RUN
    except OSError as error:  # for example, the name is too long
        return f"cannot be read ({error.strerror})"
    try:
        info = Run(folder).info
    except BrokenRun as error:
        return error.why
    if info.get("status") != "done":
        return "not finished; run the same command again"
    absent = [name for name in needed if name not in info]
    if absent:
        return f"run.json lacks {listed(absent)}, as in runs of earlier versions; run it again"
    return None


def finished_run(folder: str | Path, *, needed: Sequence[str] = NEEDED) -> Run:
    """Return the finished run of a folder.

    Raises UserError, with the cure, if the folder is not a finished run.
    """
    path = home(folder)
    why = why_unfinished(path, needed=needed)
    if why is not None:
        cure = "; pass the folder of a finished run" if why == NOT_A_RUN else ""
        file = why.startswith("run.json: ")
        raise BrokenRun(f"{path}/{why}" if file else f"{path}: {why}{cure}", path)
    return Run(path)


def load(folder: str | Path) -> Run:
    """Load a finished run, TTA'd run or blend from its folder, or from an exported file.

    Parameters
    ----------
    folder
        Folder of the run, such as ``outputs/RUN``, or a file of `export_model`.

    Returns
    -------
    Run
        The run, with ``.oof``, ``.test``, ``.report``, ``.classes``, ``.predict`` and more. Tables
        are read on first access; an exported file has none.

    Raises
    ------
    UserError
        If the folder is not a finished run, or the file is damaged.

    Examples
    --------
    >>> run = fb.load(outputs / "alpha")
    >>> run.oof[["image_id", "group", "label", "fold"]].shape
    (84, 4)
    """
    if is_file(Path(folder)):
        # What reads models is in a higher layer, so it is looked up by its name.
        found: Run = importlib.import_module("foldblend").load_export(folder)
        return found
    return finished_run(folder)
