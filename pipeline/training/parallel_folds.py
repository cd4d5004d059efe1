"""Run folds one after another, or several at the same time in separate processes."""

from __future__ import annotations

import dataclasses
import functools
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import get_start_method, set_start_method
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import joblib
from joblib.externals.loky.backend.context import get_context

from foldblend.errors import UserError
from foldblend.files import open_in_place
from foldblend.siblings import call
from pipeline.config.resolved import resolved
from pipeline.data.feeding import Feeder
from pipeline.device import compute_of
from pipeline.job import TrainingJob
from pipeline.training.fold_training import run_fold
from pipeline.training.gpu_share import devices_of
from pipeline.watch.hangup import hangup_held
from pipeline.watch.progress import Progress

__all__ = ["run_folds", "serve_folds"]

# A child process imports its function by this name (see foldblend.siblings.call).
SERVE = "pipeline.training.parallel_folds:serve_folds"
RunFold = Callable[[TrainingJob, int], dict[str, Any]]


def run_folds(
    job: TrainingJob, todo: Sequence[int], *, run: RunFold = run_fold
) -> dict[int, dict[str, Any]]:
    """Train folds and return the done.json of each.

    Parameters
    ----------
    job
        The job that all folds share.
    todo
        Numbers of the folds (models) to train.
    run
        The function that trains one fold.

    Returns
    -------
    dict
        {fold number: done.json}.

    Raises
    ------
    UserError
        If folds failed or their processes died; the other folds are finished first.
    """
    devices = devices_of(job, len(todo))
    if len(devices) == 1:
        return dict(_one_after_another(job, todo, run))
    # With a number given by the user, `workers` is already divided by it.
    if job.run.config.machine.parallel_folds == "auto":
        job = _with_workers(job, -(-job.run.config.machine.workers // len(devices)))
    job.say(
        f"training {len(devices)} folds at the same time on {', '.join(devices)}; logs in"
        f" {job.folder / 'logs'}"
    )
    folds = _FoldQueue(job, todo, run)
    try:
        joblib.Parallel(n_jobs=len(devices), backend="threading")(
            joblib.delayed(folds.serve)(device) for device in devices
        )
    finally:
        # Needed after Ctrl-C; otherwise every process has ended already.
        folds.stop()
    if folds.failed:
        reasons = "; ".join(
            f"{job.title(index)} {why}" for index, why in sorted(folds.failed.items())
        )
        raise UserError(
            f"{reasons}. The other folds are kept; run the same command again to train the rest"
        )
    return folds.done


def _one_after_another(
    job: TrainingJob, todo: Sequence[int], run: RunFold
) -> Iterator[tuple[int, dict[str, Any]]]:
    for index in todo:
        done = run(job, index)
        job.say_done(index, done)
        yield index, done


def _with_workers(job: TrainingJob, workers: int) -> TrainingJob:
    config = resolved(job.run.config, workers=workers)
    run = dataclasses.replace(job.run, config=config)
    return dataclasses.replace(job, run=run, feeder=Feeder(config, job.feeder.source, job.compute))


class _FoldQueue:
    """Queue of folds to train and their results; each thread in `serve` manages one process."""

    def __init__(self, job: TrainingJob, todo: Sequence[int], run: RunFold) -> None:
        self.job = job
        self.run = run
        self.todo: queue.SimpleQueue[int] = queue.SimpleQueue()
        for index in todo:
            self.todo.put(index)
        self.done: dict[int, dict[str, Any]] = {}
        self.failed: dict[int, str] = {}
        self.children: set[Any] = set()
        self.stopped = threading.Event()

    def serve(self, device: str) -> None:
        """Train folds on one device until the queue is empty; replace a process that dies."""
        child: _Child | None = None
        while not self.stopped.is_set():
            try:
                index = self.todo.get_nowait()
            except queue.Empty:
                break
            try:
                if child is None:
                    child = self._start(device)
                self.done[index] = child.do(index, self.job)
                self.job.say_done(index, self.done[index])
            except _FoldError as error:
                self.failed[index] = str(error)
                self.job.say(f"{self.job.title(index)} {error}")
                if child is not None and not child.alive:
                    child.end()
                    child = None
        if child is not None:
            child.end()

    def _start(self, device: str) -> _Child:
        try:
            child = _Child(self.job, self.run, device)
        except OSError as error:
            # The process died before it had read its arguments.
            raise _FoldError(
                f"could not be started ({error.strerror}), often because memory ran out"
            ) from None
        self.children.add(child)
        # `stop` may have run while this process was starting, and did not see it.
        if self.stopped.is_set():
            child.end(now=True)
        return child

    def stop(self) -> None:
        """Start no further folds and end all running processes."""
        self.stopped.set()
        for child in [*self.children]:
            child.end(now=True)


class _FoldError(Exception):
    """An unfinished fold; the message gives the reason."""


class _Child:
    """A process that trains folds on request, one at a time."""

    def __init__(self, job: TrainingJob, run: RunFold, device: str) -> None:
        # loky's processes do not run the caller's script again, so a script needs no `if __name__`
        # guard.
        context = get_context("loky")
        self.logs = job.folder / "logs"
        self.progress = job.progress
        self.pipe, theirs = context.Pipe()
        # Nothing is written to the lifeline. It closes when this process dies, and the child then
        # exits instead of writing to a run that nobody manages.
        their_lifeline, self.lifeline = context.Pipe(duplex=False)
        # Functions that print to this process cannot be pickled.
        picklable = dataclasses.replace(job, say=print, epoch_lines=None)
        self.process = context.Process(
            target=call,
            args=(SERVE, picklable, run, device, theirs, their_lifeline, get_start_method()),
        )
        with hangup_held():
            self.process.start()
        theirs.close()
        their_lifeline.close()

    @property
    def alive(self) -> bool:
        return bool(self.process.is_alive())

    def do(self, index: int, job: TrainingJob) -> dict[str, Any]:
        """Train one fold and return its done.json. Raises _FoldError."""
        log = self.logs / f"fold_{index}.log"
        for kind, what in self._messages(index):
            if kind == "done":
                return dict(what)
            if kind == "failed":
                raise _FoldError(f"failed: {what}; see {log}")
            if kind == "progress":
                method, steps = what
                getattr(self.progress, method)(steps)
            elif kind == "epoch":
                job.say_epoch(what)
            else:
                job.say(what)
        self.process.join()
        code = self.process.exitcode or 0
        how = (
            f"was killed ({signal.Signals(-code).name})" if code < 0 else f"died (exit code {code})"
        )
        why = ", often because memory ran out" if code == -signal.SIGKILL else ""
        raise _FoldError(f"{how}{why}{f'; see {log}' if log.exists() else ''}")

    def _messages(self, index: int) -> Iterator[tuple[str, Any]]:
        """Request a fold and yield the messages (kind, content) of the process until it dies.

        Only errors of the pipe count as its death; an error while printing a message is raised in
        the caller.
        """
        try:
            self.pipe.send(index)
            # The process is checked as well, because its data workers may keep the pipe open for
            # a while after it has died.
            while self.pipe.poll(1.0) or self.process.is_alive():
                if self.pipe.poll():
                    yield self.pipe.recv()
        except (EOFError, OSError):
            return

    def end(self, *, now: bool = False) -> None:
        """Wait for the process to end; with `now`, terminate it."""
        if now:
            self.process.terminate()
        self.pipe.close()
        self.process.join()
        self.lifeline.close()


def _die_with(lifeline: Connection) -> None:
    """Exit this process as soon as its parent has died, even if the parent was killed."""

    def watch() -> None:
        lifeline.poll(None)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _log_to(file: Path) -> None:
    """Redirect the output of this process, also that of C libraries, to a file."""
    file.parent.mkdir(exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    handle = open_in_place(file, os.O_WRONLY | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)


def serve_folds(
    job: TrainingJob, run: RunFold, device: str, pipe: Connection, lifeline: Connection, method: str
) -> None:
    """Train the folds whose numbers arrive through the pipe, in a child process.

    It sends back tuples (kind, content): "say" and "epoch" with a line to print, "progress" with a
    method of `Progress` and its argument, and at the end of a fold "done" with its done.json or
    "failed" with the reason.
    """
    _die_with(lifeline)
    # loky has set its own start method; the workers that read images must use the caller's.
    set_start_method(method, force=True)
    # The parent handles Ctrl-C and ends its children.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # This process prints to a log file, so a closed terminal does not concern it.
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    compute = compute_of(dataclasses.replace(job.run.config.machine, device=device))

    def send_line(kind: str, line: str) -> None:
        print(line, flush=True)
        pipe.send((kind, line))

    here = dataclasses.replace(
        job,
        say=functools.partial(send_line, "say"),
        epoch_lines=functools.partial(send_line, "epoch"),
        compute=compute,
        feeder=Feeder(job.run.config, job.feeder.source, compute),
        progress=Progress(1, tell=lambda *what: pipe.send(("progress", what))),
    )
    while True:
        try:
            index = pipe.recv()
        except EOFError:
            return
        _log_to(here.folder / "logs" / f"fold_{index}.log")
        try:
            pipe.send(("done", run(here, index)))
        except UserError as error:
            print(f"error: {error}", flush=True)
            pipe.send(("failed", str(error)))
        except Exception as error:
            traceback.print_exc()
            pipe.send(("failed", f"{type(error).__name__}: {error}"))
