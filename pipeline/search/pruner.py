"""The pruner of a study: paired differences over groups on the folds that a trial has."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from optuna.pruners import BasePruner

from foldblend.scores.metrics import softmax
from foldblend.scores.race import ERRORS, clear_losers, leads
from pipeline.search.held_out import HeldOut
from pipeline.search.scoring import Scoring

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

__all__ = ["PairedPruner"]


class PairedPruner(BasePruner):
    """Stop a trial over which the best finished trial leads clearly on the same held-out rows.

    Both scores are of the folds that the trial has. The lead and its standard error over groups are
    paired, so that a hard fold does not stop a trial.
    """

    def __init__(
        self,
        scoring: Scoring,
        held_out: HeldOut,
        best_name: Callable[[], str | None],
        *,
        errors: float = ERRORS,
    ) -> None:
        """Keep what trials are compared by.

        Parameters
        ----------
        scoring
            The metric and the rows.
        held_out
            The predictions of the trials.
        best_name
            Returns the name of the best finished trial, or None.
        errors
            How many standard errors a clear lead has.
        """
        self.scoring = scoring
        self.held_out = held_out
        self.best_name = best_name
        self.errors = errors

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Return whether to stop a trial."""
        from pipeline.search.trials import name_of

        own_NC = self.held_out.read(name_of(trial.number))
        best = self.best_name()
        best_NC = None if best is None else self.held_out.read(best)
        if own_NC is None or best_NC is None:
            return False
        at = np.isfinite(own_NC).all(axis=1) & np.isfinite(best_NC).all(axis=1)
        if not at.any():
            return False
        both = [softmax(one[at]) for one in (best_NC, own_NC)]
        found = leads(self.scoring.metric, self.scoring.rows.take(at), both)
        return 1 in clear_losers(found, errors=self.errors)
