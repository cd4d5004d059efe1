"""Words on the score of a run whose settings were searched, and of what is made of such runs."""

from __future__ import annotations

from collections.abc import Iterable

from foldblend.errors import counted
from foldblend.runs.info import SearchInfo
from foldblend.runs.run import Run

__all__ = ["notes_of_searches", "search_note", "searches_of"]


def search_note(search: SearchInfo, title: str) -> str:
    r"""Return the note of a run whose settings were chosen on the folds that score it.

    Parameters
    ----------
    search
        The key `search` of its run.json.
    title
        Name of the metric.

    Examples
    --------
    >>> record = {"study": "s", "trial": "trial_00002", "num_trials": 50, "num_configurations": 40}
    >>> print(search_note(record, "macro F1").replace("; ", "\n"))
    the settings were chosen from 50 trials on these folds
    the optimism of the score could not be estimated
    """
    trials = counted(search["num_trials"], "trial")
    text = f"the settings were chosen from {trials} on these folds"
    optimism = _optimism(search)
    expected = search.get("expected")
    if optimism is None:
        text += "; the optimism of the score could not be estimated"
    elif expected is not None and expected["value"] is not None:
        text += (
            f", which makes the score optimistic by about {max(optimism, 0.0):.3f} {title}"
            f" on average: expect about {expected['value']:.3f}"
        )
    nested = search.get("nested")
    if nested is not None and nested["value"] is not None:
        text += f"; the nested score of the search is {nested['value']:.3f}"
        if nested["low"] is not None and nested["high"] is not None:
            text += f" [{nested['low']:.3f}, {nested['high']:.3f}]"
    return text


def _optimism(search: SearchInfo) -> float | None:
    """Return the optimism of a search, or None where it could not be estimated."""
    optimism = search.get("optimism")
    # Earlier versions wrote 0 as the value then.
    return None if optimism is None or optimism["error"] is None else optimism["value"]


def searches_of(runs: Iterable[Run]) -> dict[str, SearchInfo]:
    """Return the searches that chose settings of runs or of their members, by name of the run."""
    found: dict[str, SearchInfo] = {}
    for run in runs:
        found |= run.info.get("searches", {})
        if "search" in run.info:
            found[run.name] = run.info["search"]
    return found


def notes_of_searches(runs: Iterable[Run]) -> list[str]:
    """Return the notes of a run that is made of others, one for each whose settings were chosen."""
    notes = []
    for name, search in searches_of(runs).items():
        optimism = _optimism(search)
        much = (
            "by an amount that could not be estimated"
            if optimism is None
            else f"by about {optimism:.3f} for {name} alone"
        )
        notes.append(
            f"the settings of {name} were chosen from {counted(search['num_trials'], 'trial')} on"
            f" these folds, so this score is somewhat optimistic ({much})"
        )
    return notes
