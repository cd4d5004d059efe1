"""Compare the files of the stage before and after a command."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["changes", "file_names", "snapshot"]


def _state(file: Path) -> tuple[Any, ...]:
    found = file.lstat()
    if stat.S_ISLNK(found.st_mode):
        return ("link", str(file.readlink()))
    if stat.S_ISDIR(found.st_mode):
        return ("folder", stat.S_IMODE(found.st_mode))
    return (found.st_mode, found.st_size, found.st_mtime_ns)


def snapshot(stage: Path, writes: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """Return the state of everything in the stage that a command may not change."""
    allowed = {*writes, "home", "tmp"}
    seen: dict[str, tuple[Any, ...]] = {}
    stack = [stage]
    while stack:
        for entry in os.scandir(stack.pop()):
            path = Path(entry.path)
            name = str(path.relative_to(stage))
            if name in allowed:
                # A link in the place of such a path is no leave to write where it leads.
                continue
            seen[name] = _state(path)
            if entry.is_dir(follow_symlinks=False):
                stack.append(path)
    return seen


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    made = [f"{name} was made" for name in sorted({*after} - {*before})]
    removed = [f"{name} was removed" for name in sorted({*before} - {*after})]
    both = sorted({*before} & {*after})
    return [*made, *removed, *[f"{one} was written" for one in both if before[one] != after[one]]]


def file_names(stage: Path, places: Sequence[str]) -> set[str]:
    """Return the names of all files in some places, and next to them."""
    files = [file for place in places for file in [stage / place, *(stage / place).rglob("*")]]
    beside = [file for place in places for file in (stage / place).parent.glob("*")]
    names = [str(file.relative_to(stage)) for file in (*files, *beside) if not file.is_dir()]
    # TensorBoard's files have the time and the process in their names, and each start adds one.
    return {name for name in names if "events.out.tfevents" not in name}
