"""Training of a run's models on the nodes of a cluster.

The command holds the locks of the folds, as without a cluster. The process on a node has a second
lock of its own: a node that was lost only to the command, and still writes, is waited for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from foldblend.cli import Say
from foldblend.cluster.cluster import Cluster, Task
from foldblend.errors import UserError
from foldblend.progress import shows_bars
from foldblend.runs.folder import ON_NODE, is_fold_locked, lock_fold
from pipeline.cluster.settings import share_of_run
from pipeline.fold_files import finished_fold
from pipeline.job import Prepared, TrainingJob
from pipeline.levels import once
from pipeline.training.fold_children import log_to
from pipeline.training.start import training_job
from pipeline.watch.progress import Progress

__all__ = ["Train", "check_data", "train_models"]

Train = Callable[[TrainingJob, Sequence[int]], dict[int, dict[str, Any]]]
"""Function of a job and the numbers of models that trains these and returns each done.json."""

# Seconds to wait for a process of an earlier attempt that still has a fold.
PATIENCE = 180.0


def check_data(cluster: Cluster, run: Prepared) -> None:
    """Check that the nodes see the images of a run, by the first ones of each table."""
    tables = run.manifest.tables
    cluster.check(
        Path(run.config.output.output),
        [Path(table["path"].iloc[0]) for table in tables if len(table)],
    )


def train_models(
    run: Prepared,
    folder: Path,
    info: Mapping[str, Any],
    *,
    key: dict[str, str],
    todo: Sequence[int],
    train: Train,
    together: bool,
    cluster: Cluster | None,
    progress: Progress,
    say: Say,
) -> dict[int, dict[str, Any]]:
    """Train models here or on the nodes of a cluster, and return the done.json of each.

    Parameters
    ----------
    run, folder, info, key
        The prepared run, its folder (which all nodes share), its run.json, and the hashes by which
        a finished model is kept.
    todo
        Numbers of the models to train.
    train
        The function that trains them.
    together
        Whether one node trains all of them, as linear heads on shared features.
    cluster
        The cluster; None: this process trains them.
    progress
        Counts the steps of all models.
    say
        Function that prints one line of the log.

    Raises
    ------
    UserError
        If models failed; the others are finished first.
    """
    if cluster is None:
        return train(training_job(run, folder, info, key=key, progress=progress, say=say), todo)
    folder = folder.resolve()
    # Each node says how it reads the images.
    told = once(say)

    def listen(kind: str, what: Any) -> None:
        if kind == "progress":
            method, steps = what
            getattr(progress, method)(steps)
        elif kind == "say" or not shows_bars():
            # A bar of the progress stands for the lines of epochs.
            told(what)

    machine = run.config.machine
    share = share_of_run(cluster, machine)
    parts = [tuple(todo)] if together else [(index,) for index in todo]
    tasks = []
    for part in parts:
        name = "heads" if together else run.name_of(part[0])
        tasks.append(
            Task(
                title=f"{_words(name)} of {folder.name}",
                name=f"{__name__}:train_here",
                args=(run, folder, dict(info), key, train, part, name),
                listen=listen,
                again="it goes on from its last checkpoint",
            )
        )
    most = int(machine.parallel_folds) if machine.parallel_folds.isdecimal() else None
    num = "all models" if together else f"{len(todo)} folds"
    what = "a GPU" if share.gpus else f"CPU threads: {machine.threads}"
    say(f"training {num} on the cluster ({what} each); logs in {folder / 'logs'}")
    try:
        found = cluster.map(tasks, share, most=most)
    except UserError as error:
        raise UserError(
            f"{error}; logs in {folder / 'logs'}. What is finished is kept; run the same command"
            " again to train the rest"
        ) from None
    return {index: done for part in found for index, done in part.items()}


def train_here(
    run: Prepared,
    folder: Path,
    info: Mapping[str, Any],
    key: dict[str, str],
    train: Train,
    todo: Sequence[int],
    name: str,
    *,
    tell: Callable[[str, Any], None],
) -> dict[int, dict[str, Any]]:
    """Train models of a run on this node, for a command elsewhere."""
    log_to(folder / "logs" / f"{name}.log")

    def line(kind: str) -> Say:
        def say(text: str) -> None:
            print(text, flush=True)
            tell(kind, text)

        return say

    say = line("say")
    lock = f"{name}{ON_NODE}"
    if is_fold_locked(folder, lock):
        say(f"{_words(name)}: waiting for a process of an earlier attempt to end")
    with lock_fold(folder, lock, patience=PATIENCE):
        # An attempt that was lost afterwards may have finished some.
        found = {index: finished_fold(folder, run.name_of(index), key) for index in todo}
        done = {index: one for index, one in found.items() if one is not None}
        left = [index for index in todo if index not in done]
        if not left:
            return done

        def count(method: str, steps: int) -> None:
            tell("progress", (method, steps))

        progress = Progress(len(left), tell=count)
        job = training_job(run, folder, info, key=key, progress=progress, say=say)
        return done | train(dataclasses.replace(job, epoch_lines=line("epoch")), left)


def _words(name: str) -> str:
    """Return the name of a model's folder in words."""
    return name.replace("_", " ")
