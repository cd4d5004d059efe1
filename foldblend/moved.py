"""Import of moved modules under their old names, with a warning.

Users' own parts and notebooks may still use the old names.
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

# Old name -> new name of the modules that earlier documentation, examples and messages mention.
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
    """Finder and loader that returns the module of the new name for the old name."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        new = MOVED[spec.name]
        # Users must change their code, and Python hides DeprecationWarnings from most of them.
        warnings.warn(
            f"{spec.name} is now {new}; the old name is deprecated and will be removed",
            FutureWarning,
            2,
        )
        module = importlib.import_module(new)
        # The import system is about to replace __spec__; exec_module restores it.
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        assert spec is not None
        module.__spec__ = spec.loader_state


def find_moved() -> None:
    """Register the finder of old module names, once."""
    if not any(isinstance(finder, _MovedFinder) for finder in sys.meta_path):
        sys.meta_path.append(_MovedFinder())
