"""Opening of a study, and comparison of what it has recorded with what a search is to compare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from foldblend.errors import UserError, require, shown

__all__ = [
    "AUTO_DECIDED",
    "DEFAULT",
    "OWN_MODULES",
    "WEIGHTS",
    "note_sampler",
    "open_study",
    "samplers_of",
]

DEFAULT = "default"
"""Name of the cross-validation with the settings of the command."""
AUTO_DECIDED = "decided by auto"
"""Part of the record with the settings that auto decided, which are fixed settings as well."""
FIXED = "fixed settings"
WEIGHTS = "weights"
OWN_MODULES = "own modules"
# Parts that studies of earlier versions did not record.
LATER = (WEIGHTS, OWN_MODULES)
# The record is one attribute of the study, so that a kill leaves all of it or nothing.
RECORD = "record"
SAMPLERS = "samplers"


def open_study(
    name: str,
    record: Mapping[str, Any],
    *,
    maximize: bool,
    what: str,
    **parts: Any,
) -> tuple[Any, Mapping[str, Any]]:
    """Return a study of Optuna, which is made if it is absent, and its record.

    Parameters
    ----------
    name
        Name of the study.
    record
        What the search compares: a mapping from texts to JSON values.
    maximize
        Whether greater values are better.
    what
        The study's name in messages.
    parts
        Further arguments of `optuna.load_study`: storage, sampler and pruner.

    Raises
    ------
    UserError
        If the study compares something else.
    """
    import optuna

    direction: Literal["maximize", "minimize"] = "maximize" if maximize else "minimize"
    try:
        study = optuna.load_study(study_name=name, **parts)
    except KeyError:
        study = optuna.create_study(study_name=name, direction=direction, **parts)
    attrs = study.user_attrs
    before = _recorded(attrs, record)
    has_begun = DEFAULT in attrs or bool(study.get_trials(deepcopy=False))
    if not has_begun and RECORD not in attrs:
        study.set_user_attr(RECORD, dict(record))
        before = record
    _check(*_without_auto(before, record), what)
    require(
        study.direction.name.lower() == direction,
        f"{what} is of another metric; pass another --study",
    )
    return study, before


def samplers_of(study: Any) -> list[str]:
    """Return the samplers that proposed settings so far, the first one first.

    Studies of earlier versions did not record them.
    """
    found = study.user_attrs.get(SAMPLERS)
    return [str(one) for one in found] if isinstance(found, list) else []


def note_sampler(study: Any, name: str) -> None:
    """Record that a sampler proposes settings."""
    before = samplers_of(study)
    if name not in before:
        study.set_user_attr(SAMPLERS, [*before, name])


def _recorded(attrs: Mapping[str, Any], record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the record of a study; earlier versions wrote an attribute for each of its parts."""
    found = attrs.get(RECORD)
    if isinstance(found, dict):
        return found
    return {key: attrs[key] for key in record if key in attrs}


def _without_auto(
    before: Mapping[str, Any], record: Mapping[str, Any]
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return both records without the settings that auto decided in both.

    Studies of earlier versions did not record what auto decided, so all their settings count.
    """
    both = before.get(AUTO_DECIDED, {}).keys() & record.get(AUTO_DECIDED, {}).keys()

    def compared(one: Mapping[str, Any]) -> dict[str, Any]:
        parts = {key: value for key, value in one.items() if key != AUTO_DECIDED}
        if both:
            parts[FIXED] = {k: v for k, v in parts[FIXED].items() if k not in both}
        return parts

    return compared(before), compared(record)


def _check(before: Mapping[str, Any], record: Mapping[str, Any], what: str) -> None:
    """Raise UserError if a study compares something else than this search."""
    for key, value in record.items():
        if before.get(key) != value and (key in before or key not in LATER):
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
