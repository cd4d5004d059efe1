"""Making of a plan's runs: frozen ones, a race of fine-tuned ones, views, and blends in between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from foldblend.cli import Say
from foldblend.errors import UserError, counted
from foldblend.progress import duration
from foldblend.runs.run import Run
from foldblend.scores.race import NONE, PAIRED, helpful, leads, race
from foldblend.scores.score import Gain
from pipeline.plan.blended import heal
from pipeline.plan.fold_rows import FoldRows, fold_rows
from pipeline.plan.plan_file import Plan, PlannedRun
from pipeline.plan.views import KINDS, add_views, best_first
from pipeline.plan.work import Work
from pipeline.time_limit import Clock, TimeUp

__all__ = ["execute"]

# Rounds of the race: a loser stops after its first or second fold.
ROUNDS = 2
NO_TIME = "no time was left for it"


def execute(plan: Plan, clock: Clock, *, say: Say) -> Run:
    """Make the runs of a plan within the time, and return their blend.

    Raises
    ------
    UserError
        If no run could be made.
    """
    heal(plan)
    work = Work(plan, clock, say)
    # A process that was killed may have left finished runs that are in no blend.
    work.blend()
    try:
        _frozen_runs(work)
        _tuned_runs(work)
        _views(work)
    except TimeUp:
        say("the time is up; the run in the making is left, and the same command goes on with it")
    made = work.blend()
    if made is None:
        why = "; ".join(f"{name}: {one}" for name, one in work.failed.items())
        raise UserError(
            f"{plan.runs_folder}: no run could be finished ({why or 'no time'});"
            " pass a longer --time-limit, or change the runs"
        )
    return made


def _frozen_runs(work: Work) -> None:
    """Make the runs with a frozen backbone, and blend what is there after each."""
    for run in work.plan.runs:
        if not work.plan.is_frozen(run) or work.is_out(run):
            continue
        seconds = work.expected(run)
        # The first run is made whatever it may take: it is the plan's first answer.
        if work.members() and not work.fits(seconds):
            work.say(f"{run.name}: left, as it would take about {duration(seconds)}")
            continue
        work.say(f"{run.name}: {work.about(seconds)}")
        if work.make(run):
            work.blend_if_due()


def _tuned_runs(work: Work) -> None:
    """Race the fine-tuned runs: as many at a time as fit into the time with all folds."""
    while batch := _next_batch(work):
        before = _progress(work, batch)
        _race(work, batch)
        for run in batch:
            # Another process may train a fold of it; it is not waited for.
            if not work.is_out(run):
                work.failed[run.name] = "it was not finished"
        if _progress(work, batch) != before:
            # What was left may fit now: others were stopped, or turned out to be slow.
            work.failed = {name: why for name, why in work.failed.items() if why != NO_TIME}


def _progress(work: Work, runs: Sequence[PlannedRun]) -> tuple[int, int]:
    """Return the numbers of finished folds of some runs, and of runs that were stopped."""
    return sum(len(work.progress(run).folds) for run in runs), len(work.choices.stopped)


def _next_batch(work: Work) -> list[PlannedRun]:
    """Return the next runs to race, which fit into the time even if none of them stops."""
    found: list[PlannedRun] = []
    left = work.clock.left - work.reserve
    for run in work.plan.runs:
        if work.plan.is_frozen(run) or work.is_out(run):
            continue
        seconds = work.expected(run)
        if seconds <= left or not (found or work.members()):
            found.append(run)
            left -= seconds
    return found


def _race(work: Work, batch: Sequence[PlannedRun]) -> None:
    """Make the folds of some runs in turn, and stop clear losers after the first ones."""
    num_models = work.num_models
    rounds = min(ROUNDS, num_models - 1) if len(batch) > 1 or work.done else 0
    stops = rounds > 0 and work.plan.stop_losers
    work.say(
        f"fine-tuning {counted(len(batch), 'run')}"
        + (", of which clear losers stop after one or two folds" if stops else "")
    )

    def evaluate(configuration: int, fold: int) -> bool:
        run = batch[configuration]
        if run.name in work.failed:
            return False
        done = work.progress(run)
        if done.state == "done" or (fold < rounds and fold in done.folds):
            return True
        seconds = work.expected(run)
        # Time is kept for the others that have begun, so that no fold of theirs was in vain.
        begun = batch if fold < rounds else ()
        others = [one for one in begun if one is not run and _is_in_race(work, one)]
        kept = sum(map(work.expected, others))
        if work.members() and not work.fits(seconds + kept):
            work.say(f"{run.name}: left, as it would take about {duration(seconds)} more")
            work.failed[run.name] = NO_TIME
            return False
        if fold < rounds:
            work.say(f"{run.name}, fold {fold}")
            return work.make(run, only=fold)
        work.say(f"{run.name}, {'its other' if rounds else 'all'} folds: {work.about(seconds)}")
        made = work.make(run)
        if made:
            work.blend_if_due()
        return made

    def tables(configurations: Sequence[int], num: int) -> tuple[FoldRows, list[np.ndarray]] | None:
        return _tables(work, [batch[one] for one in configurations], num)

    def compare(configurations: Sequence[int], num: int) -> Sequence[Gain]:
        found = tables(configurations, num)
        if found is None:
            return [Gain(0.0, np.inf)] * len(configurations)
        first, proba_MNC = found
        return leads(first.metric, first.rows, proba_MNC)[: len(configurations)]

    def keep(configurations: Sequence[int], num: int) -> Sequence[int]:
        found = tables(configurations, num)
        return [] if found is None else helpful(found[0].metric, found[0].rows, found[1])

    race(
        len(batch),
        num_models,
        evaluate,
        compare,
        rule=PAIRED if stops else NONE,
        rounds=rounds,
        keep=keep,
        on_stop=lambda one, num, lead: work.stop(batch[one].name, num, lead),
    )


def _is_in_race(work: Work, run: PlannedRun) -> bool:
    """Return whether a run has finished folds and will get more."""
    return not work.is_out(run) and bool(work.progress(run).folds)


def _tables(
    work: Work, runs: Sequence[PlannedRun], num: int
) -> tuple[FoldRows, list[np.ndarray]] | None:
    """Return the held-out rows of the first folds, and what each run predicts of them.

    Finished runs come after those of the race, as they count among them. None where they cannot be
    compared, such as after a file was removed: all go on, and the run says what is wrong.
    """
    folders = [*map(work.folder, runs)]
    rivals = [folder for folder in map(work.folder, work.done) if folder not in folders]
    try:
        found = [fold_rows(folder, num) for folder in [*folders, *rivals]]
        return found[0], [one.like(found[0]) for one in found]
    except UserError as error:
        work.say(f"runs are not compared after {counted(num, 'fold')}: {error}")
        return None


def _views(work: Work) -> None:
    """Add test-time augmentation to finished runs, the best first, while there is time."""
    if work.plan.views == "none":
        return
    runs = {work.folder(run): run for run in work.done}
    given: dict[str, Any] = {"clock": work.clock, "say": work.say}
    for kind in KINDS:
        for folder in best_first([*runs]):
            config = work.plan.config_of(runs[folder])
            if add_views(folder, kind, config, reserve=work.reserve, **given):
                work.blend_if_due()
