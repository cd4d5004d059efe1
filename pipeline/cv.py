"""Cross-validation: from settings to a run folder with out-of-fold and test logits."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from foldblend.cli import Say, quiet
from foldblend.cluster.cluster import Cluster, opened
from foldblend.errors import UserError, listed
from foldblend.progress import lines_to, write
from foldblend.runs.folder import drop_fold_locks, lock_folder, sweep
from foldblend.runs.run import Run
from foldblend.runs.schema import read_info
from foldblend.scores.metrics import METRICS
from foldblend.spreadsheets import safe_csv
from pipeline.assemble import results_are_intact
from pipeline.begin import (
    begin_run,
    first_record,
    folds_of,
    record_before,
    say_start,
)
from pipeline.cluster.folds import check_data, train_models
from pipeline.complete import complete_run
from pipeline.config.run import RunConfig, parse_folds
from pipeline.config.settings import make_config, replace
from pipeline.dry_run import say_plan
from pipeline.fold_claims import claim_folds, folds_in_training
from pipeline.fold_files import finished_folds, fold_key
from pipeline.frozen.run_heads import run_heads
from pipeline.inference_engine import as_begun
from pipeline.job import Chosen, Prepared, TrainingJob
from pipeline.labels.make import make_labels
from pipeline.labels.rounds import rounds_of
from pipeline.open_folder import check_still_there, open_folder
from pipeline.prepare import prepare
from pipeline.processes import check_processes
from pipeline.refit import check_refit, kept_refit, train_refits
from pipeline.training.fold_training import run_fold
from pipeline.training.leading import world_in_use
from pipeline.training.parallel_folds import run_folds
from pipeline.training.soup_of_seeds import run_soup_fold
from pipeline.watch.progress import Progress

__all__ = ["cross_validate", "cross_validate_chosen", "cross_validate_seeds"]


Settings = RunConfig | Mapping[str, Any]


def _configured(config: Settings | None, settings: Mapping[str, Any]) -> RunConfig:
    """Return the configuration of a call; keyword settings override `config`."""
    if config is None or isinstance(config, Mapping):
        return make_config(config, **settings)
    if not isinstance(config, RunConfig):
        raise UserError(
            f"{config!r}: not a configuration; pass one of make_config, or settings by keyword"
        )
    return replace(config, **settings)


def cross_validate(config: Settings | None = None, /, *, say: Say = write, **settings: Any) -> Run:
    """Train and score all folds of a run, and return the run.

    If the run folder ``<output>/<name>/`` has finished folds of an equal run, they are kept, and an
    interrupted fold continues from its checkpoint. README.md describes the files of the folder.

    Parameters
    ----------
    config
        A configuration of `make_config`, or a mapping of settings; default: only the keyword
        settings.
    say
        Function that prints one line of the log.
    settings
        Settings by keyword, spelt as the flags of run_cv.py: ``backbone``, ``data``, ``folds``,
        ``epochs`` ... They override `config`.

    Returns
    -------
    Run
        The finished run; with ``only_folds`` it may lack folds, and with ``dry_run`` it need not
        exist.

    Raises
    ------
    UserError
        In one line that reports what to fix: a setting, a file, an image or the run folder.

    Examples
    --------
    >>> run = fb.cross_validate(data=data, backbone="test_resnet", folds=2, epochs=1, img_size=32,
    ...                         pretrained="none", output=output, name="c", say=silent)
    >>> run.oof.shape[0], len(run.classes)
    (84, 18)
    """
    rounds = rounds_of(_configured(config, settings))
    if rounds[0].output.dry_run and len(rounds) > 1:
        say(f"--pseudo-rounds {len(rounds)}: {len(rounds)} runs like the following one")
        rounds = rounds[:1]
    return [_run(one, say) for one in rounds][-1]


def cross_validate_chosen(config: RunConfig, chosen: Chosen, *, say: Say = write) -> Run:
    """Make a run whose settings were chosen on its folds, which its record and report say."""
    return _run(config, say, chosen)


def _run(config: RunConfig, say: Say, chosen: Chosen | None = None) -> Run:
    """Make a run, or its plan with --dry-run."""
    only = () if config.output.only_folds is None else parse_folds(config.output.only_folds)
    # Before the data are read, and again when the default batch size is known.
    check_processes(config, world_in_use())
    machine = config.machine
    with lines_to(say), opened(machine.backend, machine.ray_address, say) as cluster:
        if cluster is not None:
            # Before the data are read, which takes longer.
            cluster.check(Path(config.output.output))
        return _run_here(config, only, cluster, say, chosen)


def _run_here(
    config: RunConfig, only: Sequence[int], cluster: Cluster | None, say: Say, chosen: Chosen | None
) -> Run:
    """Make a run, or its plan with --dry-run, with the nodes of a cluster if there is one."""
    with lines_to(say):
        # The trials of a search have said what the data and the folds are.
        run = dataclasses.replace(prepare(config, say if chosen is None else quiet), chosen=chosen)
    if only and max(only) >= run.num_models:
        raise UserError(
            f"--only-folds {max(only)}: there are {run.num_models} folds, numbered from 0; pass"
            " smaller numbers"
        )
    check_refit(run)
    check_processes(run.config, world_in_use())
    folder = Path(run.config.output.output) / run.config.output.name
    if config.output.dry_run:
        with lines_to(say):
            say_plan(run, folder, only, resume=config.output.resume, say=say)
        return Run(folder)
    if cluster is not None:
        check_data(cluster, run)
    with lines_to(say), safe_csv(config.output.safe_csv):
        _cross_validate(run, folder, only, cluster, resume=config.output.resume, say=say)
    return Run(folder)


def _cross_validate(
    run: Prepared,
    folder: Path,
    only: Sequence[int],
    cluster: Cluster | None,
    *,
    resume: bool,
    say: Say,
) -> None:
    """Train the unfinished folds, or those of `only`, and complete the run if none is left.

    Several processes may do this for one run. The folder is locked while it begins and while its
    final files are written, and each fold while it is trained.
    """

    def wait() -> None:
        say(f"waiting for another process, which is writing {folder}")

    with contextlib.ExitStack() as claims:
        with lock_folder(folder, wait=wait):
            if resume:
                run = as_begun(run, folder)
            info = first_record(run, folder)
            open_folder(folder, run.config, info, data=run.manifest, resume=resume)
            sweep(folder)
            say_start(run, folder, info, say)
            # Whatever can stop the command comes before the first file is written, so that a
            # finished run stays finished.
            before = record_before(folder, info)
            folds = folds_of(run, folder, before, say)
            run = dataclasses.replace(run, fold_RN=folds.fold_RN)
            info["folds_hash"] = folds.digest
            done = finished_folds(run, folder, info, say=say)
            left = [index for index, fold in done.items() if fold is None]
            todo = [index for index in left if not only or index in only]
            claim = claim_folds(claims, folder, todo, chosen=bool(only))
            was_done = before.get("status") == "done" and not claim.mine
            intact = was_done and not left and results_are_intact(folder, before, say)
            if not (was_done and left):
                begin_run(run, folder, info, folds, is_done=intact)
        if claim.others:
            say(f"{folder}: another process is training folds {listed(claim.others, most=9)}")
        if claim.mine:
            done |= _train(run, folder, info, done, claim.mine, cluster, say)
        with lock_folder(folder, wait=wait):
            # The locks of folds end with that of the folder held, so that of two processes that
            # finish together one sees that no fold is left.
            claims.close()
            check_still_there(folder, info)
            was_all_done = not left
            unknown = [index for index, fold in done.items() if fold is None]
            done |= finished_folds(run, folder, info, among=unknown)
            if left := [index for index in unknown if done[index] is None]:
                _say_left(folder, left, say)
                return
            info["folds"] = [done[index] for index in range(run.num_models)]
            refit = kept_refit(run, folder, info)
            trains = refit is None and run.config.train.num_refits > 0
            if claim.mine and not trains and _is_complete(folder, info):
                say(f"{folder}: another process has written the results")
                return
            drop_fold_locks(folder)
            # The run is complete before a refit begins, so that nothing is lost with that.
            if was_all_done and not trains:
                say(
                    f"{folder}: finished before, so nothing was trained (--no-resume starts it"
                    " again)"
                )
            complete_run(
                run, folder, info, before, refit, intact=intact, say=quiet if trains else say
            )
            if trains:
                train_refits(run, folder, info, cluster, say)
                refit = kept_refit(run, folder, info)
                complete_run(run, folder, info, before, refit, intact=intact, say=say)


def _is_complete(folder: Path, info: Mapping[str, Any]) -> bool:
    """Return whether another process has completed the run while this one waited to do so."""
    now = read_info(folder)
    return (
        now["status"] == "done"
        and now.get("folds") == info["folds"]
        and (folder / "report.json").is_file()
    )


def _train(
    run: Prepared,
    folder: Path,
    info: Mapping[str, Any],
    done: Mapping[int, dict[str, Any] | None],
    todo: Sequence[int],
    cluster: Cluster | None,
    say: Say,
) -> dict[int, dict[str, Any]]:
    """Train the folds of `todo` and return the done.json of each."""
    for index in [index for index, fold in done.items() if fold is not None]:
        say(f"{run.title_of(index)}: finished before, kept")
    is_frozen = run.config.train.frozen
    num = len(todo) * max(run.config.train.num_ingredients, 1)
    with contextlib.closing(Progress(num)) as progress:
        key = fold_key(run, info)
        return train_models(
            run,
            folder,
            info,
            key=key,
            todo=todo,
            train=_train_heads if is_frozen else _train_folds,
            # The heads of all folds of a frozen backbone are fitted together.
            together=is_frozen,
            cluster=cluster,
            progress=progress,
            say=say,
        )


def _train_heads(job: TrainingJob, todo: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Fit the heads of folds on a frozen backbone."""
    if job.run.labels is not None:
        make_labels(job, range(job.run.num_models))
    return run_heads(job, todo)


