"""Settings as dataclass fields: one field is a flag, a key of a YAML file and a keyword, with all
that is known of it.

A field's type, default and the text under it are what tyro reads. `flag(...)` adds what the rest of
the project must know: whether it decides the result, which other flag it needs, what stood in its
place before it existed. No list of flags stands anywhere else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from foldblend.errors import UserError, did_you_mean, require

__all__ = [
    "ALWAYS",
    "NOT_A_FLAG",
    "Flag",
    "Needs",
    "aliases_of",
    "flag",
    "flag_name",
    "flags_of",
    "from_settings",
]

Config = TypeVar("Config")
MOST_SHOWN = 80  # letters of a value in a message
ALWAYS = object()  # of a flag that every version had
NOT_A_FLAG = {"not_a_flag": True}  # metadata of a field that only carries something along


@dataclass(frozen=True, slots=True)
class Needs:
    """What a flag goes with: where it is not met, a value other than the default does nothing, and
    that is said.
    """

    what: str
    """As a person would type it, such as "--loss focal"."""
    met: Callable[[Any], bool]
    """Whether the whole configuration has it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Flag:
    """What is known of a setting beside its type, default and help."""

    identity: bool = True
    """Whether it decides the result, so that another value makes another run."""
    before: Any = ALWAYS
    """What versions without the flag did: the value that a config.yaml without it has, and that
    makes no other run.
    """
    formerly: tuple[Any, ...] = ()
    """Earlier defaults, which runs that were started with them keep."""
    path: bool = False
    """Whether it names a file or folder, which config.yaml keeps as an absolute path."""
    csv_only: bool = False
    """Whether it says something of --csv, and needs that."""
    worded: bool = False
    """Whether the report's sentence on how a run was made says it in words."""
    steps: bool = False
    """Whether it matters only where training steps are taken, so not to --finetune head."""
    needs: Needs | None = None
    """Which other flag it goes with."""


def flag(default: Any, **about: Any) -> Any:
    """Return a dataclass field with a default and what is known of it as a flag (see `Flag`)."""
    Flag(**about)  # checked here, joined with what the group says in flags_of
    return dataclasses.field(default=default, metadata=about)


def flag_name(name: str) -> str:
    """Return a setting's name as a flag: --img-size of img_size."""
    return f"--{name.replace('_', '-')}"


def _groups(config_class: Any) -> Iterator[tuple[str, Any]]:
    """Yield (field name, dataclass) of the nested groups of a configuration."""
    for field in dataclasses.fields(config_class):
        if dataclasses.is_dataclass(field.default_factory):
            yield field.name, field.default_factory


def flags_of(config_class: Any) -> dict[str, Flag]:
    """Return what is known of each setting of a configuration, groups included, by name.

    What a group says of all its fields in `GROUP` holds for those that do not say otherwise.
    """
    known: dict[str, Flag] = {}
    nested = dict(_groups(config_class))
    for field in dataclasses.fields(config_class):
        if field.name in nested:
            known |= flags_of(nested[field.name])
        elif "not_a_flag" not in field.metadata:
            known[field.name] = Flag(**getattr(config_class, "GROUP", {}) | field.metadata)
    return known


def aliases_of(config_class: Any) -> dict[str, str]:
    """Return the further spellings of flags, groups included, such as -b of batch_size and --model
    of backbone.
    """
    found: dict[str, str] = {}
    nested = dict(_groups(config_class))
    hints = typing.get_type_hints(config_class, include_extras=True)
    for field in dataclasses.fields(config_class):
        if field.name in nested:
            found |= aliases_of(nested[field.name])
        elif typing.get_origin(hints[field.name]) is Annotated:
            spelt = [
                getattr(one, "aliases", None) or ()
                for one in typing.get_args(hints[field.name])[1:]
            ]
            found |= {alias: field.name for aliases in spelt for alias in aliases}
    return found


def from_settings(config_class: Callable[..., Config], settings: Mapping[str, Any]) -> Config:
    """Return a configuration of flat settings, checked and converted by the annotations that tyro
    reads too.

    Raises UserError for an unknown name (with near ones) or a wrong value.
    """
    words = {alias.removeprefix("--"): name for alias, name in aliases_of(config_class).items()}
    spelt = {str(key).replace("-", "_"): value for key, value in settings.items()}
    left = {words.get(key, key): value for key, value in spelt.items()}
    nested = dict(_groups(config_class))
    groups: dict[str, Any] = {}
    for group, group_class in nested.items():
        names = [field.name for field in dataclasses.fields(group_class)]
        chosen = {name: left.pop(name) for name in names if name in left}
        groups[group] = group_class(**_typed(group_class, chosen))
    own = flags_of(config_class).keys() & {field.name for field in dataclasses.fields(config_class)}  # type: ignore[arg-type]
    groups |= _typed(config_class, {name: left.pop(name) for name in own if name in left})
    if left:
        name = next(iter(left))
        raise UserError(f"unknown setting {name!r}{did_you_mean(name, flags_of(config_class))}")
    return config_class(**groups)


def _typed(group_class: Any, chosen: dict[str, Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(group_class)
    return {name: _convert(name, value, hints[name]) for name, value in chosen.items()}


def _convert(name: str, value: Any, hint: Any) -> Any:
    """Return a value that comes from YAML or Python as its annotation has it. Raises UserError."""
    if hasattr(value, "tolist"):  # of numpy
        value = value.tolist()
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in options:
        return None
    kind = next(option for option in options if option is not type(None))
    if typing.get_origin(kind) is tuple:
        require(
            isinstance(value, (list, tuple)), f"{flag_name(name)} {value}: expected several of them"
        )
        return tuple(_convert(name, one, typing.get_args(kind)[0]) for one in value)
    if typing.get_origin(kind) is Literal:
        allowed = typing.get_args(kind)
        if isinstance(value, bool) and "off" in allowed:  # YAML reads a bare off as false
            value = "on" if value else "off"
        require(value in allowed, f"{flag_name(name)} {value}: pass one of {', '.join(allowed)}")
        return value
    if kind is str and isinstance(value, (str, int, float, Path)) and not isinstance(value, bool):
        return str(value)
    if kind in (int, float) and isinstance(value, str):  # YAML reads 1e-3 as text
        with contextlib.suppress(ValueError):
            return kind(value)
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    fits = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
    require(fits, f"{flag_name(name)} {str(value)[:MOST_SHOWN]}: expected {kind.__name__}")
    return value
