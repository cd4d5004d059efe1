"""The making of a run: the folds that are free are trained, and the last process completes it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foldblend.cli import Say, quiet
from foldblend.cluster.cluster import Cluster
from foldblend.errors import listed
from foldblend.runs.folder import drop_fold_locks, lock_folder, sweep
from foldblend.runs.schema import read_info
from pipeline.assemble import results_are_intact
from pipeline.begin import (
    begin_run,
    first_record,
    folds_of,
    record_before,
    say_start,
)
from pipeline.cluster.folds import train_models
from pipeline.complete import complete_run
from pipeline.fold_claims import claim_folds, folds_in_training
from pipeline.fold_files import finished_folds, fold_key
from pipeline.frozen.run_heads import run_heads
from pipeline.inference_engine import as_begun
from pipeline.job import Prepared, TrainingJob
from pipeline.labels.make import make_labels
from pipeline.open_folder import check_still_there, open_folder
from pipeline.refit import kept_refit, train_refits
from pipeline.training.parallel_folds import run_folds
from pipeline.training.soup_of_seeds import run_soup_fold
from pipeline.watch.progress import Progress

__all__ = ["make_run"]


def make_run(
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
    if job.run.config.train.soup:
        return run_folds(job, todo, run=run_soup_fold)
    return run_folds(job, todo)


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
