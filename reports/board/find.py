"""Search for the finished runs among folders, with the reason for each that is skipped."""

from __future__ import annotations

import os
from collections.abc import MutableMapping, Sequence
from pathlib import Path

from foldblend.errors import UserError, listed
from foldblend.files import exists, home, is_file, is_link
from foldblend.runs.broken import BrokenRun
from foldblend.runs.check import why_unfinished
from foldblend.runs.run import Run
from foldblend.runs.so_far import Stamp, stamp
from reports.text import printable

__all__ = ["STAMPED", "Known", "find_runs", "folders_of", "look_for_runs", "runs_in"]

# Files of a finished run that a board is made of.
STAMPED = (
    "run.json",
    "oof.parquet",
    "test.parquet",
    "test_labels.csv",
    "config.yaml",
    "blend.yaml",
)
Known = MutableMapping[str, tuple[Stamp, Run]]
"""Runs that were read before, by their folder, each with the stamp of its files then."""


def folders_of(paths: Sequence[str | Path]) -> list[Path]:
    """Return the run folders that paths name.

    If no path is a run, each stands for the runs in it, as outputs/ does. Raises UserError for a
    path that does not exist.
    """
    found = [*map(home, paths)]
    for path in found:
        # A shell passes on a pattern that matches nothing.
        if not exists(path) and "*" not in str(path) and not is_link(path):
            raise UserError(f"{path}: no such run; check the path")
    if any(is_file(path / "run.json") for path in found):
        return found
    return [one for path in found for one in runs_in(path) or [path]]


def runs_in(path: Path) -> list[Path]:
    """Return the folders in a folder that are runs, finished or not."""
    try:
        inside = sorted(path.iterdir()) if path.is_dir() else []
    except OSError:  # it cannot be read
        return []
    return [one for one in inside if is_file(one / "run.json")]


def _known(path: Path, place: str, known: Known) -> Run:
    """Return a finished run, as it was read before if its files are the same since."""
    now = stamp(path, STAMPED)
    if place not in known or known[place][0] != now or known[place][1].path != path:
        known.pop(place, None)
        known[place] = now, _check(path)
    return known[place][1]


def _check(path: Path) -> Run:
    """Return a finished run whose rows can be scored. Raises UserError if it is not."""
    why = why_unfinished(path)
    if why is not None:
        raise UserError(why)
    run = Run(path)
    # Whatever is damaged raises here, so that the run is skipped.
    run.oof  # noqa: B018
    run.ids_hash  # noqa: B018
    if run.test_labels is not None:
        run.test  # noqa: B018
    return run


def look_for_runs(
    paths: Sequence[str | Path], known: Known | None = None
) -> tuple[list[Run], list[dict[str, str]]]:
    """Return the finished runs among the paths, and what was skipped with the reason.

    `known` keeps what was read, so that another look reads only what has changed. Raises UserError
    for a path that does not exist.
    """
    kept: Known = {} if known is None else known
    runs: dict[str, Run] = {}
    skipped = []
    for path in folders_of(paths):
        try:
            # Unlike `resolve`, this takes a link to itself.
            place = os.path.realpath(path)
            if place in runs:
                raise UserError("given twice")
            run = _known(path, place, kept)
        except UserError as error:
            why = error.why if isinstance(error, BrokenRun) else str(error)
            skipped.append({"path": printable(path), "why": printable(why)})
        else:
            runs[place] = run
    for place in kept.keys() - runs.keys():
        del kept[place]
    return list(runs.values()), skipped


def find_runs(paths: Sequence[str | Path]) -> tuple[list[Run], list[dict[str, str]]]:
    """Return the finished runs among the paths, and what was skipped with the reason.

    Raises UserError for a path that does not exist, and where no run is left.
    """
    runs, skipped = look_for_runs(paths)
    if not runs:
        reasons = (
            f" ({listed('{path}: {why}'.format(**one) for one in skipped)})" if skipped else ""
        )
        raise UserError(f"no finished run{reasons}; pass run folders, such as outputs/*")
    return runs, skipped
