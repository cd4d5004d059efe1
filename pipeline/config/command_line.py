"""The command line of a run: defaults, a YAML file, then flags. No torch here."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from foldblend.cli import parse_flags, typed_settings
from pipeline.config.run import RunConfig
from pipeline.config.settings import read_config_file

__all__ = ["parse_run_config"]

_EARLY_FLAGS = ("--config", "-c")


def parse_run_config(argv: Sequence[str], *, prog: str, description: str) -> RunConfig:
    """Return the settings of a run: defaults, then the file of --config, then the flags."""
    default = RunConfig()
    for index, word in enumerate(argv):
        flag, _, value = word.partition("=")
        if flag in _EARLY_FLAGS and (value or index + 1 < len(argv)):
            default = read_config_file(value or argv[index + 1])
    config = parse_flags(RunConfig, argv, prog=prog, description=description, default=default)
    return dataclasses.replace(config, typed=default.typed | typed_settings(RunConfig, argv))
