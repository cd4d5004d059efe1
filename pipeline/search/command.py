"""The command line of tune.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from foldblend.cli import run_command, with_flag
from foldblend.failures import CLOSE
from foldblend.help import About
from pipeline.search.config import parse_tune_config
from pipeline.search.storage import require_optuna
from pipeline.watch.hangup import outlive_terminal

__all__ = ["tune"]

ABOUT = About(
    "tune.py",
    "Search for good settings with Optuna: each trial is a cross-validation on the same folds, and"
    " the best one becomes an ordinary run with an estimate of the optimism of its score."
    " DATA is short for --data DATA.",
    (
        "--config recipes/quick.yaml --space recipes/space.yaml --trials 200",
        "DATA --space recipes/space.yaml --finetune head --nested",
    ),
    first="[DATA]",
)


def tune(argv: Sequence[str]) -> int:
    """Run the command line of tune.py and return its exit code."""

    def command() -> None:
        search, config = parse_tune_config(with_flag(argv, "--data"), ABOUT)
        require_optuna()
        # Importing torch takes seconds, so flags, columns and the space are checked first.
        from folds.data.source import check_source
        from pipeline.search.space import read_space

        read_space(search.space_file, config)
        check_source(config.data)
        from pipeline.search.run import search_settings

        with outlive_terminal(Path(config.output.output) / "hangup.log") as say:
            search_settings(search, config, say=say)

    spare = f"{CLOSE}, or pass a smaller --batch-size, fewer --workers or --cache disk"
    return run_command(command, spare=spare)
