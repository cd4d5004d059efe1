"""The packages installed beside this one: found there, whatever modules of those names a user's own
folder has.

`folds`, `pipeline`, `reports` and so on are names that a user's project may well have too. Python
looks into the current folder first (in a notebook, with `python -c`, with PYTHONPATH=.), and would
take the user's for ours.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["PACKAGES", "call", "find_siblings_first", "rebuild"]

PACKAGES = ("folds", "pipeline", "ensemble", "tta", "reports")
ROOT = Path(__file__).resolve().parents[1]


class _SiblingFinder(importlib.abc.MetaPathFinder):
    """Finds our packages beside foldblend/, before sys.path is asked."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in PACKAGES:
            return None
        return importlib.machinery.PathFinder.find_spec(fullname, [str(ROOT)])


def find_siblings_first() -> None:
    """Have our packages found before a user's modules of the same names.

    Raises ImportError, in one line that names the file, where such a module has been imported
    already.
    """
    for name in PACKAGES:
        file = getattr(sys.modules.get(name), "__file__", None)
        if file is not None and Path(file).resolve().parent != ROOT / name:
            cure = "rename it, or import foldblend first in a process that does without it"
            raise ImportError(
                f"{file}: is imported as {name!r}, which is a package of foldblend; {cure}"
            )
    if not any(isinstance(finder, _SiblingFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _SiblingFinder())


def call(name: str, *args: Any) -> Any:
    """Call "module:function" of ours, in a process that has just been started.

    What such a process is handed first is this function, so that this package is imported, and its
    finder in place, before anything of the other packages is unpickled.
    """
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)(*args)


def rebuild(name: str, state: dict[str, Any]) -> Any:
    """Return an object of "module:class" of ours with these attributes; what `__reduce__` names, as
    `call` is named.
    """
    module, _, kind = name.partition(":")
    made = object.__new__(getattr(importlib.import_module(module), kind))
    vars(made).update(state)
    return made
