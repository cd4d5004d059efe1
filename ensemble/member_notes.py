"""Lines and notes on the members of a blend: costs, marks of optimism, folds, test sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ensemble.align import Aligned
from ensemble.config import AUTO, BlendConfig
from foldblend.errors import UserError, listed
from foldblend.runs.learned_test import notes_of_learned_tests
from foldblend.runs.refit import num_refits
from foldblend.runs.rows import group_name_of
from foldblend.runs.run import Run
from foldblend.runs.search import notes_of_searches
from foldblend.words import plural
from reports.text import table

__all__ = ["member_lines", "optimism_notes", "row_notes"]

# Marks of runs whose scores are too high. Each has a flag, --allow-MARK, that admits such runs to
# a blend: why the score is too high, and the note of a blend that has such members.
# {groups} is what groups are called in the data.
OPTIMISM = {
    "optimistic": (
        "epochs were chosen on the rows that are scored (--select best)",
        "OPTIMISTIC: epochs of {names} were chosen on the same rows that are scored",
    ),
    "leaks": (
        (
            "{groups} leak between folds (--split random, or a blend fitted with"
            " --allow-different-folds)"
        ),
        "{groups} leak between the folds of {names}, so this score is probably too high",
    ),
}


def member_lines(
    runs: Sequence[Run], costs: tuple[np.ndarray, str], skipped: Sequence[tuple[Path, str]]
) -> list[str]:
    """Return the table of members with their costs, and the skipped folders."""
    header = ["in the blend", "kind", "cost"]
    rows = [
        [run.name, run.info["kind"], f"{cost:.3g}x"]
        for run, cost in zip(runs, costs[0], strict=True)
    ]
    return [
        *table(header, rows),
        f"a cost of 1x is {costs[1]}",
        *(f"skipped {path}: {why}" for path, why in skipped),
    ]


def optimism_notes(runs: Sequence[Run], config: BlendConfig) -> list[str]:
    """Return notes on members whose scores are too high.

    Raises
    ------
    UserError
        If there are such members and no flag admits them.
    """
    notes = []
    groups = plural(group_name_of(runs))
    for mark, (why, note) in OPTIMISM.items():
        names = listed(run.name for run in runs if run.info.get(mark))
        if names and not getattr(config, f"allow_{mark}"):
            raise UserError(
                f"{names}: {why.format(groups=groups)}, so the blend's score would be too high;"
                f" leave them out or pass --allow-{mark}"
            )
        if names:
            notes.append(note.format(groups=groups, names=names))
    return [*notes, *notes_of_searches(runs), *notes_of_learned_tests(runs)]


def row_notes(aligned: Aligned, config: BlendConfig) -> list[str]:
    """Return notes on the members' rows: folds, corrections, test sets."""
    notes = []
    first = aligned.runs[0]
    if aligned.imported_means:
        vote = "a soft vote" if config.method == AUTO else "a vote"
        notes.append(
            f"test predictions of {listed(aligned.imported_means)} were imported as their mean over"
            f" folds, to which nothing fitted is applied, so this is {vote}; import one test file"
            " per fold to fit a blend"
        )
    if not aligned.same_folds:
        what = (
            f"those of fitted methods are too high, because labels of held-out {aligned.groups} are"
            " used"
            if config.allow_different_folds
            else "so only votes were tried"
        )
        notes.append(f"members have different folds: only scores of votes are valid, {what}")
    refits = [run.name for run in aligned.runs if num_refits(run.info)]
    if refits:
        notes.append(
            f"in {listed(refits)}, models of all rows have a share of the test logits; they have no"
            " part in the score and the weights"
        )
    if aligned.corrections_differ:
        notes.append(
            "members have different corrections: the blend uses the original labels, before"
            " corrections"
        )
    if first.info["data"].get("is_demo"):
        notes.append(
            "demo set with synthetic faces: it only shows that everything runs;"
            " its scores mean nothing"
        )
    without_test = [run.name for run in aligned.runs if not run.info["has_test"]]
    if without_test:
        notes.append(f"no test logits, because these members have none: {listed(without_test)}")
    if aligned.num_left_out:
        notes.append(
            f"test sets differ: {aligned.num_left_out} images that are not in all of them are left"
            " out"
        )
    if aligned.test_folds == [None] and not aligned.imported_means:
        notes.append(
            "members differ in the number of folds: test logits are a vote of their means over"
            " folds"
        )
    return notes
