"""Who is held out when, and what the labels are: data sets, splitters, audits.

Nothing is imported at once: command lines must answer before pandas and scikit-learn have loaded.
"""

from typing import Any

import foldblend  # noqa: F401 - finds the other packages, and modules under their former names

__all__ = ["StratifiedGroupKFold"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from folds import kfold

        return getattr(kfold, name)
    raise AttributeError(f"module 'folds' has no attribute {name!r}")
