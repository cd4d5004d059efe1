"""Trials whose process ended before they were finished: their settings are run again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

__all__ = ["MOST_TRIES", "is_proposed", "name_of", "number_again", "place_of_next", "run_again"]

MOST_TRIES = 20
"""Most times that the settings of a trial are run, if its process ends each time."""

# Keys of what the trials record for themselves.
AGAIN = "again"
TRIES = "tries"

# Samplers that propose all settings once. They never propose those of half a proposal again.
ENUMERATING = ("GridSampler", "BruteForceSampler")


def name_of(number: int) -> str:
    """Return the name of a trial."""
    return f"trial_{number:05d}"


def run_again(
    study: Any, storage: Any, names: Collection[str], is_running: Callable[[int], bool]
) -> None:
    """Enqueue the settings of trials whose process has ended, which fail themselves.

    Parameters
    ----------
    study, storage
        The study of Optuna and its storage.
    names
        The settings of a trial.
    is_running
        Returns whether a process runs the trial of a number.
    """
    from optuna.trial import TrialState, create_trial

    trials = study.get_trials(deepcopy=False)
    enqueued = {number_again(one) for one in trials}
    for one in trials:
        if one.state != TrialState.RUNNING or is_running(one.number):
            continue
        has_all = is_proposed(one, names)
        if not has_all and type(study.sampler).__name__ in ENUMERATING:
            _propose_the_rest(study, storage, one.number)
            continue
        tries = _number(one, TRIES) or 1
        if has_all and one.number not in enqueued and tries < MOST_TRIES:
            study.add_trial(
                create_trial(
                    state=TrialState.WAITING,
                    # Samplers note there which settings they have proposed.
                    system_attrs={**one.system_attrs, "fixed_params": _params(one)},
                    user_attrs={AGAIN: one.number, TRIES: tries + 1},
                )
            )
        study.tell(one.number, state=TrialState.FAIL)


def _propose_the_rest(study: Any, storage: Any, number: int) -> None:
    """Have the next trial be one whose proposal was cut off, with what was proposed."""
    from optuna.trial import TrialState

    study_id = storage.get_study_id_from_name(study.study_name)
    trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, number)
    storage.set_trial_state_values(trial_id, TrialState.WAITING)


def place_of_next(trials: Sequence[Any], names: Collection[str]) -> int:
    """Return the number of proposals before the next one.

    Settings that are run again have the place of their first try.
    """
    from optuna.trial import TrialState

    waiting = [one for one in trials if one.state == TrialState.WAITING]
    place = len(trials)
    if waiting:
        first = waiting[0]
        # A try may be of a trial that was run again itself.
        while (before := number_again(first)) is not None and before < first.number:
            first = trials[before]
        place = first.number
    return sum(number_again(one) is None and is_proposed(one, names) for one in trials[:place])


def is_proposed(trial: Any, names: Collection[str]) -> bool:
    """Return whether a trial has all settings.

    A process that is killed while it proposes settings leaves a trial with some of them. It does
    not count, and the next trial gets the same proposal.
    """
    return _params(trial).keys() >= set(names)


def number_again(trial: Any) -> int | None:
    """Return the number of the trial whose settings a trial runs again, or None."""
    return _number(trial, AGAIN)


def _number(trial: Any, key: str) -> int | None:
    """Return a whole number that a trial records for us, or None."""
    value = trial.user_attrs.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _params(trial: Any) -> dict[str, Any]:
    """Return the settings of a trial so far, those that it is to have included."""
    fixed = trial.system_attrs.get("fixed_params")
    return {**(fixed if isinstance(fixed, dict) else {}), **trial.params}