def _train_folds(job: TrainingJob, todo: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Train folds one after another, or several at the same time."""
    if job.run.labels is not None:
        make_labels(job, todo)
    return run_folds(job, todo, run=run_soup_fold if job.run.config.train.soup else run_fold)


def _say_left(folder: Path, left: Sequence[int], say: Say) -> None:
    """Say which folds are not finished, and who trains them."""
    others = folds_in_training(folder, left)
    free = [index for index in left if index not in others]
    if others:
        say(
            f"{folder}: folds {listed(others, most=9)} are in training by other processes; the last"
            " one to finish writes the results"
        )
    if free:
        say(
            f"{folder}: folds {listed(free, most=9)} are left; run the same command without"
            " --only-folds to train them"
        )


def _with_seed(seed: int, say: Say) -> Say:
    """Return a function that says a line of a fold with the seed of its run."""

    def say_with_seed(line: str) -> None:
        say(f"seed {seed}, {line}" if line.startswith(("fold ", "repeat ")) else line)

    return say_with_seed


def cross_validate_seeds(
    config: Settings | None = None, /, *, say: Say = write, **settings: Any
) -> list[Run]:
    """Make one run per seed, on the same folds, and return the runs.

    With ``seeds=3`` and ``seed=0`` they are named <name>-seed0 to <name>-seed2. Each equals the run
    that `cross_validate` makes with that ``seed``. Parameters and errors are those of
    `cross_validate`.
    """
    config = _configured(config, settings)
    first = config.train.seed
    num = config.train.num_runs
    if config.output.dry_run:
        if num > 1:
            say(f"--seeds {num}: {num} runs like the following one")
        return [cross_validate(replace(config, seed=first), say=say)]
    seeds = {seed: replace(config, seed=seed) for seed in range(first, first + num)}
    machine = config.machine
    with opened(machine.backend, machine.ray_address, say) as cluster:
        if cluster is None or num == 1:
            runs = [cross_validate(one, say=say) for one in seeds.values()]
        else:
            # Folds of one seed need not wait for those of another.
            runs = cluster.together(
                [
                    functools.partial(cross_validate, one, say=_with_seed(seed, say))
                    for seed, one in seeds.items()
                ]
            )
    if num > 1 and config.output.only_folds is None:
        scores = [run.report["headline"]["value"] for run in runs]
        title = METRICS[config.output.metric].title
        spread = f"{min(scores):.4f} to {max(scores):.4f}"
        say(f"{num} seeds: OOF {title} {np.mean(scores):.4f} on average ({spread}); blend them:")
        say(f"python blend.py {' '.join(str(run.path) for run in runs)}")
    return runs
