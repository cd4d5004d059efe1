"""Command line of a run: defaults, then a YAML file, then flags."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

from foldblend.cli import early_value, parse_flags, typed_settings
from foldblend.help import About
from pipeline.config.run import RunConfig
from pipeline.config.settings import read_config_file, replace

__all__ = ["parse_run_config", "parse_with_run"]

Config = TypeVar("Config", bound=RunConfig)

# Settings that name the same thing: one that is typed replaces the others of a file.
SAME = (("csv", "data"), ("csv", "dataset"), ("test", "test_csv"))


def _without_replaced(default: RunConfig, typed: frozenset[str]) -> RunConfig:
    """Return a file's settings without the data source that the command line replaces."""
    gone = {
        other
        for pair in SAME
        for name, other in (pair, pair[::-1])
        if name in typed and other not in typed
    }
    if not gone:
        return default
    return replace(default, **dict.fromkeys(gone))


def parse_run_config(argv: Sequence[str], about: About) -> RunConfig:
    """Return the settings of a run: defaults, overridden by the file of --config, then by flags."""
    return parse_with_run(RunConfig, argv, about)


def parse_with_run(config_class: type[Config], argv: Sequence[str], about: About) -> Config:
    """Return the settings of a run with further groups of flags, which a file cannot set."""
    file = early_value(argv, ("--config", "-c"))
    default = RunConfig() if file is None else read_config_file(file)
    typed = typed_settings(RunConfig, argv)
    default = _without_replaced(default, typed)
    groups = {field.name: getattr(default, field.name) for field in dataclasses.fields(RunConfig)}
    # tyro warns of a default value that it cannot have parsed itself, such as a filled `typed`.
    untyped = config_class(**groups | {"typed": frozenset(), "read_back": {}})
    config = parse_flags(config_class, argv, about, default=untyped)
    return dataclasses.replace(
        config,
        typed=default.typed | typed,
        read_back={name: file for name, file in default.read_back.items() if name not in typed},
    )
