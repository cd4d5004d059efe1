"""Memory of a watch: what was read and computed, kept as long as looks use it."""

from __future__ import annotations

import os
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foldblend.runs.so_far import stamp
from reports.board.find import Known
from reports.board.running import is_unfinished

__all__ = ["Kept", "Memory"]


class Kept(MutableMapping[Any, Any]):
    """A mapping that can drop what has not been used since it did so before.

    Examples
    --------
    >>> kept = Kept()
    >>> kept["old"] = 1
    >>> kept.drop_unused()
    >>> kept["new"] = 2
    >>> kept.drop_unused()
    >>> list(kept)
    ['new']
    """

    def __init__(self) -> None:
        self._values: dict[Any, Any] = {}
        self._used: set[Any] = set()

    def __getitem__(self, key: Any) -> Any:
        value = self._values[key]
        self._used.add(key)
        return value

    def __setitem__(self, key: Any, value: Any) -> None:
        self._values[key] = value
        self._used.add(key)

    def __delitem__(self, key: Any) -> None:
        del self._values[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def drop_unused(self) -> None:
        """Drop all keys that were neither set nor looked up since the call before."""
        for key in self._values.keys() - self._used:
            del self._values[key]
        self._used.clear()


@dataclass(frozen=True)
class Memory:
    """Keeps what was read and computed, so that a look does it for what has changed only."""

    known: Known = field(default_factory=dict)
    cache: Kept = field(default_factory=Kept)

    def is_unfinished(self, path: Path) -> bool:
        """Return what `is_unfinished` does, from before if run.json has not changed."""
        key = ("unfinished", os.path.realpath(path), stamp(path, ["run.json"]))
        if key not in self.cache:
            self.cache[key] = is_unfinished(path)
        return bool(self.cache[key])
