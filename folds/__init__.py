"""Who is held out when, and what the labels are: manifests, the label codec, splitters.

Nothing is imported at once: command lines must answer before pandas and scikit-learn have loaded.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from folds.kfold import StratifiedGroupKFold

__all__ = ["StratifiedGroupKFold"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from folds import kfold

        return getattr(kfold, name)
    raise AttributeError(f"module 'folds' has no attribute {name!r}")
