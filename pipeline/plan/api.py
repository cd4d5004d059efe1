"""plan(): from a data set and a time limit to a blend of many runs."""

from __future__ import annotations

import dataclasses
from typing import Any

from foldblend.cli import Say
from foldblend.cluster.cluster import opened
from foldblend.errors import UserError, listed, require
from foldblend.files import home
from foldblend.flags import flag_name
from foldblend.progress import duration, lines_to, write
from foldblend.runs.folder import lock_folder
from foldblend.runs.run import Run
from pipeline.config.run import RunConfig
from pipeline.config.settings import flatten
from pipeline.config.trust import check_typed
from pipeline.plan.blended import check_folder
from pipeline.plan.check import check_parts
from pipeline.plan.choices import sweep
from pipeline.plan.config import PlanConfig, make_plan_config
from pipeline.plan.done import progress_of
from pipeline.plan.draft import Draft
from pipeline.plan.estimate import FIRST_BLEND, REPORT, START, reserve_for
from pipeline.plan.execute import execute
from pipeline.plan.existing import check_existing
from pipeline.plan.lines import plan_lines, speed_lines
from pipeline.plan.make import make_plan
from pipeline.plan.plan_file import OF_THE_PLAN, Plan, read_plan, write_plan
from pipeline.time_limit import Clock, parse_limit

__all__ = ["plan", "run_plan"]

# Flags of run_cv.py that --plan takes; the others stand in the file.
WITH_A_FILE = ("name", "output", "dry_run")
# Flags of run_cv.py that mean the plan as a whole.
WITH_A_PLAN = (*WITH_A_FILE, "config")


def plan(*, say: Say = write, **settings: Any) -> Run:
    """Plan and make many runs of a data set within a time limit, and return their blend.

    A frozen backbone comes first, then more backbones and sizes, then fine-tuned runs, of which
    clear losers stop after one or two folds. All runs have the same folds. The same call goes on
    with a plan that was interrupted.

    Parameters
    ----------
    say
        Function that prints one line of the log.
    settings
        ``time_limit`` (such as "45m"), or ``plan``, a plan.yaml; ``stop_losers``, ``views``; and
        settings of run_cv.py that all runs have, such as ``data`` and ``folds``.

    Returns
    -------
    Run
        The blend in ``<output>/<name>/``; its runs are in ``<output>/<name>-runs/``.

    Raises
    ------
    UserError
        For a time that does not suffice for one run, a wrong setting, or unusable data.

    Examples
    --------
    >>> best = fb.plan(data=data, time_limit="10m", backbone="test_resnet", pretrained="none",
    ...                img_size=32, finetune="head", folds=2, views="none", output=output,
    ...                name="planned", say=silent)
    >>> best.info["kind"]
    'blend'
    """
    return run_plan(make_plan_config(settings), say=say)


def run_plan(config: PlanConfig, *, already: float = 0.0, say: Say = write) -> Run:
    """Plan and make runs; `already` are the seconds that the command took before (see `plan`)."""
    options = config.planning
    clock = Clock(options.limit, already=already)
    # A run's config.yaml may name code; what the plan makes of it counts as typed.
    check_typed(config)
    twice = options.sweep and config.output.dry_run
    require(not twice, "--sweep with --dry-run: pass one of them")
    given = flatten(config)
    default = flatten(RunConfig())
    alone = [
        name
        for name in OF_THE_PLAN
        if name not in WITH_A_PLAN and name in config.typed and given[name] != default[name]
    ]
    require(
        not alone,
        f"{listed(map(_typed_flag, alone))}: of one run, and not of a plan; leave it out",
    )
    machine = config.machine
    # One connection for all runs.
    with lines_to(say), opened(machine.backend, machine.ray_address, say):
        if options.plan is not None:
            made = _from_file(config)
            limit = None if made.time_limit is None else parse_limit(made.time_limit)
            clock = Clock(limit, already=already)
        else:
            require(not options.sweep, "--sweep: goes with --plan FILE; pass the plan.yaml")
            require(
                options.limit is not None,
                "--time-limit: missing; pass one such as 45m, or a plan with --plan",
            )
            draft = Draft(config, clock, say)
            made = make_plan(draft)
            for line in [*draft.data.lines(), *speed_lines(draft.speeds, draft.run.config)]:
                say(line)
        if options.sweep:
            swept = []
            if made.runs_folder.is_dir():
                with lock_folder(made.runs_folder):
                    swept = sweep(made)
            say(f"{made.runs_folder}: removed {listed(swept) if swept else 'nothing'}")
            return Run(made.folder)
        check_folder(made)
        check_existing(made)
        if options.plan is not None:
            check_parts(made)
        for line in plan_lines(made, left=clock.left):
            say(line)
        if config.output.dry_run:
            return Run(made.folder)
        _check_limit(made, clock)
        with lock_folder(made.runs_folder):
            if options.plan is None or home(options.plan).resolve() != made.file.resolve():
                write_plan(made)  # which would lose the comments of one that was edited
            blended = execute(made, clock, say=say)
        for line in plan_lines(made):
            say(line)
        say(f"blend: {blended.path}")
        return blended


def _typed_flag(name: str) -> str:
    """Return the flag of a setting as it is typed."""
    return "--no-resume" if name == "resume" else flag_name(name)


def _check_limit(made: Plan, clock: Clock) -> None:
    """Raise UserError if nothing is done yet, and the time does not suffice for the first run."""
    progress = [progress_of(made.runs_folder / run.name) for run in made.runs]
    if any(one.state == "done" for one in progress):
        return
    seconds = min(run.seconds or 0.0 for run in made.runs)
    needed = (seconds or REPORT + START) + reserve_for(FIRST_BLEND)
    if needed > clock.left:
        raise UserError(
            f"--time-limit {made.time_limit}: {duration(max(clock.left, 0.0))} are left of it, and"
            f" the first run with its blend takes about {duration(needed)}; pass a longer one"
        )


def _from_file(config: PlanConfig) -> Plan:
    """Return the plan of --plan, under the name that is typed."""
    options = config.planning
    assert options.plan is not None
    others = sorted(config.typed - {*WITH_A_FILE})
    require(
        not others,
        f"--plan {options.plan} with {listed(map(flag_name, others))}: runs of a plan have the"
        " settings of its file; write them there under `settings`",
    )
    made = read_plan(options.plan)
    typed: dict[str, Any] = {
        **({"name": config.output.name} if config.output.name else {}),
        **({"output": config.output.output} if "output" in config.typed else {}),
        **{
            setting: getattr(options, setting)
            for setting in ("time_limit", "views", "stop_losers")
            if setting in options.typed
        },
    }
    return dataclasses.replace(made, **typed)
