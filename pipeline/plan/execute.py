"""Making of a plan's runs: frozen ones, a race of fine-tuned ones, views, and blends in between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from foldblend.cli import Say
from foldblend.errors import UserError, counted
from foldblend.progress import duration
from foldblend.runs.run import Run
from foldblend.scores.race import clear_losers, helpful, leads, race
from foldblend.scores.score import Gain
from pipeline.plan.blended import heal
from pipeline.plan.clock import Clock, TimeUp
from pipeline.plan.fold_rows import fold_rows
from pipeline.plan.plan_file import Plan, PlannedRun
from pipeline.plan.views import KINDS, add_views, best_first
from pipeline.plan.work import Work

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
        num_stopped = len(work.choices.stopped)
        _race(work, batch)
        for run in batch:
            # Another process may train a fold of it; it is not waited for.
            if not work.is_out(run):
                work.failed[run.name] = "it was not finished"
        if len(work.choices.stopped) > num_stopped:
            # There is time again.
            work.failed = {name: why for name, why in work.failed.items() if why != NO_TIME}


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
    compared: list[PlannedRun] = []

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

    def compare(configurations: Sequence[int], num_folds: int) -> Sequence[Gain]:
        compared[:] = [batch[one] for one in configurations]
        return _compare(work, compared, num_folds)

    def stopped(_: Sequence[Gain]) -> list[int]:
        return [place for place, run in enumerate(compared) if work.is_out(run)]

    race(len(batch), num_models, evaluate, compare, rule=stopped, rounds=rounds)


def _is_in_race(work: Work, run: PlannedRun) -> bool:
    """Return whether a run has finished folds and will get more."""
    return not work.is_out(run) and bool(work.progress(run).folds)


def _compare(work: Work, runs: Sequence[PlannedRun], num_folds: int) -> list[Gain]:
    """Return by how much the best run leads over each, on the folds that all have.

    Finished runs count among them. Clear losers stop, unless they would help a blend.
    """
    folders = [*map(work.folder, runs)]
    rivals = [folder for folder in map(work.folder, work.done) if folder not in folders]
    try:
        tables = [fold_rows(folder, num_folds) for folder in [*folders, *rivals]]
        proba_MNC = [one.like(tables[0]) for one in tables]
    except UserError as error:
        # Such as a file that was removed meanwhile: all go on, and the run says what is wrong.
        work.say(f"runs are not compared after {counted(num_folds, 'fold')}: {error}")
        return [Gain(0.0, np.inf)] * len(runs)
    first = tables[0]
    found = leads(first.metric, first.rows, proba_MNC)[: len(runs)]
    lost = clear_losers(found) if work.plan.stop_losers else []
    if lost:
        helping = helpful(first.metric, first.rows, proba_MNC)
        lost = [place for place in lost if place not in helping]
    for place in lost:
        work.stop(runs[place].name, num_folds, found[place])
    return found


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
