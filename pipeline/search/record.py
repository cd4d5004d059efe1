"""Comparison of what a study has recorded with what a search is to compare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foldblend.errors import UserError, shown

__all__ = ["check_record"]


def check_record(before: Mapping[str, Any], record: Mapping[str, Any], what: str) -> None:
    """Raise UserError if a study compares something else than this search."""
    for key, value in record.items():
        if before.get(key) != value:
            raise UserError(
                f"{what} has {_difference(key, before.get(key), value)}; pass another --study"
            )


def _difference(key: str, old: Any, new: Any) -> str:
    """Return what differs, as "different fixed settings (epochs 4 -> 8)"."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return f"different {key}" if old is not None else f"no record of its {key}"
    changed = [name for name in {**new, **old} if old.get(name) != new.get(name)]
    shown_ones = [
        f"{name} {shown(old.get(name), most=30)} -> {shown(new.get(name), most=30)}"
        for name in sorted(changed)[:3]
    ]
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    return f"different {key} ({', '.join(shown_ones)}{more})"
