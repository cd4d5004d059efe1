"""Settings of runs as plain values, and as text that people read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from reports.text import printable

__all__ = ["plain", "readable", "setting"]

NOT_RECORDED = "(not recorded)"


def plain(value: Any) -> Any:
    """Return a recorded value as a JSON value, with texts that can be printed.

    Lists and mappings stay what they are; values that JSON has no form for become text.
    """
    if (
        value is None
        or isinstance(value, (bool, int))
        or (isinstance(value, float) and math.isfinite(value))
    ):
        return value
    if isinstance(value, Mapping):
        return {printable(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        if value and all(isinstance(one, Mapping) and "name" in one for one in value):
            # The members of a blend.
            return printable(", ".join(_member(one) for one in value))
        return [plain(one) for one in value]
    return printable(value)


def _member(member: Mapping[str, Any]) -> str:
    weight = member.get("weight", 1)
    number = f"{weight:.3g}" if isinstance(weight, (int, float)) else str(weight)
    return f"{member['name']} x {number}"


def _word(value: Any) -> str:
    """Return a single value as text."""
    if value is None or value == [] or value == {}:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else str(value)
    return "(empty)" if value == "" else str(value)


def _lines(value: Any, name: str = "") -> Iterable[str]:
    """Yield the lines of a value; values of a mapping each have one, after the names above."""
    inner: Iterable[tuple[Any, Any]]
    if isinstance(value, Mapping) and value:
        inner = value.items()
    elif isinstance(value, list) and any(isinstance(one, (list, Mapping)) for one in value):
        inner = enumerate(value, 1)
    else:
        text = ", ".join(map(_word, value)) if isinstance(value, list) and value else _word(value)
        yield f"{name}: {text}" if name else text
        return
    for key, one in inner:
        yield from _lines(one, f"{name}.{key}" if name else str(key))


def readable(value: Any) -> str:
    """Return a setting as people write it, with a line for each value of a mapping.

    Examples
    --------
    >>> readable(True), readable(None), readable([0.5, 2]), readable(1e-3)
    ('yes', 'none', '0.5, 2', '0.001')
    >>> readable({"views": ["hflip", "zoom"], "costs": {"cat": 2}})
    'views: hflip, zoom\\ncosts.cat: 2'
    """
    return "\n".join(_lines(value))


def setting(row: Mapping[str, Any], name: str) -> str:
    """Return a setting of a run as text."""
    return readable(row["settings"][name]) if name in row["settings"] else NOT_RECORDED
