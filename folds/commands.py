"""Command line of run_audit.py."""

from __future__ import annotations

from collections.abc import Sequence

from foldblend.cli import parse_flags, run_command
from foldblend.help import About
from folds.config import AuditConfig

__all__ = ["run_audit"]

ABOUT = About(
    "run_audit.py",
    "Check a data set before training: unreadable images, duplicates, labels that look wrong,"
    " groups under two names, the folds, and whether the test set looks like the training set."
    " DATA is short for --data DATA, or for --csv DATA if it ends in .csv.",
    ("FOLDER", "train.csv --image-col file --label-col kind --group-col patient", "demo --quick"),
    first="[DATA]",
)


def _with_flag(argv: Sequence[str]) -> list[str]:
    """Return the arguments with a leading DATA turned into --csv DATA or --data DATA."""
    if not argv or argv[0].startswith("-"):
        return list(argv)
    return ["--csv" if argv[0].lower().endswith(".csv") else "--data", *argv]


def run_audit(argv: Sequence[str]) -> int:
    """Run the command line of run_audit.py and return its exit code."""

    def command() -> None:
        config = parse_flags(AuditConfig, _with_flag(argv), ABOUT)
        # pandas and OpenCV load slowly, so they are imported after the flags have been checked.
        from folds.audit import run

        run.run_audit(config)

    return run_command(command, place="--page", resumes=False)
