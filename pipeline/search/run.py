"""A search of settings: trials until enough are finished, then a run with the best settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from foldblend.cli import Say
from foldblend.cluster.cluster import opened
from foldblend.errors import counted
from foldblend.locks import hold
from foldblend.progress import lines_to, write
from foldblend.runs.run import Run
from foldblend.scores.intervals import Interval
from pipeline.config.run import RunConfig
from pipeline.config.settings import replace
from pipeline.cv import cross_validate_chosen
from pipeline.engines.registry import ENGINES, TORCH
from pipeline.search.config import SearchConfig, make_tune_config, parse_options
from pipeline.search.held_out import HeldOut
from pipeline.search.nested import Nested
from pipeline.search.samplers import sampler_maker
from pipeline.search.setup import Search, set_up
from pipeline.search.storage import (
    lock_folder,
    open_storage,
    require_optuna,
    storage_file,
    storage_folder,
)
from pipeline.search.trials import Result, Trials
from pipeline.search.trying import Runner, TrialClock, run_trials
from pipeline.search.winner import (
    choose,
    in_words,
    is_of_other_trial,
    nested_before,
    take_over,
)

__all__ = ["search_settings", "tune"]

ENGINE = "engine of inference"
OTHERS = "other processes run trials; the last one to finish makes the best one a run"


def tune(
    config: RunConfig | Mapping[str, Any] | None = None,
    /,
    *,
    say: Say = write,
    **settings: Any,
) -> Run:
    """Search for good settings with Optuna, and return the run with the best ones.

    Each trial is a cross-validation on the same folds. A study that is there goes on until it has
    `trials` finished trials. The run says that its settings were chosen on its folds, and by how
    much its score is too high. docs/search.md describes searches.

    Parameters
    ----------
    config
        A configuration of `make_config`, or a mapping of settings.
    say
        Function that prints one line of the log.
    settings
        Settings by keyword, spelt as the flags of tune.py: ``space``, ``trials``, ``study`` ...,
        and those of run_cv.py. They override `config`.

    Returns
    -------
    Run
        The run with the best settings. Where other processes still run trials, the last of them
        makes it, and it need not exist yet.

    Raises
    ------
    UserError
        In one line that reports what to fix: a setting, the space, the storage, or the data.
    """
    search, run = make_tune_config(config, settings)
    return search_settings(search, run, say=say)


def search_settings(settings: SearchConfig, config: RunConfig, *, say: Say = write) -> Run:
    """Make a search and return the run with the best settings (see `tune`)."""
    require_optuna()
    clock = TrialClock(settings.seconds)
    machine = config.machine
    # One connection for all trials.
    with lines_to(say), opened(machine.backend, machine.ray_address, say):
        search = set_up(settings, config, say)
        options = parse_options(settings.optuna_options)
        sampler_of = sampler_maker(settings.optuna_sampler, options, search.space)
        if config.output.dry_run:
            _say_plan(search)
            return Run(search.place)
        _search(search, sampler_of, clock)
    return Run(search.place)


def _say_plan(search: Search) -> None:
    """Say what a search would do."""
    num = search.settings.trials
    search.say(
        f"{search.folder}: {counted(num, 'trial')} of {counted(search.run.num_models, 'fold')} over"
        f" {', '.join(search.space.of)}; the best settings become {search.place}"
    )
    if search.settings.nested:
        folds = search.run.num_folds
        search.say(f"nested: {counted(folds * num, 'trial')} more, {num} without each fold")


def _search(search: Search, sampler_of: Any, clock: TrialClock) -> None:
    """Run the trials that are left and, if no other process runs any, make the best one a run."""
    say = search.say
    folder = search.folder
    settings = search.settings
    file = storage_file(settings.storage, folder)
    storage = open_storage(settings.storage, file)
    record = search.record()
    manifest = search.run.manifest
    held_out = HeldOut(
        storage_folder(file, folder) / "held_out",
        num_rows=len(search.scoring.rows),
        num_classes=manifest.num_classes,
    )

    def study_of(name: str, more: Mapping[str, Any], pruner: Any = None) -> Trials:
        return Trials(
            lock_folder(file, name),
            name,
            storage,
            file,
            search.space,
            maximize=search.scoring.metric.greater_is_better,
            sampler_of=sampler_of,
            record=record | dict(more),
            defaults=search.space.defaults(search.base),
            pruner=pruner,
        )

    # Importing the pruner imports Optuna.
    from pipeline.search.pruner import PairedPruner

    def best_name() -> str | None:
        best = trials.best()
        return None if best is None else best.name

    trials = study_of(folder.name, {}, PairedPruner(search.scoring, held_out, best_name))
    search = search.going_on(trials.record)
    engine = trials.decided(ENGINE, search.engine, among=(TORCH, *ENGINES))
    runner = Runner(search, trials, held_out, engine=engine)
    before = trials.counts().finished
    goes_on = f", {before} of them finished before" if before else ""
    say(f"{folder}: {counted(settings.trials, 'trial')}{goes_on}")
    run_trials(search, trials, runner, clock, num=settings.trials, title="trials", say=say)
    nested = None
    if settings.nested:
        nested = Nested(
            search,
            trials,
            runner,
            lambda fold: study_of(f"{folder.name}_without_fold_{fold}", {"held-out fold": fold}),
        )
    _end(search, trials, runner, nested)
    # The nested searches take long, so the run is made before them, and gets their score after.
    if nested is not None and nested.num_left():
        nested.run(clock)
        if nested.is_running():
            say(f"{folder}: {OTHERS}")
        elif left := nested.num_left():
            say(f"no nested score yet: {counted(left, 'trial')} left; the same command goes on")
        else:
            _end(search, trials, runner, nested)


def _end(search: Search, trials: Trials, runner: Runner, nested: Nested | None) -> None:
    """Make a run of the best settings, unless other processes still run trials."""

    def wait() -> None:
        search.say(f"{search.folder}: waiting for another process, which makes the best run")

    # A process that had to wait may have finished trials that the other one did not see.
    with hold(search.folder / ".lock-end", wait=wait):
        if trials.counts().running:
            search.say(f"{search.folder}: {OTHERS}")
        else:
            _make_best(search, trials, runner, nested)


def _make_best(search: Search, trials: Trials, runner: Runner, nested: Nested | None) -> None:
    """Make a run of the best settings, and say what the choice cost."""
    say = search.say
    counts = trials.counts()
    num = search.settings.trials
    if trials.is_exhausted:
        say(f"{counts.finished} trials: {search.settings.optuna_sampler} has no further settings")
    elif counts.finished < num:
        say(f"{counts.finished} of {num} trials are finished; the same command goes on")
    score: Interval | None = None
    if nested is not None and not nested.num_left():
        score = nested.score()
    best = trials.best()
    if best is None:
        say("no trial is finished; the same command goes on")
        return
    results = trials.results()
    logits_of = {one.name: found for one in results if (found := _logits(runner, one)) is not None}
    chosen = choose(
        search.scoring,
        [one for one in results if one.name in logits_of],
        logits_of,
        counts,
        best=best,
        study=search.folder.name,
        sampler=trials.samplers,
        nested=score or nested_before(search.place, counts, best),
    )
    say(f"best of {counts.finished}: {best.name}, {in_words(best.settings)}")
    config = search.config(best.settings, engine=runner.engine)
    if not config.train.frozen:
        take_over(runner.tuned.place(config), search.place, best, chosen)
    config = replace(
        config,
        output=str(search.place.parent),
        name=search.place.name,
        resume=not is_of_other_trial(search.place, best),
    )
    cross_validate_chosen(config, chosen, say=say)


def _logits(runner: Runner, result: Result) -> np.ndarray | None:
    """Return the held-out logits of a finished trial, made again if the file has others or none."""
    found = runner.held_out.read(result.name)
    if found is not None and math.isclose(runner.search.scoring.value(found), result.value):
        return found
    config = runner.search.config(result.settings, engine=runner.engine)
    if config.train.frozen:
        found = runner.frozen.held_out(config)
    else:
        found = runner.tuned.held_out(config, result.name, lambda num, so_far: True)
    if found is not None:
        runner.held_out.write(result.name, found)
    return found
