"""Facts on the runs of a board, other than scores: names, settings, models and seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from foldblend.errors import UserError
from foldblend.runs.check import why_unfinished
from foldblend.runs.costs import num_models, num_passes
from foldblend.runs.refit import num_refits
from foldblend.runs.run import Run
from reports.board.settings import plain
from reports.text import printable

__all__ = ["differing", "equal_settings", "facts_of", "names_of", "settings_of"]

MOST_LEVELS = 50  # of blends in blends


def names_of(runs: Sequence[Run]) -> list[str]:
    """Return the names of the runs, or the path of each run whose name occurs twice."""
    names = [run.name for run in runs]
    return [printable(run.name if names.count(run.name) == 1 else run.path) for run in runs]


def _sibling(run: Run, member: Mapping[str, Any]) -> Run | None:
    """Return the member of a blend from the folder that holds the blend, or None if absent."""
    found = Run(run.path.resolve().parent / member["name"])
    try:
        return (
            found
            if why_unfinished(found.path) is None and found.oof_hash == member["oof"]
            else None
        )
    except (OSError, UserError):
        return None


def _single_runs(
    run: Run, by_oof: Mapping[str, Run], above: frozenset[Path] = frozenset()
) -> dict[str, Run] | None:
    """Return the cross-validated runs that a run is made of, by the hash of their rows.

    Members of a blend are searched among `by_oof` and in the folder that holds the blend. Returns
    None if one is not found, or if a blend is its own member. `above` are the blends that it is in.
    """
    if "members" not in run.info:
        return {run.oof_hash: run}
    found: dict[str, Run] = {}
    above |= {run.path.resolve()}
    if len(above) > MOST_LEVELS:
        return None
    for member in run.info["members"]:
        # A blend that gives one member all weight has the rows of that member.
        places = (by_oof.get(member["oof"]), _sibling(run, member))
        one = next((one for one in places if one and one.path.resolve() not in above), None)
        singles = None if one is None else _single_runs(one, by_oof, above)
        if singles is None:
            return None
        # A member with weight 0 is not needed for predictions, so it costs nothing.
        if member.get("weight") != 0:
            found |= singles
    return found


def settings_of(run: Run) -> dict[str, Any]:
    """Return the recorded settings of a run or blend as JSON values."""
    if "tta" in run.info:
        return {name: plain(value) for name, value in run.info["tta"].items()} | {
            "of": run.info["of"]["name"]
        }
    # The fitted parameters of a blend are its result, hundreds of numbers.
    chosen = {key: value for key, value in run.settings.items() if key not in ("name", "found")}
    if "members" in run.info:
        # With the weights that were found.
        chosen["members"] = run.info["members"]
    return {printable(key): plain(value) for key, value in chosen.items()}


def _num_trained(run: Run) -> int:
    """Return the number of models of a run, with its refits."""
    return num_models(run) + num_refits(run.info)


def facts_of(run: Run, by_oof: Mapping[str, Run]) -> dict[str, Any]:
    """Return the columns of a row other than the scores; None where a value is unknown."""
    info = run.info
    singles = _single_runs(run, by_oof)
    seconds: list[Any] = (
        [None] if singles is None else [one.info.get("seconds") for one in singles.values()]
    )
    finished = info.get("finished")
    started = info.get("started")
    # Runs of early versions lack the key, but their settings show what it would be.
    is_optimistic = (
        info["optimistic"] if "optimistic" in info else settings_of(run).get("select") == "best"
    )
    return {
        "path": printable(run.path),
        "kind": info["kind"],
        "optimistic": bool(is_optimistic),
        "leaks": bool(info["leaks"]),
        "models": None if singles is None else sum(map(_num_trained, singles.values())),
        "passes": None if singles is None else sum(map(num_passes, singles.values())),
        "seconds": None if None in seconds else round(sum(seconds), 1),
        "wall": None if finished is None or started is None else finished - started,
        "finished": (
            None
            if finished is None
            else datetime.fromtimestamp(finished).astimezone().isoformat(timespec="minutes")
        ),
        "about": info.get("about", ""),
        "notes": list(info.get("notes", ())),
    }


def equal_settings(settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the settings that are equal in all of the mappings, which must not be empty."""
    changed = set(differing(settings))
    return {name: value for name, value in settings[0].items() if name not in changed}


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the settings that are not equal in all of the mappings, in order."""
    # A setting that one run lacks differs from None in another one.
    absent = object()
    names = dict.fromkeys(name for one in settings for name in one)
    return [
        name
        for name in names
        if any(one.get(name, absent) != settings[0].get(name, absent) for one in settings)
    ]
