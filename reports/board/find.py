"""Search for the finished runs among folders, with the reason for each that is skipped."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from foldblend.errors import UserError, listed
from foldblend.files import exists, home, is_link
from foldblend.runs.broken import BrokenRun
from foldblend.runs.check import why_unfinished
from foldblend.runs.run import Run
from reports.text import printable

__all__ = ["find_runs"]


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


def find_runs(paths: Sequence[str | Path]) -> tuple[list[Run], list[dict[str, str]]]:
    """Return the finished runs among the paths, and what was skipped with the reason.

    Raises UserError for a path that does not exist, and where no run is left.
    """
    runs: dict[str, Run] = {}
    skipped = []
    for path in map(home, paths):
        # A shell passes on a pattern that matches nothing.
        if not exists(path) and "*" not in str(path) and not is_link(path):
            raise UserError(f"{path}: no such run; check the path")
        try:
            # Unlike `resolve`, this takes a link to itself.
            place = os.path.realpath(path)
            if place in runs:
                raise UserError("given twice")
            run = _check(path)
        except UserError as error:
            why = error.why if isinstance(error, BrokenRun) else str(error)
            skipped.append({"path": printable(path), "why": printable(why)})
        else:
            runs[place] = run
    if not runs:
        reasons = (
            f" ({listed('{path}: {why}'.format(**one) for one in skipped)})" if skipped else ""
        )
        raise UserError(f"no finished run{reasons}; pass run folders, such as outputs/*")
    return list(runs.values()), skipped
