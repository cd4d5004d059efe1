"""Settings as dataclass fields: each is a flag, a YAML key and a keyword argument.

tyro makes the flags from the type, the default and the docstring of each field. `flag(...)` adds
metadata for the rest of the project: whether the setting changes the result, which other flag it
needs, and which value runs of earlier versions have. There is no other list of flags.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from foldblend.drafts import LONGEST_NAME
from foldblend.errors import UserError, did_you_mean, require, shown
from foldblend.files import home

__all__ = [
    "ALWAYS",
    "NOT_A_FLAG",
    "Flag",
    "Needs",
    "aliases_of",
    "check_lengths",
    "expand_home",
    "flag",
    "flag_name",
    "flags_of",
    "from_settings",
    "one_part",
]

Config = TypeVar("Config")
MOST_SHOWN = 80  # letters of a value in a message
MOST_PATH = 3500  # bytes; a system takes 4096, of which files in a run folder need some
ALWAYS = object()  # of a flag that every version had
NOT_A_FLAG = {"not_a_flag": True}  # metadata of a field that only carries something along


@dataclass(frozen=True, slots=True)
class Needs:
    """A condition of a flag: unless it is met, the flag has no effect and the user is told."""

    what: str
    """The condition as typed on a command line, such as "--loss focal"."""
    met: Callable[[Any], bool]
    """Function of the whole configuration that returns whether the condition is met."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Flag:
    """Metadata of a setting beyond its type, default and help text."""

    identity: bool = True
    """Whether the setting changes the result, so that another value makes a different run."""
    before: Any = ALWAYS
    """Value of runs from versions without the flag; it does not make a different run."""
    formerly: tuple[Any, ...] = ()
    """Earlier defaults; runs that were started with one of them keep it."""
    path: bool = False
    """Whether the value is a file or folder, which config.yaml keeps as an absolute path."""
    layouts: tuple[str, ...] = ()
    """Layouts of data on which the setting has an effect (see folds.data.source); (): all."""
    worded: bool = False
    """Whether the report's summary of a run's settings describes this one in words."""
    steps: bool = False
    """Whether the setting affects gradient training only, and so not --finetune head."""
    common: bool = False
    """Whether --help lists the flag; --help-all lists every flag."""
    whole: bool = False
    """Whether a number must be whole, in a setting that is text."""
    needs: Needs | None = None
    """Condition under which the setting has an effect (default: always)."""
    parts: Callable[[Any], Sequence[str]] | None = None
    """Function that returns the names of parts in a value, which may be a user's own
    (module:name); None for a setting that names none.
    """


def flag(default: Any, **about: Any) -> Any:
    """Return a dataclass field with a default and metadata as a flag (see `Flag`)."""
    Flag(**about)  # checked here, joined with what the group says in flags_of
    return dataclasses.field(default=default, metadata=about)


def expand_home(config: Any, *names: str) -> None:
    """Replace ~ at the start of settings that are paths, or tuples of paths, for __post_init__.

    A shell does so only where ~ starts a word, and so not in --output=~/runs.
    """
    for name in names:
        value = getattr(config, name)
        found = tuple(map(_at_home, value)) if isinstance(value, tuple) else _at_home(value)
        if found != value:
            object.__setattr__(config, name, found)


def _at_home(value: Any) -> Any:
    # Other values stay exactly as they were typed.
    return str(home(value)) if isinstance(value, str) and value.startswith("~") else value


def check_lengths(config: Any, *names: str) -> None:
    """Raise UserError for settings that are paths to write, but are too long for any disk.

    Otherwise this would be found after the work, or only for some of the files.
    """
    for name in names:
        value = getattr(config, name)
        if value is None:
            continue
        *folders, last = (len(os.fsencode(part)) for part in Path(value).absolute().parts)
        whole = sum(folders) + len(folders) + last
        require(
            last <= LONGEST_NAME and max([*folders, 0]) <= 255 and whole <= MOST_PATH,
            f"{flag_name(name)} {shown(value, most=40)}: is too long, as a name may have"
            f" {LONGEST_NAME} bytes, and a path {MOST_PATH:,}; pass a shorter one",
        )


def one_part(value: str | None) -> list[str]:
    """Return the names of parts in the value of a setting that names one, or none."""
    return [] if value is None else [value]


def flag_name(name: str) -> str:
    """Return the flag of a setting, such as --img-size of img_size."""
    return f"--{name.replace('_', '-')}"


def _groups(config_class: Any) -> Iterator[tuple[str, Any]]:
    """Yield the field name and dataclass of each nested group of a configuration."""
    for field in dataclasses.fields(config_class):
        if dataclasses.is_dataclass(field.default_factory):
            yield field.name, field.default_factory


def flags_of(config_class: Any) -> dict[str, Flag]:
    """Return the metadata of each setting by name, including nested groups.

    A group's class attribute `GROUP` has defaults for the metadata of all its fields.
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
    """Return the setting of each alias, including nested groups: -b means batch_size."""
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
    """Return a configuration made from flat settings, after type checks and conversions.

    Parameters
    ----------
    config_class
        Dataclass of settings, whose annotations also define the command line.
    settings
        Value of each setting by name or alias, with _ or - between words.

    Raises
    ------
    UserError
        For an unknown name (similar names are suggested) or a value of the wrong type.
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
    """Return a value from YAML or Python converted to the type of its annotation."""
    if hasattr(value, "tolist"):  # of numpy
        value = value.tolist()
    # A union with a Literal is a typing.Union, others are a types.UnionType.
    is_union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    options = typing.get_args(hint) if is_union else (hint,)
    if value is None and type(None) in options:
        return None
    if isinstance(value, (str, Path)) and "\0" in str(value):
        raise UserError(f"{flag_name(name)} {shown(value)}: has a NUL byte; correct it")
    kind, *others = [option for option in options if option is not type(None)]
    if others:  # such as a number or a word
        with contextlib.suppress(UserError):
            return _convert(name, value, kind)
        return _convert(name, value, others[0])
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
        with contextlib.suppress(OverflowError):
            return float(value)
    fits = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
    require(fits, f"{flag_name(name)} {str(value)[:MOST_SHOWN]}: expected {kind.__name__}")
    return value
