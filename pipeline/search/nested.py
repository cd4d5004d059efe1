"""The nested score of a search: for each fold, settings are searched on the other folds only."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from foldblend.errors import counted
from foldblend.progress import duration
from foldblend.scores.intervals import Interval
from pipeline.search.setup import Search
from pipeline.search.trials import Claim, Trials
from pipeline.search.trying import Runner, TrialClock, run_trials

__all__ = ["Nested"]


class Nested:
    """The searches without one fold each; they have one repeat, the first."""

    def __init__(
        self, search: Search, main: Trials, runner: Runner, study_of: Callable[[int], Trials]
    ) -> None:
        """Run nothing yet.

        Parameters
        ----------
        search
            The search.
        main
            The trials with all folds, of which the nested score is to be.
        runner
            Has the features of trials.
        study_of
            Opens the study without a fold.
        """
        self.search = search
        self.main = main
        self.runner = runner
        self.folds = range(search.run.num_folds)
        self.studies = [study_of(fold) for fold in self.folds]

    def run(self, clock: TrialClock) -> None:
        """Run the trials that are left, until the time is over."""
        search = self.search
        left = self.num_left()
        if not left:
            return
        typical = clock.typical
        # A trial without a fold fits one head less for the first repeat.
        share = (search.run.num_folds - 1) / search.run.num_models
        about = "" if typical is None else f", about {duration(left * typical * share)}"
        search.say(
            f"nested: a search without each of {search.run.num_folds} folds,"
            f" {counted(left, 'trial')} left{about}"
        )
        for fold, trials in zip(self.folds, self.studies, strict=True):

            def evaluate(claim: Claim, fold: int = fold) -> np.ndarray:
                config = search.config(claim.settings, engine=self.runner.engine)
                return self._of_all_repeats(self.runner.frozen.without_fold(config, fold))

            def say(line: str) -> None:
                """Say nothing of single trials: there are many, and none is the result."""

            title = f"nested, without fold {fold}"
            run_trials(search, trials, evaluate, clock, num=self.num_each(), title=title, say=say)

    def _of_all_repeats(self, logits_NC: np.ndarray) -> np.ndarray:
        """Return the logits of the first repeat with those of the others, which are NaN."""
        num_more = len(self.search.scoring.rows) - len(logits_NC)
        more_NC = np.full((num_more, logits_NC.shape[1]), np.nan, logits_NC.dtype)
        return np.concatenate([logits_NC, more_NC])

    def num_each(self) -> int:
        """Return the number of trials without each fold.

        A study that has more finished trials than the command asks for is scored as it is.
        """
        return max(self.search.settings.trials, self.main.counts().finished)

    def is_running(self) -> bool:
        """Return whether another process runs some of the trials."""
        return any(one.counts().running for one in self.studies)

    def num_left(self) -> int:
        """Return how many trials are not finished."""
        num = self.num_each()
        return sum(one.num_left(num) for one in self.studies)

    def score(self) -> Interval:
        """Return the score of all folds, each predicted with the best settings of its search."""
        run = self.search.run
        rows = len(run.manifest.train)
        num_rows = len(self.search.scoring.rows)
        found_NC = np.full((num_rows, run.manifest.num_classes), np.nan, np.float32)
        for fold, trials in zip(self.folds, self.studies, strict=True):
            best = trials.best()
            assert best is not None  # that of the command is the first trial
            config = self.search.config(best.settings, engine=self.runner.engine)
            held = np.flatnonzero(run.fold_RN[0] == fold)
            found_NC[held] = self.runner.frozen.of_fold(config, fold)[held]
        assert np.isfinite(found_NC[:rows]).all()
        return self.search.scoring.score(found_NC).interval()
