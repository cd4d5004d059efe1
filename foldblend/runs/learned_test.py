"""Words on the test score of a run that has learned test images, and of what is made of such runs.

Models of another run have labelled these images. Their known labels are not used, but a score on
them is not one of unseen images.
"""

from __future__ import annotations

from collections.abc import Iterable

from foldblend.errors import listed
from foldblend.runs.run import Run

__all__ = ["notes_of_learned_tests", "runs_that_learned_tests"]


def runs_that_learned_tests(runs: Iterable[Run]) -> list[str]:
    """Return the names of the runs, or of their members, that learned test images of the score."""
    found: dict[str, None] = {}
    for run in runs:
        found |= dict.fromkeys(run.info.get("test_learned_by", ()))
        if run.info.get("labels", {}).get("num_scored_test"):
            found[run.name] = None
    return [*found]


def notes_of_learned_tests(runs: Iterable[Run]) -> list[str]:
    """Return the note of a run that is made of others, if any of these learned test images."""
    names = runs_that_learned_tests(runs)
    if not names:
        return []
    return [
        f"{listed(names)} learned test images without their labels, so the score on the test set is"
        " not one of unseen images"
    ]
