"""Audit a data set before training on it: wrong labels, leaks, folds, distributions, test against train.

The data set comes first, a folder in the competition's layout, a CSV or "demo": python -m folds DATA
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from foldblend.cli import parse_flags, run_command
from folds.config import DataConfig, SplitConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class PageConfig:
    page: str | None = None
    """HTML file to write; default: audit_<data set>.html in this folder."""
    quick: bool = False
    """Leave out the search for one person under two names and for swapped labels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditConfig:
    data: DataConfig = field(default_factory=DataConfig)
    """Where pictures and labels come from."""
    split: SplitConfig = field(default_factory=SplitConfig)
    """Who is held out when."""
    page: PageConfig = field(default_factory=PageConfig)
    """What is written."""


def _with_flag(argv: Sequence[str]) -> list[str]:
    """Return the words with the leading DATA made --csv or --data."""
    if not argv or argv[0].startswith("-"):
        return list(argv)
    return ["--csv" if argv[0].lower().endswith(".csv") else "--data", *argv]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""

    def command() -> None:
        words = _with_flag(sys.argv[1:] if argv is None else argv)
        config = parse_flags(AuditConfig, words, prog="python -m folds", description=__doc__ or "")
        from folds.audit.run import run_audit  # pandas and OpenCV: after the flags have been checked

        run_audit(config.data, config.split, page=config.page.page, deep=not config.page.quick)

    return run_command(command, place="--page", resumes=False)


if __name__ == "__main__":
    sys.exit(main())
