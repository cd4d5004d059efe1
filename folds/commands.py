"""Command line of run_audit.py."""

from __future__ import annotations

from collections.abc import Sequence

from foldblend.cli import parse_flags, run_command, with_flag
from foldblend.help import About
from folds.config import AuditConfig

__all__ = ["run_audit"]

ABOUT = About(
    "run_audit.py",
    "Check a data set before training: unreadable images, duplicates, labels that look wrong,"
    " groups under two names, the folds, and whether the test set looks like the training set."
    " DATA is short for --data DATA.",
    ("FOLDER", "train.csv --image-col file --label-col kind --group-col patient", "demo --quick"),
    first="[DATA]",
)


def run_audit(argv: Sequence[str]) -> int:
    """Run the command line of run_audit.py and return its exit code."""

    def command() -> None:
        config = parse_flags(AuditConfig, with_flag(argv, "--data"), ABOUT)
        # pandas and OpenCV load slowly, so they are imported after the flags have been checked.
        from folds.audit import run

        run.run_audit(config)

    return run_command(command, place="--page", resumes=False)
