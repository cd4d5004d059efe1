"""Modules under the names that earlier versions gave them, with a warning; for users' own parts and
notebooks.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType

__all__ = ["MOVED", "find_moved"]

# What documentation, examples and error messages of earlier versions named.
MOVED = {
    "folds.errors": "foldblend.errors",
    "folds.files": "foldblend.files",
    "folds.generic": "folds.data.generic",
    "folds.images": "foldblend.images",
    "folds.labels": "folds.data.labels",
    "folds.layout": "folds.data.layout",
    "folds.manifest": "folds.data.manifest",
    "folds.plugins": "foldblend.plugins",
    "folds.source": "folds.data.source",
    "folds.tables": "foldblend.tables",
    "pipeline.preprocess": "pipeline.data.preprocess",
    "pipeline.report": "reports.run.report",
    "pipeline.reporting": "foldblend.runs.rows",
    "pipeline.settings": "pipeline.config.settings",
    "pipeline.store": "foldblend.runs.run",
    "pipeline.train_config": "pipeline.config.train",
    "reports.bootstrap": "foldblend.scores.bootstrap",
    "reports.metrics": "foldblend.scores.metrics",
    "reports.summary": "reports.run.summary",
}


class _MovedFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives the module that stands under the new name; both names are one module."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        new = MOVED[spec.name]
        # A FutureWarning, for it is users' code that must change; DeprecationWarnings are hidden
        # from them.
        warnings.warn(
            f"{spec.name} is now {new}; the old name goes away after this version", FutureWarning, 2
        )
        module = importlib.import_module(new)
        spec.loader_state = module.__spec__  # the import system is about to replace it
        return module

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        assert spec is not None
        module.__spec__ = spec.loader_state


def find_moved() -> None:
    """Have modules found under their names of earlier versions, with a warning."""
    if not any(isinstance(finder, _MovedFinder) for finder in sys.meta_path):
        sys.meta_path.append(_MovedFinder())
