"""Running of trials: their settings become held-out predictions and a score."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from foldblend.cli import Say
from foldblend.cluster.names import RAY
from foldblend.errors import UserError, in_a_line
from foldblend.failures import WriteFailed, device_failure, memory_failure
from foldblend.progress import Task, duration
from pipeline.search.frozen import FrozenTrials
from pipeline.search.held_out import HeldOut
from pipeline.search.setup import Search
from pipeline.search.storage import StorageFailed
from pipeline.search.trials import DEFAULT, Claim, Trials
from pipeline.search.tuned import TunedTrials
from pipeline.search.winner import in_words
from pipeline.time_limit import Clock

__all__ = ["Evaluate", "Runner", "TrialClock", "run_trials"]

Evaluate = Callable[[Claim], np.ndarray | None]
"""Function of a trial that returns its held-out logits, or None if it was stopped early."""


class TrialClock(Clock):
    """The time limit of a search, after which no trial begins, and how long its trials take."""

    def __init__(self, limit: float | None) -> None:
        super().__init__(limit)
        self.seconds: list[float] = []

    @property
    def typical(self) -> float | None:
        """Median seconds of a trial of this process, or None."""
        return float(np.median(self.seconds)) if self.seconds else None


class Runner:
    """Runs trials of the main study, and keeps their held-out predictions."""

    def __init__(self, search: Search, trials: Trials, held_out: HeldOut, *, engine: str) -> None:
        """Make no trial yet; `engine` is that of inference where --infer-engine is auto."""
        self.search = search
        self.trials = trials
        self.held_out = held_out
        self.engine = engine
        self.frozen = FrozenTrials(search.folder)
        self.tuned = TunedTrials(
            search.folder / "trials", search.run, search.say, kept=search.rates
        )

    def __call__(self, claim: Claim) -> np.ndarray | None:
        """Return the held-out logits of a trial, or None if it was stopped early."""
        config = self.search.config(claim.settings, engine=self.engine)
        if config.train.frozen:
            found: np.ndarray | None = self.frozen.held_out(config)
        else:

            def seen(num: int, so_far_NC: np.ndarray) -> bool:
                return self._goes_on(claim, num, so_far_NC)

            # On a cluster, folds need not wait for one another where no trial stops early.
            at_once = config.machine.backend == RAY and not self.search.settings.prune
            found = self.tuned.held_out(config, claim.name, None if at_once else seen)
        if found is not None:
            self.held_out.write(claim.name, found)
        return found

    def _goes_on(self, claim: Claim, num: int, so_far_NC: np.ndarray) -> bool:
        """Return whether a trial goes on after some of its folds."""
        if claim.trial is None or not self.search.settings.prune:
            return True
        # The pruner compares what is kept.
        self.held_out.write(claim.name, so_far_NC)
        return self.trials.goes_on(claim, self.search.scoring.value(so_far_NC), step=num)


def run_trials(
    search: Search,
    trials: Trials,
    evaluate: Evaluate,
    clock: TrialClock,
    *,
    num: int,
    title: str,
    say: Say,
) -> None:
    """Run trials until enough are finished or running, or the time is over.

    Parameters
    ----------
    search
        The search.
    trials
        The trials of a study, which other processes may run too.
    evaluate
        Returns the held-out logits of a trial.
    clock
        The time limit; gets the time of each trial.
    num
        How many trials are enough.
    title
        What the bar says.
    say
        Gets a line for each trial that failed or is the best so far.

    Raises
    ------
    UserError
        If the settings of the command fail, or all trials.
    """
    with Task(title, num, unit="trials") as task:
        shown = min(num, trials.counts().finished)
        task.add(shown)
        while clock.left > 0 and (claim := trials.claim(num)) is not None:
            with claim.lock:
                begun = time.monotonic()
                _run(search, trials, evaluate, claim, say)
                clock.seconds.append(time.monotonic() - begun)
            finished = min(num, trials.counts().finished)
            task.add(max(0, finished - shown))
            shown = max(shown, finished)
    counts = trials.counts()
    if counts.failed and counts.failed + 1 == counts.finished:
        raise UserError(
            f"all trials of the study failed ({counts.failed}); the last one: {counts.errors[-1]};"
            " once that is mended, pass more --trials"
        )


def _run(search: Search, trials: Trials, evaluate: Evaluate, claim: Claim, say: Say) -> None:
    """Run a trial and record its score, or why it has none."""
    start = time.monotonic()
    try:
        logits_NC = evaluate(claim)
        value = None if logits_NC is None else search.scoring.value(logits_NC)
        if value is not None and not np.isfinite(value):
            raise UserError(f"the {search.scoring.metric.title} of its predictions is undefined")
    except (WriteFailed, StorageFailed, OSError):
        # It is the machine's, so other settings would fail as well.
        raise
    except Exception as error:
        if claim.name == DEFAULT:
            raise
        known = device_failure(error) or memory_failure(error, cure="take smaller images")
        line = str(error if isinstance(error, UserError) else known or in_a_line(error))
        trials.fail(claim, line)
        say(f"{claim.name} failed: {line} ({in_words(claim.settings)})")
        return
    took = duration(time.monotonic() - start)
    if value is None:
        trials.prune(claim)
        say(f"{claim.name} stopped early, {took}: {in_words(claim.settings)}")
        return
    before = trials.best()
    trials.finish(claim, value)
    after = trials.best()
    if before is None or (after is not None and after.name == claim.name):
        say(
            f"{claim.name}: {search.scoring.metric.title} {value:.4f}, the best so far, {took}:"
            f" {in_words(claim.settings)}"
        )
