"""Settings as flat mappings: from keywords, from YAML files, and compared between runs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from foldblend.errors import UserError, listed, require
from foldblend.flags import ALWAYS, flags_of, from_settings
from pipeline.config.run import RunConfig

__all__ = ["changed_keys", "flatten", "identity_hash", "keep_defaults", "make_config", "read_config_file", "replace"]


def flatten(config: RunConfig) -> dict[str, Any]:
    """Return all settings as one flat mapping, in the order of --help."""
    groups = [group for group in dataclasses.asdict(config).values() if isinstance(group, dict)]
    return {key: value for group in groups for key, value in group.items()}


def make_config(settings: Mapping[str, Any] | None = None, /, **flat: Any) -> RunConfig:
    """Return a RunConfig of flat settings: `make_config(backbone="efficientnet_b3", folds=5)`.

    Keywords win over the mapping. Raises UserError for an unknown name (with near ones) or a wrong value.
    """
    given = {str(key).replace("-", "_"): value for key, value in {**(settings or {}), **flat}.items()}
    return dataclasses.replace(from_settings(RunConfig, given), typed=frozenset(given))


def replace(config: RunConfig, /, **flat: Any) -> RunConfig:
    """Return a copy with the named settings changed, whatever their group."""
    return dataclasses.replace(make_config(flatten(config), **flat), typed=config.typed | flat.keys())


def keep_defaults(config: RunConfig, written: Mapping[Any, Any]) -> RunConfig:
    """Return the settings with defaults that have changed as a run has them that was started before.

    `written` is its config.yaml, as a mapping. What was typed stays as it was typed.
    """
    kept = {}
    for name, about in flags_of(RunConfig).items():
        value = written.get(name, about.before)
        was_default = value in about.formerly or (name not in written and value is not ALWAYS)
        if written and was_default and name not in config.typed:
            kept[name] = value
    return dataclasses.replace(replace(config, **kept), typed=config.typed)


def read_config_file(file: str | Path) -> RunConfig:
    """Read a flat YAML file of settings. Raises UserError for a missing file, bad YAML or unknown keys."""
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
        return make_config(_before() | settings if _is_whole(settings) else settings)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None


def _before() -> dict[str, Any]:
    """Return the settings that came later, as versions without them had it."""
    return {name: about.before for name, about in flags_of(RunConfig).items() if about.before is not ALWAYS}


def _is_whole(settings: Mapping[Any, Any]) -> bool:
    """Return whether settings are a run's own, which are all that its version had, and not some that a person chose."""
    return all(name in settings for name, about in flags_of(RunConfig).items() if about.before is ALWAYS)


def _identity(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that decide the logits; a flag that came later only where it changes what was before it."""
    known = flags_of(RunConfig)
    chooses = settings.get("select", "last") != "last"  # an epoch, by --metric
    return {
        key: value
        for key, value in settings.items()
        if (key == "metric" and chooses) or (known[key].identity and value != known[key].before)
    }


def identity_hash(config: RunConfig) -> str:
    """Hash of the settings that decide the logits."""
    text = json.dumps(_identity(flatten(config)), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def changed_keys(old: Mapping[str, Any], new: RunConfig) -> str:
    """Return "epochs 4 -> 8, lr 0.001 -> 0.01": the deciding settings that differ, or ""."""
    before, after = _before() | _identity(old), _before() | _identity(flatten(new))
    changed = (f"{key} {before.get(key)} -> {value}" for key, value in after.items() if before.get(key) != value)
    return listed(changed, most=5)
