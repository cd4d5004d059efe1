"""Import of our packages, even if a user's folder has modules of the same names.

A user's project may well have its own `folds`, `pipeline` or `reports`. Python searches the current
folder first (in a notebook, with `python -c`, with PYTHONPATH=.) and would import the user's module
instead of ours.
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
    """Finder of our packages next to foldblend/, used before sys.path is searched."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in PACKAGES:
            return None
        return importlib.machinery.PathFinder.find_spec(fullname, [str(ROOT)])


def find_siblings_first() -> None:
    """Register the finder of our packages before all others, once.

    Raises
    ------
    ImportError
        If a user's module of the same name has been imported already; one line with its file.
    """
    for name in PACKAGES:
        file = getattr(sys.modules.get(name), "__file__", None)
        if file is not None and Path(file).resolve().parent != ROOT / name:
            cure = "rename it, or use foldblend in a process that does not import it"
            raise ImportError(
                f"{file}: was imported as {name!r}, the name of a package of foldblend; {cure}"
            )
    if not any(isinstance(finder, _SiblingFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _SiblingFinder())


def call(name: str, *args: Any, **settings: Any) -> Any:
    """Call our function "module:function" in a newly started process.

    Passing this function to the process makes it import foldblend first. The finder is then in
    place before objects of the other packages are unpickled.
    """
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)(*args, **settings)


def rebuild(name: str, state: dict[str, Any]) -> Any:
    """Return an object of our class "module:class" with these attributes.

    Classes return it from `__reduce__`, for the same reason as for `call`.
    """
    module, _, kind = name.partition(":")
    made = object.__new__(getattr(importlib.import_module(module), kind))
    vars(made).update(state)
    return made
