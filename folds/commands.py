"""Command lines of run_audit.py and import_run.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from foldblend.cli import parse_flags, run_command, with_flag
from foldblend.help import About
from folds.config import AuditConfig
from folds.import_config import ImportConfig

__all__ = ["import_run", "run_audit"]

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


ABOUT_IMPORT = About(
    "import_run.py",
    "Write out-of-fold and test predictions of another library as a run folder, which can be"
    " blended, reported on and compared.",
    (
        "--oof oof.csv --labels train.csv --name sk",
        "--oof oof.csv --test test_fold_*.csv --labels outputs/RUN --name keras",
        "--oof oof.csv --folds folds.csv --labels train.csv --kind logits --name mm",
    ),
)


def import_run(argv: Sequence[str]) -> int:
    """Run the command line of import_run.py and return its exit code."""

    def command() -> None:
        config = parse_flags(ImportConfig, argv, ABOUT_IMPORT)
        settings = {
            one.name: getattr(config, one.name)
            for one in dataclasses.fields(config)
            if one.name not in ("oof", "labels")
        }
        from folds.data.imported import run

        run.import_run(str(config.oof), str(config.labels), **settings)

    return run_command(command, resumes=False)
