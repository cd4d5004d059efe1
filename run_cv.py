#!/usr/bin/env python
"""Cross-validate an image classifier: folds, training, out-of-fold and test logits, OOF F1 report."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from foldblend.cli import run_command
from pipeline.config.cli import parse_run_config
from pipeline.watch.hangup import outlive_terminal


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""

    def command() -> None:
        config = parse_run_config(sys.argv[1:] if argv is None else argv, prog="run_cv.py", description=__doc__ or "")
        from pipeline.cv import cross_validate_seeds  # torch takes seconds: after the flags have been checked

        with outlive_terminal(Path(config.output.output) / "hangup.log") as say:
            cross_validate_seeds(config, say=say)

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
