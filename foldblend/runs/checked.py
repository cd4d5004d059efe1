"""Checks of values from JSON files against type hints; all types and ranges of a file are hints.

A hint is what annotations have: TypedDict, list, dict, Literal, unions, and Annotated with `Rule`s.
pydantic would do the same, but takes a quarter of the time of a short command to import.
"""

from __future__ import annotations

import functools
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from foldblend.errors import listed, shown

__all__ = ["Check", "Rule", "between", "check_of", "filled", "inside", "length", "plain_name"]

Check = Callable[[Any, str], "str | None"]
"""Function of (value, place) that returns what is wrong, or None."""

# Longest name of a file or class that is accepted.
MOST_LETTERS = 4000


@dataclass(frozen=True, eq=False)
class Rule:
    """A condition on a value, as metadata of Annotated."""

    what: str
    """What the value must be; {} stands for the name of its type."""
    holds: Callable[[Any], bool]
    schema: Mapping[str, Any] = field(default_factory=dict)
    """The same as keywords of JSON schema, as far as it can say so."""


def between(least: float, most: float) -> Rule:
    """Return the rule for numbers from `least` to `most`."""
    return Rule(
        f"{{}} from {least:g} to {f'{most:,}' if isinstance(most, int) else f'{most:g}'}",
        lambda value: bool(least <= value <= most),
        {"minimum": least, "maximum": most},
    )


def filled() -> Rule:
    """Return the rule for texts that are not blank and not longer than any name."""
    return Rule(
        f"a text of 1 to {MOST_LETTERS:,} letters",
        lambda value: bool(value.strip()) and len(value) <= MOST_LETTERS,
        {"minLength": 1, "maxLength": MOST_LETTERS},
    )


def length(least: int, most: int) -> Rule:
    """Return the rule for lists with `least` to `most` entries."""
    many = f"{least}" if least == most else f"{least:,} to {most:,}"
    return Rule(
        f"a list of {many} entries",
        lambda value: least <= len(value) <= most,
        {"minItems": least, "maxItems": most},
    )


def _is_plain(name: str) -> bool:
    return 0 < len(name) <= MOST_LETTERS and not {"/", "\0"} & {*name} and name not in (".", "..")


def plain_name() -> Rule:
    """Return the rule for names of a file or folder that lead to no other folder."""
    return Rule("the name of a file or folder, without / and ..", _is_plain, {"minLength": 1})


def _is_inside(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return bool(parts) and path[0] != "/" and all(map(_is_plain, parts))


def inside() -> Rule:
    """Return the rule for paths of files in the run folder."""
    return Rule("the path of a file in the run folder, without ..", _is_inside, {"minLength": 1})


TYPES: dict[Any, tuple[str, Callable[[Any], bool]]] = {
    str: ("a text", lambda value: isinstance(value, str)),
    # True and False are integers in Python, but not in JSON.
    int: ("a whole number", lambda value: type(value) is int),
    float: (
        "a finite number",
        lambda value: type(value) is int or (type(value) is float and math.isfinite(value)),
    ),
    bool: ("true or false", lambda value: isinstance(value, bool)),
    type(None): ("null", lambda value: value is None),
}


def _must(place: str, what: str, value: Any) -> str:
    start = repr(value[:200] if isinstance(value, str) else value)
    return f"{place}: must be {what}, not {shown(start)}"


def _plain(hint: Any) -> Check:
    what, is_one = TYPES[hint]
    return lambda value, place: None if is_one(value) else _must(place, what, value)


def _literal(options: tuple[Any, ...]) -> Check:
    what = " or ".join(map(repr, options))

    def check(value: Any, place: str) -> str | None:
        # Lists have no hash, so membership is tested one by one.
        good = any(type(value) is type(one) and value == one for one in options)
        return None if good else _must(place, what, value)

    return check


def _annotated(parts: tuple[Any, ...]) -> Check:
    base = check_of(parts[0])
    noun = TYPES[parts[0]][0] if parts[0] in TYPES else "a value"
    rules = [one for one in parts[1:] if isinstance(one, Rule)]

    def check(value: Any, place: str) -> str | None:
        wrong = base(value, place)
        if wrong is not None:
            return wrong
        failed = next((one for one in rules if not one.holds(value)), None)
        return None if failed is None else _must(place, failed.what.format(noun), value)

    return check


def _list(item: Any) -> Check:
    inner = check_of(item)

    def check(value: Any, place: str) -> str | None:
        if not isinstance(value, list):
            return _must(place, "a list", value)
        found = (inner(one, f"{place}[{index}]") for index, one in enumerate(value))
        return next((one for one in found if one is not None), None)

    return check


def _dict(key: Any, value_hint: Any) -> Check:
    of_key = check_of(key)
    of_value = check_of(value_hint)

    def check(value: Any, place: str) -> str | None:
        if not isinstance(value, dict):
            return _must(place, "an object", value)
        for name, one in value.items():
            wrong = of_key(name, f"a key of {place}") or of_value(one, f"{place}[{shown(name)!r}]")
            if wrong is not None:
                return wrong
        return None

    return check


def _union(options: tuple[Any, ...]) -> Check:
    checks = [check_of(one) for one in options]

    def check(value: Any, place: str) -> str | None:
        found = [one(value, place) for one in checks]
        if None in found:
            return None
        whats = [str(one).partition(": must be ")[2].rpartition(", not ")[0] for one in found]
        # A value of the right type but out of range, or an object with a wrong key, is told so.
        inner = next((one for one in found if one and not one.startswith(f"{place}: ")), None)
        return inner or _must(place, " or ".join(whats), value)

    return check


def _object(typed: Any) -> Check:
    hints = typing.get_type_hints(typed, include_extras=True)
    checks = {name: check_of(hint) for name, hint in hints.items()}
    required = sorted(typed.__required_keys__)

    def check(value: Any, place: str) -> str | None:
        if not isinstance(value, dict):
            return _must(place or "the content", "an object", value)
        # What the whole file must have is up to its reader: earlier versions wrote fewer keys.
        absent = [name for name in required if name not in value] if place else []
        if absent:
            return f"{place}: lacks {listed(absent)}"
        at = f"{place}." if place else ""
        found = (one(value[name], f"{at}{name}") for name, one in checks.items() if name in value)
        return next((one for one in found if one is not None), None)

    return check


@functools.cache
def check_of(hint: Any) -> Check:
    """Return the check of values against a type hint.

    Of an object that is the whole file (place ""), required keys may be absent; unknown keys are
    always allowed.

    Examples
    --------
    >>> check = check_of(dict[str, list[int]])
    >>> check({"a": [1, 2]}, "pages")
    >>> check({"a": [1, "x"]}, "pages")
    "pages['a'][1]: must be a whole number, not 'x'"
    """
    origin = typing.get_origin(hint)
    parts = typing.get_args(hint)
    if hint is Any:
        return lambda value, place: None
    if typing.is_typeddict(hint):
        return _object(hint)
    if origin is typing.Required:
        return check_of(parts[0])
    if origin is typing.Annotated:
        return _annotated(parts)
    if origin is typing.Literal:
        return _literal(parts)
    if origin is list:
        return _list(parts[0])
    if origin is dict:
        return _dict(*parts)
    if isinstance(hint, types.UnionType) or origin is typing.Union:
        return _union(parts)
    return _plain(hint)
