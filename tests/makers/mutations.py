"""Every small change to a JSON value: keys removed, values of other types and out of range."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

# Of each type one, numbers that overflow, names that lead elsewhere, and what a terminal obeys.
VALUES = (
    None,
    True,
    -1,
    0,
    10**30,
    1.5,
    float(10**308) * 10,
    "",
    "x",
    "../x",
    "\x1b[31m",
    [],
    [None],
    [[[]]],
    {},
    {"a": {"b": []}},
)


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the places of all values in a value; of a list only the first entry's."""
    if place:
        yield place
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _places(inner, (*place, key))
    elif isinstance(value, list) and value:
        yield from _places(value[0], (*place, 0))


def mutations(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield (what was changed, the changed copy) for each place and each of VALUES."""
    for place in _places(value):
        *above, last = place
        for new in (..., *VALUES):
            changed = copy.deepcopy(value)
            inner = changed
            for key in above:
                inner = inner[key]
            if new is ...:
                del inner[last]
            elif type(inner[last]) is type(new) and inner[last] == new:
                continue
            else:
                inner[last] = new
            yield f"{'.'.join(map(str, place))} {'removed' if new is ... else repr(new)}", changed
