"""Settings as flat mappings: from keywords, from YAML files, and compared between runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from foldblend.errors import UserError, require
from foldblend.flags import ALWAYS, flags_of, from_settings
from pipeline.config.run import RunConfig

MOST_CHOSEN = 0.5  # of all settings: a person names some, config.yaml has them all

__all__ = ["flatten", "make_config", "read_config_file", "replace", "values_before"]


def flatten(config: RunConfig) -> dict[str, Any]:
    """Return all settings as one flat mapping, in the order of --help."""
    groups = [group for group in dataclasses.asdict(config).values() if isinstance(group, dict)]
    return {key: value for group in groups for key, value in group.items()}


def make_config(settings: Mapping[str, Any] | None = None, /, **flat: Any) -> RunConfig:
    """Return a RunConfig of flat settings: `make_config(backbone="efficientnet_b3", folds=5)`.

    Keywords win over the mapping, and both over a file that `config` names. Raises UserError for an
    unknown name (with near ones) or a wrong value.
    """
    require(
        settings is None or isinstance(settings, Mapping), f"{settings!r}: no mapping of settings"
    )
    given = {
        str(key).replace("-", "_"): value for key, value in {**(settings or {}), **flat}.items()
    }
    file = given.pop("config", None)
    require(
        not isinstance(file, RunConfig),
        "config: pass a configuration as the first argument, not by keyword",
    )
    base = RunConfig() if file is None else read_config_file(file)
    return replace(base, **given)


def replace(config: RunConfig, /, **flat: Any) -> RunConfig:
    """Return a copy with the named settings changed, whatever their group."""
    return dataclasses.replace(
        from_settings(RunConfig, flatten(config) | flat), typed=config.typed | flat.keys()
    )


def read_config_file(file: str | Path) -> RunConfig:
    """Read a flat YAML file of settings. Raises UserError for a missing file, bad YAML or unknown
    keys.
    """
    try:
        settings = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; check --config") from None
    except UnicodeDecodeError:
        raise UserError(f"{file}: not a text file; check --config") from None
    except yaml.YAMLError as error:
        raise UserError(f"{file}: not valid YAML ({' '.join(str(error).split())})") from None
    if settings is None:
        settings = {}
    require(isinstance(settings, dict), f"{file}: expected `name: value` lines")
    try:
        named = values_before() | settings if _is_whole(settings) else settings
        require(named.get("config") is None, "config: a file of settings cannot name another one")
        return make_config(named)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None


def values_before() -> dict[str, Any]:
    """Return the settings that came later, as versions without them had it."""
    return {
        name: about.before
        for name, about in flags_of(RunConfig).items()
        if about.before is not ALWAYS
    }


def _is_whole(settings: Mapping[Any, Any]) -> bool:
    """Return whether settings are a run's own, which are all that its version had, and not some
    that a person chose.
    """
    always = [name for name, about in flags_of(RunConfig).items() if about.before is ALWAYS]
    return sum(name in settings for name in always) > MOST_CHOSEN * len(always)
