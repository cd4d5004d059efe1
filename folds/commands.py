"""The command run_audit.py, from words to exit code."""

from __future__ import annotations

from collections.abc import Sequence

from foldblend.cli import parse_flags, program, run_command
from folds.config import AuditConfig

__all__ = ["run_audit"]

ABOUT = """Audit a data set before training: wrong labels, leaks, folds, distributions, test set.

The data set comes first, a folder, a CSV or "demo": python run_audit.py DATA
"""


def _with_flag(argv: Sequence[str]) -> list[str]:
    """Return the words with the leading DATA made --csv or --data."""
    if not argv or argv[0].startswith("-"):
        return list(argv)
    return ["--csv" if argv[0].lower().endswith(".csv") else "--data", *argv]


def run_audit(argv: Sequence[str]) -> int:
    """Run the command line of run_audit.py and return its exit code."""

    def command() -> None:
        config = parse_flags(
            AuditConfig, _with_flag(argv), prog=program("run_audit.py"), description=ABOUT
        )
        from folds.audit import run  # pandas and OpenCV: after the flags have been checked

        run.run_audit(config)

    return run_command(command, place="--page", resumes=False)
