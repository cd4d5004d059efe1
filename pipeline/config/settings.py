"""Settings as flat mappings: from keywords, from YAML files, and compared between runs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

from foldblend.errors import UserError, did_you_mean, listed, require
from folds.config import DataConfig
from pipeline.config.run import OutputConfig, RunConfig

__all__ = ["changed_keys", "flatten", "identity_hash", "make_config", "read_config_file", "replace"]


def flatten(config: RunConfig) -> dict[str, Any]:
    """Return all settings as one flat mapping, in the order of --help."""
    return {key: value for group in dataclasses.asdict(config).values() for key, value in group.items()}


def make_config(settings: Mapping[str, Any] | None = None, /, **flat: Any) -> RunConfig:
    """Return a RunConfig of flat settings: `make_config(backbone="efficientnet_b3", folds=5)`.

    Keywords win over the mapping. Raises UserError for an unknown name (with near ones) or a wrong value.
    """
    merged = {str(key).replace("-", "_"): value for key, value in {**(settings or {}), **flat}.items()}
    groups: dict[str, Any] = {}
    for group in dataclasses.fields(RunConfig):
        group_class = group.default_factory  # the dataclass itself
        names = [one.name for one in dataclasses.fields(group_class)]  # type: ignore[arg-type]
        chosen = {name: merged.pop(name) for name in names if name in merged}
        groups[group.name] = group_class(**_typed(group_class, chosen))  # type: ignore[operator]
    if merged:
        name = next(iter(merged))
        raise UserError(f"unknown setting {name!r}{did_you_mean(name, flatten(RunConfig()))}")
    return RunConfig(**groups)


def replace(config: RunConfig, /, **flat: Any) -> RunConfig:
    """Return a copy with the named settings changed, whatever their group."""
    return make_config(flatten(config), **flat)


def _typed(group_class: Any, chosen: dict[str, Any]) -> dict[str, Any]:
    """Check and convert values that come from YAML or Python, by the same annotations tyro reads."""
    hints = typing.get_type_hints(group_class)
    return {name: _convert(name, value, hints[name]) for name, value in chosen.items()}


def _convert(name: str, value: Any, hint: Any) -> Any:
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in options:
        return None
    kind = next(option for option in options if option is not type(None))
    flag = f"--{name.replace('_', '-')}"
    if typing.get_origin(kind) is Literal:
        allowed = typing.get_args(kind)
        if isinstance(value, bool) and "off" in allowed:  # YAML reads a bare off as false
            value = "on" if value else "off"
        require(value in allowed, f"{flag} {value}: pass one of {', '.join(allowed)}")
        return value
    if kind is str and isinstance(value, (str, int, float, Path)) and not isinstance(value, bool):
        return str(value)
    if kind is float and isinstance(value, str):  # YAML reads 1e-3 as text
        try:
            return float(value)
        except ValueError:
            pass
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    fits = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
    require(fits, f"{flag} {value}: expected {kind.__name__}")
    return value


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
        return make_config(settings)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None


# Where the run is kept, how it is shown, and what cannot change a logit. Paths count by their
# content: the data hash stands for them.
_NOT_IDENTITY = {
    *(item.name for item in dataclasses.fields(DataConfig)),
    *(item.name for item in dataclasses.fields(OutputConfig)),
    "workers",
    "cache",
    "cache_dir",
    "parallel_folds",
    "seeds",
    "fold_file",
}


def _identity(settings: Mapping[str, Any]) -> dict[str, Any]:
    chooses = settings.get("select", "last") != "last"  # an epoch, by --metric
    return {key: value for key, value in settings.items() if key not in _NOT_IDENTITY or (key == "metric" and chooses)}


def identity_hash(config: RunConfig) -> str:
    """Hash of the settings that decide the logits."""
    text = json.dumps(_identity(flatten(config)), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def changed_keys(old: Mapping[str, Any], new: RunConfig) -> str:
    """Return "epochs 4 -> 8, lr 0.001 -> 0.01": the deciding settings that differ, or ""."""
    before, after = _identity(old), _identity(flatten(new))
    return listed(
        (f"{key} {before.get(key)} -> {value}" for key, value in after.items() if before.get(key) != value), most=5
    )
