"""The trials of a study, which several processes share.

A process claims a trial by the lock of the trial, which ends with the process. A trial that is
running in the storage but whose lock nobody holds was cut off: its settings are run again.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import Timeout

from foldblend.errors import UserError, in_a_line, listed, shown
from foldblend.locks import hold, is_held
from pipeline.search.cut_off import (
    MOST_TRIES,
    is_proposed,
    name_of,
    number_again,
    place_of_next,
    run_again,
)
from pipeline.search.outcomes import Claim, Counts, Result
from pipeline.search.record import DEFAULT, note_sampler, open_study, samplers_of
from pipeline.search.space import Space, Value
from pipeline.search.storage import StorageFailed, readable

__all__ = ["DEFAULT", "Claim", "Counts", "Result", "Trials", "name_of"]

PATIENCE = 0.1  # seconds in which another process that only looks at a lock has looked

# Keys of what the trials and the study record for themselves.
ERROR = "error"
EXHAUSTED = "sampler without further settings"


class Trials:
    """The trials of one study."""

    def __init__(
        self,
        folder: Path,
        name: str,
        storage: Any,
        file: Path,
        space: Space,
        *,
        maximize: bool,
        sampler_of: Callable[[int], Any],
        record: Mapping[str, Any],
        defaults: Mapping[str, Value] | None = None,
        pruner: Any = None,
    ) -> None:
        """Open a study, or make it.

        Parameters
        ----------
        folder
            Folder of the locks.
        name
            Name of the study.
        storage, file
            Storage of Optuna, and its file for messages.
        space
            The settings that vary.
        maximize
            Whether greater values are better.
        sampler_of
            Function of a number that makes the sampler of this trial.
        record
            What the study compares, by which a study that goes on is recognised: a mapping from
            texts to JSON values.
        defaults
            The settings of the command, if all of them are in the space.
        pruner
            A pruner of Optuna.

        Raises
        ------
        UserError
            If the study compares something else, or its storage cannot be read.
        """
        import optuna

        self.folder = folder
        self.storage = storage
        self.file = file
        self.space = space
        self.sign = 1 if maximize else -1
        self.sampler_of = sampler_of
        self.defaults = defaults
        folder.mkdir(parents=True, exist_ok=True)
        with self._locked(), readable(file):
            self.study, self.record = open_study(
                name,
                record,
                maximize=maximize,
                what=f"{file}: the study {name}",
                storage=storage,
                sampler=sampler_of(0),
                pruner=pruner or optuna.pruners.NopPruner(),
            )
        self.sampler_name = type(self.study.sampler).__name__
        # A sampler calls it after its last settings; Optuna's own is for `optimize` only.
        self.study.stop = self._set_exhausted

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the study, for as long as it takes to look at all trials and to claim one."""
        with hold(self.folder / ".lock", wait=lambda: None):
            yield

    def _lock_of(self, name: str) -> Path:
        return self.folder / f".lock-{name}"

    def _is_running(self, number: int) -> bool:
        return is_held(self._lock_of(name_of(number)))

    def _all(self) -> Sequence[Any]:
        found: Sequence[Any] = self.study.get_trials(deepcopy=False)
        return found

    def default(self) -> float | None:
        """Return the score with the settings of the command, or None if it is not known yet."""
        from optuna.trial import TrialState

        outside: Any = self.study.user_attrs.get(DEFAULT)
        inside = (
            one.values[0]
            for one in self._all()
            if one.state == TrialState.COMPLETE and DEFAULT in one.user_attrs and one.values
        )
        return next((float(one) for one in (outside, *inside) if _is_number(one)), None)

    @property
    def is_exhausted(self) -> bool:
        """True if the sampler has proposed all settings that it can."""
        with readable(self.file):
            return bool(self.study.user_attrs.get(EXHAUSTED) == self.sampler_name)

    @property
    def samplers(self) -> str:
        """The samplers that proposed the settings, as words."""
        with readable(self.file):
            return listed(samplers_of(self.study) or [self.sampler_name])

    def _set_exhausted(self) -> None:
        # Another sampler may have further settings.
        self.study.set_user_attr(EXHAUSTED, self.sampler_name)

    def decided(self, key: str, value: str, among: Collection[str]) -> str:
        """Return what the study has decided, one of some values; the first process decides."""
        with self._locked(), readable(self.file):
            known = self.study.user_attrs.get(key)
            if known in among:
                return str(known)
            self.study.set_user_attr(key, value)
        return value

    def claim(self, num: int) -> Claim | None:
        """Return a trial for this process, or None if `num` trials are finished or running."""
        with self._locked(), readable(self.file):
            lock = contextlib.ExitStack()
            if self.default() is None:
                with contextlib.suppress(Timeout):
                    lock.enter_context(hold(self._lock_of(DEFAULT), patience=PATIENCE))
                    return Claim(DEFAULT, {}, None, lock)
            run_again(self.study, self.storage, self.space.of, self._is_running)
            counts = self._counts()
            is_over = self.is_exhausted and not counts.waiting
            if is_over or counts.finished + counts.running >= num:
                return None
            self.study.sampler = self.sampler_of(place_of_next(self._all(), self.space.of))
            note_sampler(self.study, self.sampler_name)
            trial = self._ask()
            name = name_of(trial.number)
            lock.enter_context(hold(self._lock_of(name), patience=PATIENCE))
        return Claim(name, self._settings(trial), trial, lock)

    def _ask(self) -> Any:
        try:
            return self.study.ask(self.space.distributions())
        # Samplers have no common error for a space that they cannot serve.
        except (ValueError, TypeError, RuntimeError, ImportError, NotImplementedError) as error:
            raise UserError(
                f"--optuna-sampler {self.sampler_name}: cannot propose settings of this space"
                f" ({in_a_line(error)}); pass another sampler, or change the space"
            ) from None

    def _tell(self, trial: Any, value: float | None = None, *, state: Any = None) -> None:
        # Where another process took the trial for cut off, its settings are run again.
        self.study.tell(trial, value, state, skip_if_finished=True)

    def _counts(self) -> Counts:
        from optuna.trial import TrialState

        trials = self._all()
        again = {number_again(one) for one in trials}
        # A trial that was cut off counts where its settings are run again.
        counted = [
            one for one in trials if one.number not in again and is_proposed(one, self.space.of)
        ]
        states = [one.state for one in counted]
        outside = self.default() is not None and not any(
            DEFAULT in one.user_attrs for one in trials
        )
        failed = [one for one in counted if one.state == TrialState.FAIL]
        ended = f"its process ended {MOST_TRIES} times"
        return Counts(
            complete=states.count(TrialState.COMPLETE) + outside,
            pruned=states.count(TrialState.PRUNED),
            failed=len(failed),
            running=states.count(TrialState.RUNNING) + is_held(self._lock_of(DEFAULT)),
            waiting=sum(one.state == TrialState.WAITING for one in trials),
            errors=tuple(shown(str(one.user_attrs.get(ERROR, ended)), most=500) for one in failed),
        )

    def counts(self) -> Counts:
        """Return how many trials there are."""
        with self._locked(), readable(self.file):
            run_again(self.study, self.storage, self.space.of, self._is_running)
            return self._counts()

    def num_left(self, num: int) -> int:
        """Return how many of `num` trials are not finished."""
        counts = self.counts()
        left = max(0, num - counts.finished)
        return min(left, counts.running + counts.waiting) if self.is_exhausted else left

    def goes_on(self, claim: Claim, value: float, *, step: int) -> bool:
        """Record the score of the first `step` folds; return whether to run further ones."""
        with readable(self.file):
            claim.trial.report(value, step)
            return not claim.trial.should_prune()

    def finish(self, claim: Claim, value: float) -> None:
        """Record the score of a claimed trial, with the metric's own sign."""
        with self._locked(), readable(self.file):
            if claim.trial is not None:
                self._tell(claim.trial, value)
            elif self.defaults is None:
                self.study.set_user_attr(DEFAULT, value)
            else:
                self._add_default(self.defaults, value)
        claim.lock.close()

    def _add_default(self, settings: Mapping[str, Value], value: float) -> None:
        """Add the trial with the settings of the command, from which samplers learn."""
        from optuna.trial import create_trial

        self.study.add_trial(
            create_trial(
                params=self.space.params(settings),
                distributions=self.space.distributions(),
                value=value,
                user_attrs={DEFAULT: True},
            )
        )

    def fail(self, claim: Claim, why: str) -> None:
        """Record that a claimed trial failed, with a line."""
        from optuna.trial import TrialState

        with self._locked(), readable(self.file):
            claim.trial.set_user_attr(ERROR, shown(why, most=500))
            self._tell(claim.trial, state=TrialState.FAIL)
        claim.lock.close()

    def prune(self, claim: Claim) -> None:
        """Record that a claimed trial was stopped early."""
        from optuna.trial import TrialState

        with self._locked(), readable(self.file):
            self._tell(claim.trial, state=TrialState.PRUNED)
        claim.lock.close()

    def results(self) -> list[Result]:
        """Return the trials with all folds, that with the settings of the command first."""
        from optuna.trial import TrialState

        found = []
        with readable(self.file):
            trials = self._all()
            default = self.default()
        if default is not None:
            found.append(Result(DEFAULT, {}, default))
        for one in trials:
            complete = one.state == TrialState.COMPLETE and DEFAULT not in one.user_attrs
            if complete and one.values and _is_number(one.values[0]):
                settings = self._settings(one)
                found.append(Result(name_of(one.number), settings, float(one.values[0])))
        return found

    def _settings(self, trial: Any) -> dict[str, Value]:
        try:
            return self.space.settings(trial.params)
        except UserError as error:
            raise StorageFailed(
                f"{self.file}: {name_of(trial.number)} of the study {self.study.study_name} is"
                f" damaged ({error}); restore it, or pass another --study or --storage"
            ) from None

    def best(self) -> Result | None:
        """Return the trial with the best score, the first of equal ones."""
        return max(self.results(), key=lambda one: self.sign * one.value, default=None)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
