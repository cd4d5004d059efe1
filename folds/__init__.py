"""Data sets, splits into folds, and audits of both.

Modules are imported on first use, so that command lines answer before pandas has loaded.
"""

from typing import Any

# Importing foldblend makes the other packages, and modules under former names, importable.
import foldblend  # noqa: F401

__all__ = ["StratifiedGroupKFold"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from folds import kfold

        return getattr(kfold, name)
    raise AttributeError(f"module 'folds' has no attribute {name!r}")
