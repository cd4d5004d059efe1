"""Settings as flat mappings, made from keywords and YAML files."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foldblend.errors import UserError, require
from foldblend.files import home
from foldblend.flags import ALWAYS, flags_of, from_settings
from foldblend.reading import read_yaml_file
from pipeline.config.run import RunConfig

# A file with more than this share of all settings is a run's config.yaml, which has every setting
# of its version; a file that a user wrote has only some.
MOST_CHOSEN = 0.5

# Settings of a run's config.yaml that hold for the command that made it only.
NOT_READ_BACK = ("trust_parts", "cache_dir", "resume", "only_folds", "wandb")

__all__ = ["flatten", "is_of_run", "make_config", "read_config_file", "replace", "values_before"]


def flatten(config: RunConfig) -> dict[str, Any]:
    """Return all settings as one flat mapping, in the order of --help."""
    groups = [getattr(config, field.name) for field in dataclasses.fields(config)]
    return {
        key: value
        for group in groups
        if dataclasses.is_dataclass(group) and not isinstance(group, type)
        for key, value in dataclasses.asdict(group).items()
    }


def make_config(settings: Mapping[str, Any] | None = None, /, **flat: Any) -> RunConfig:
    """Return a RunConfig from flat settings.

    Keywords override the mapping, and both override the file given as `config`.

    Parameters
    ----------
    settings
        Mapping from setting names (as the flags, with - or _) to values.
    **flat
        The same as keywords.

    Raises
    ------
    UserError
        For an unknown name (with similar names) or a wrong value.

    Examples
    --------
    >>> make_config(backbone="efficientnet_b3", folds=5).split.folds
    5
    """
    require(
        settings is None or isinstance(settings, Mapping),
        f"{settings!r}: not a mapping of settings; pass a dictionary, or keywords",
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
    """Return a copy with the given flat settings changed."""
    return dataclasses.replace(
        from_settings(RunConfig, flatten(config) | flat),
        typed=config.typed | flat.keys(),
        read_back={name: file for name, file in config.read_back.items() if name not in flat},
    )


def read_config_file(file: str | Path) -> RunConfig:
    """Read a flat YAML file of settings.

    Those of a file beside a run.json are marked as read back from a run (`RunConfig.read_back`).

    Raises UserError for a missing file, invalid YAML or an unknown setting.
    """
    file = home(file)
    settings = read_yaml_file(file, cure="check --config")
    if settings is None:
        settings = {}
    require(isinstance(settings, dict), f"{file}: expected `name: value` lines")
    in_run = is_of_run(file)
    of_run = in_run or _is_complete(settings)
    if of_run:
        # What a run folder says does not decide whether it is trusted, where files are written or
        # sent, and whether a run is made again.
        for name in NOT_READ_BACK:
            settings.pop(name, None)
    if in_run:
        place = file.resolve().parent
        here = {"output": str(place.parent), "name": place.name}
        settings |= {name: value for name, value in here.items() if name in settings}
    try:
        given = values_before() | settings if _is_complete(settings) else settings
        require(
            given.get("config") is None,
            "config: a settings file cannot refer to another one; leave it out",
        )
        config = make_config(given)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    read_back = dict.fromkeys(config.typed, str(file)) if of_run else {}
    return dataclasses.replace(config, read_back=read_back)


def is_of_run(file: Path) -> bool:
    """Return whether a file of settings is in a run folder, also by way of a link."""
    # A run.json that is a dangling link counts, and so does one above the file's own folder.
    places = {place for one in (file.absolute(), file.resolve()) for place in one.parents[:3]}
    return any(os.path.lexists(place / "run.json") for place in places)


def values_before() -> dict[str, Any]:
    """Return the settings that were added later, with the values that reproduce older versions."""
    return {
        name: about.before
        for name, about in flags_of(RunConfig).items()
        if about.before is not ALWAYS
    }


def _is_complete(settings: Mapping[Any, Any]) -> bool:
    """Return whether the settings are a run's config.yaml and not a user's choice of a few."""
    always = [name for name, about in flags_of(RunConfig).items() if about.before is ALWAYS]
    return sum(name in settings for name in always) > MOST_CHOSEN * len(always)
