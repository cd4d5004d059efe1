"""Words on the score of a run whose settings were searched, from its record."""

from __future__ import annotations

from foldblend.errors import counted
from foldblend.runs.info import SearchInfo

__all__ = ["search_note"]


def search_note(search: SearchInfo, title: str) -> str:
    """Return the note of a run whose settings were chosen on the folds that score it.

    Parameters
    ----------
    search
        The key `search` of its run.json.
    title
        Name of the metric.

    Examples
    --------
    >>> record = {"study": "s", "trial": "trial_00002", "num_trials": 50, "num_configurations": 40}
    >>> search_note(record, "macro F1")
    'the settings were chosen from 50 trials on these folds'
    """
    trials = counted(search["num_trials"], "trial")
    text = f"the settings were chosen from {trials} on these folds"
    optimism = search.get("optimism")
    expected = search.get("expected")
    if optimism is not None and expected is not None and expected["value"] is not None:
        text += (
            f", which makes the score optimistic by about {max(optimism['value'], 0.0):.3f} {title}"
            f" on average: expect about {expected['value']:.3f}"
        )
    nested = search.get("nested")
    if nested is not None and nested["value"] is not None:
        text += f"; the nested score of the search is {nested['value']:.3f}"
        if nested["low"] is not None and nested["high"] is not None:
            text += f" [{nested['low']:.3f}, {nested['high']:.3f}]"
    return text
