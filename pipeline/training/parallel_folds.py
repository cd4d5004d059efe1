"""Folds one after another, or several at once, each in a process of its own."""

from __future__ import annotations

import dataclasses
import itertools
import math
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
import numpy as np
import torch
from joblib.externals.loky.backend.context import get_context

from foldblend.cli import Say
from foldblend.errors import UserError
from foldblend.siblings import call
from pipeline.config.resolved import resolved
from pipeline.data.feeding import Feeder
from pipeline.device import compute_of
from pipeline.infer import predict
from pipeline.job import TrainingJob
from pipeline.training.fit import Fit
from pipeline.training.fold_training import run_fold
from pipeline.watch.hangup import hangup_held
from pipeline.watch.progress import Progress

__all__ = ["run_folds", "serve_folds", "share_of_gpu"]

CONTEXT_BYTES = (
    800 * 2**20
)  # what CUDA and its libraries take for each process, beside torch's tensors
SERVE = "pipeline.training.parallel_folds:serve_folds"  # by name: see foldblend.siblings.call
RunFold = Callable[[TrainingJob, int], dict[str, Any]]


def run_folds(
    job: TrainingJob, todo: Sequence[int], *, run: RunFold = run_fold
) -> dict[int, dict[str, Any]]:
    """Train the folds of those numbers and return {number: done.json}.

    Raises UserError where folds died, after the others have finished.
    """
    devices = _devices(job, len(todo))
    if len(devices) == 1:
        return {index: run(job, index) for index in todo}
    if (
        job.run.config.machine.parallel_folds == "auto"
    ):  # a number that was given has had its share of the workers
        job = _with_workers(job, -(-job.run.config.machine.workers // len(devices)))
    job.say(
        f"{len(devices)} folds at once, on {', '.join(devices)}; each one's log is in"
        f" {job.folder / 'logs'}"
    )
    board = _Board(job, todo, run)
    try:
        joblib.Parallel(n_jobs=len(devices), backend="threading")(
            joblib.delayed(board.serve)(device) for device in devices
        )
    finally:
        board.stop()  # on Ctrl-C; otherwise nothing is left to stop
    if board.failed:
        reasons = "; ".join(
            f"{job.title(index)} {why}" for index, why in sorted(board.failed.items())
        )
        raise UserError(f"{reasons}. The other folds are kept; the same command does the rest")
    return board.done


def _with_workers(job: TrainingJob, workers: int) -> TrainingJob:
    config = resolved(job.run.config, workers=workers)
    run = dataclasses.replace(job.run, config=config)
    return dataclasses.replace(job, run=run, feeder=Feeder(config, job.feeder.source, job.compute))


def _devices(job: TrainingJob, num_todo: int) -> list[str]:
    """Return the device of each process."""
    machine = job.run.config.machine
    if machine.device == "cuda":
        gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    else:
        gpus = [machine.device]
    if machine.parallel_folds != "auto":
        num = int(machine.parallel_folds)
    elif job.compute.is_cuda and num_todo > 1:
        free = torch.cuda.mem_get_info(gpus[0])[0]
        peak = _fold_memory(job)
        each = share_of_gpu(free=free, peak=peak, most=math.ceil(num_todo / len(gpus)))
        job.say(
            f"a fold takes {peak / 1e9:.1f} GB of the GPU (measured), {free / 1e9:.1f} GB are free:"
            f" {each} a GPU"
        )
        num = each * len(gpus)
    else:
        num = 1
    return list(itertools.islice(itertools.cycle(gpus), min(num, num_todo)))


def share_of_gpu(*, free: int, peak: int, most: int) -> int:
    """Return how many folds go onto a GPU of `free` bytes if each takes `peak`; one is always
    tried.
    """
    return max(1, min(most, int(0.9 * free // peak)))


def _fold_memory(job: TrainingJob) -> int:
    """Return the bytes of GPU memory that a fold takes: two steps and an inference batch on blank
    images.
    """
    config = job.run.config
    compute = job.compute
    preprocess = job.run.preprocess
    torch.cuda.reset_peak_memory_stats(compute.device)
    model = job.new_model()

    def blank(num: int, width: int, height: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [
            (
                torch.zeros(num, height, width, 3, dtype=torch.uint8),
                torch.zeros(num, dtype=torch.long),
            )
        ]

    augment = job.feeder.device_augmentation  # with it, images come whole
    size = (preprocess.width, preprocess.height) if augment is None else preprocess.stored_size
    batches = blank(config.train.batch_size * config.train.grad_accum_steps, *size) * 2
    once = resolved(config, epochs=1, warmup_epochs=0.0)
    eager = dataclasses.replace(compute, compile=False)
    counts_C = np.ones(job.run.manifest.num_classes, int)
    fit = Fit(
        model,
        once,
        preprocess,
        eager,
        steps_per_epoch=2,
        count_C=counts_C,
        augment=augment,
        say=job.say,
    )
    for _ in fit.epochs(batches):
        pass
    batches = blank(config.infer.validation_batch_size, preprocess.width, preprocess.height)
    predict(model, batches, preprocess, compute, [lambda images: images])
    peak = torch.cuda.max_memory_reserved(compute.device) + CONTEXT_BYTES
    del model, fit
    torch.cuda.empty_cache()
    source = job.feeder.source
    resident = (
        len(source.records) * math.prod(source.records.shape)
        if source.records and source.mode == "device"
        else 0
    )
    return peak + resident


class _Board:
    """The folds to do, and what became of them; every thread of `serve` minds one process."""

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
        """Have folds done on one device until there are none left; a process that dies is
        replaced.
        """
        child: _Child | None = None
        while not self.stopped.is_set():
            try:
                index = self.todo.get_nowait()
            except queue.Empty:
                break
            try:
                if child is None:
                    child = self._start(device)
                self.done[index] = child.do(index, self.job.say)
                left = self.job.progress.left()
                self.job.say(f"{self.job.title(index)}: done{f', {left}' if left else ''}")
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
        except OSError as error:  # it died before it had read all that it was sent
            raise _FoldError(
                f"could not be started ({error.strerror}), often for want of memory"
            ) from None
        self.children.add(child)
        if self.stopped.is_set():  # while it was being started
            child.end(now=True)
        return child

    def stop(self) -> None:
        """Begin no further fold, and end what still runs."""
        self.stopped.set()
        for child in [*self.children]:
            child.end(now=True)


class _FoldError(Exception):
    """Why a fold was not finished, as a person reads it."""


class _Child:
    """A process that does folds on request, one at a time."""

    def __init__(self, job: TrainingJob, run: RunFold, device: str) -> None:
        # loky's processes do not run the caller's script again, so a script needs no `if __name__`
        # guard.
        context = get_context("loky")
        self.logs = job.folder / "logs"
        self.progress = job.progress
        self.pipe, theirs = context.Pipe()
        # Never written to: it closes when this process dies, and then the child must not go on
        # writing.
        their_lifeline, self.lifeline = context.Pipe(duplex=False)
        picklable = dataclasses.replace(job, say=print)
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

    def do(self, index: int, say: Say) -> dict[str, Any]:
        """Have one fold done; raises _FoldError."""
        log = self.logs / f"fold_{index}.log"
        for kind, what in self._told(index):
            if kind == "done":
                return dict(what)
            if kind == "failed":
                raise _FoldError(f"failed: {what}; see {log}")
            if kind == "progress":
                method, steps = what
                getattr(self.progress, method)(steps)
            else:
                say(what)
        self.process.join()
        code = self.process.exitcode or 0
        how = (
            f"was killed ({signal.Signals(-code).name})" if code < 0 else f"died (exit code {code})"
        )
        why = ", often for want of memory" if code == -signal.SIGKILL else ""
        raise _FoldError(f"{how}{why}{f'; see {log}' if log.exists() else ''}")

    def _told(self, index: int) -> Iterator[tuple[str, Any]]:
        """Ask for a fold and yield what the process sends, until it dies.

        Only the pipe's errors are taken for its death: one of printing what it sent is the
        caller's.
        """
        try:
            self.pipe.send(index)
            while (
                self.pipe.poll(1.0) or self.process.is_alive()
            ):  # its workers may hold its end open for a while
                if self.pipe.poll():
                    yield self.pipe.recv()
        except (EOFError, OSError):
            return

    def end(self, *, now: bool = False) -> None:
        """Let the process end, or stop it."""
        if now:
            self.process.terminate()
        self.pipe.close()
        self.process.join()
        self.lifeline.close()


def _die_with(lifeline: Connection) -> None:
    """End this process as soon as the one that started it has gone, however it went."""

    def watch() -> None:
        lifeline.poll(None)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _log_to(file: Path) -> None:
    """Send all that this process prints, and what C libraries print, to a file."""
    file.parent.mkdir(exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)


def serve_folds(
    job: TrainingJob, run: RunFold, device: str, pipe: Connection, lifeline: Connection, method: str
) -> None:
    """Do the folds whose numbers come through the pipe; send back what they say and their
    outcome.
    """
    _die_with(lifeline)
    set_start_method(
        method, force=True
    )  # the caller's, for the workers that read images: loky has set its own
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    if hasattr(signal, "SIGHUP"):
        signal.signal(
            signal.SIGHUP, signal.SIG_IGN
        )  # it prints to a log, whatever becomes of the terminal
    compute = compute_of(dataclasses.replace(job.run.config.machine, device=device))

    def say(line: str) -> None:
        print(line, flush=True)
        pipe.send(("say", line))

    progress = Progress(1, tell=lambda *what: pipe.send(("progress", what)))
    feeder = Feeder(job.run.config, job.feeder.source, compute)
    here = dataclasses.replace(job, say=say, compute=compute, feeder=feeder, progress=progress)
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
