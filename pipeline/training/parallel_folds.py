"""Run folds one after another, or several at the same time in separate processes."""

from __future__ import annotations

import dataclasses
import functools
import queue
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import joblib
import torch

from foldblend.errors import UserError, in_a_line, listed
from pipeline.config.resolved import resolved
from pipeline.data.dataset import resident_pixels
from pipeline.data.feeding import Feeder
from pipeline.device import compute_of
from pipeline.job import TrainingJob
from pipeline.machine import workers_of
from pipeline.training.fold_children import FoldChild, FoldError, RunFold
from pipeline.training.fold_training import run_fold
from pipeline.training.gpu_share import FoldProcess, processes_of
from pipeline.training.leading import leader
from pipeline.training.shared_images import SharedImages

__all__ = ["run_folds"]


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
    lead = leader()
    if lead is not None:
        job.say(f"{lead.world.size} processes train each fold together")
        return dict(_one_after_another(job, todo, functools.partial(lead.train, run)))
    processes = processes_of(job, len(todo))
    # The count holds a model, which nothing needs from here on.
    job = dataclasses.replace(job, memory=None)
    if len(processes) == 1:
        return dict(_one_after_another(_alone(job, processes[0]), todo, run))
    job = _for_several(job, len(processes))
    devices = listed(process.device for process in processes)
    job.say(
        f"training {len(processes)} folds at the same time on {devices}; logs in"
        f" {job.folder / 'logs'}"
    )
    folds = _FoldQueue(job, todo, run)
    try:
        joblib.Parallel(n_jobs=len(processes), backend="threading")(
            joblib.delayed(folds.serve)(process) for process in processes
        )
        folds.try_again(processes[0])
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


def _for_several(job: TrainingJob, num_processes: int) -> TrainingJob:
    """Return the job for one of several processes, which share the cores and shared memory.

    --parallel-folds auto has their number only now.
    """
    config = job.run.config
    if config.machine.parallel_folds != "auto":
        return job
    workers = config.machine.workers
    if "workers" not in config.typed:
        workers = workers_of(config.machine.device, num_processes)
    config = resolved(config, workers=workers, parallel_folds=str(num_processes))
    run = dataclasses.replace(job.run, config=config)
    return dataclasses.replace(job, run=run, feeder=Feeder(config, job.feeder.source, job.compute))


def _alone(job: TrainingJob, process: FoldProcess) -> TrainingJob:
    """Return the job for this process, on the GPU that the plan has chosen."""
    job = _placed(job, process)
    machine = job.run.config.machine
    if process.device == machine.device:
        return job
    compute = compute_of(dataclasses.replace(machine, device=process.device))
    feeder = Feeder(job.run.config, job.feeder.source, compute)
    return dataclasses.replace(job, compute=compute, feeder=feeder)


def _placed(job: TrainingJob, process: FoldProcess) -> TrainingJob:
    """Return the job for a process: with its limits, and with images where it has room for them."""
    job = dataclasses.replace(job, limits=process.limits)
    if process.holds_images:
        return job
    feeder = Feeder(job.run.config, job.feeder.source.off_device(), job.compute)
    return dataclasses.replace(job, feeder=feeder)


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
        self.short: list[int] = []
        """Folds that died, which is often for want of memory."""
        self.held: dict[str, torch.Tensor] = {}
        """For each GPU, the images that its processes share."""
        self.unshared: set[str] = set()
        """GPUs whose memory cannot be shared."""
        self.loading: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self.children: set[Any] = set()
        self.stopped = threading.Event()

    def serve(self, process: FoldProcess) -> None:
        """Train folds on one device until the queue is empty; replace a process that dies."""
        child: FoldChild | None = None
        while not self.stopped.is_set():
            try:
                index = self.todo.get_nowait()
            except queue.Empty:
                break
            try:
                if child is None:
                    child = self._start(process)
                self.done[index] = child.do(index, self.job)
                self.failed.pop(index, None)
                self.job.say_done(index, self.done[index])
            except FoldError as error:
                self.failed[index] = str(error)
                if error.for_want_of_memory:
                    self.short.append(index)
                self.job.say(f"{self.job.title(index)} {error}")
                # After an error of CUDA, a process can use its GPU no more, and it keeps memory.
                if child is not None and (error.for_want_of_memory or not child.alive):
                    child.end()
                    child = None
        if child is not None:
            child.end()

    def try_again(self, process: FoldProcess) -> None:
        """Train folds that died on a GPU once more, alone and with smaller passes in inference.

        `process` is one on the GPU with the most memory.
        """
        again = sorted(self.short)
        self.short = []
        if not again or not self.job.compute.is_cuda:
            return
        names = listed(self.job.title(index) for index in again)
        self.job.say(f"{names}: trained again, alone on {process.device}")
        self._let_go()
        rows = self.job.run.config.infer.validation_batch_size
        chunk = -(-(process.limits.chunk or rows) // 2)
        limits = dataclasses.replace(process.limits, chunk=chunk, releases=True)
        for index in again:
            self.todo.put(index)
        self.serve(
            dataclasses.replace(process, limits=limits, shares_images=False, holds_images=False)
        )

    def _start(self, process: FoldProcess) -> FoldChild:
        images = self._images(process)
        if process.shares_images and images is None:
            # The plan has room for one copy of them.
            process = dataclasses.replace(process, holds_images=False)
        try:
            child = FoldChild(_placed(self.job, process), self.run, process.device, images)
        except OSError as error:
            # The process died before it had read its arguments.
            raise FoldError(
                f"could not be started ({error.strerror}), often because memory ran out"
            ) from None
        self.children.add(child)
        # `stop` may have run while this process was starting, and did not see it.
        if self.stopped.is_set():
            child.end(now=True)
        return child

    def _images(self, process: FoldProcess) -> SharedImages | None:
        """Return the images that the processes of a GPU share, which this process loads once.

        None: the process reads them from the cache, or nothing is shared.
        """
        device = process.device
        if not process.shares_images:
            return None
        with self.loading[device]:
            if device in self.unshared:
                return None
            try:
                if device not in self.held:
                    source = self.job.feeder.source
                    self.held[device] = resident_pixels(source, torch.device(device))
                return SharedImages.of(self.held[device])
            except RuntimeError as error:
                why = in_a_line(error)
            self.unshared.add(device)
            self.held.pop(device, None)
        self._give_back()
        self.job.say(
            f"{device}: the images cannot be shared ({why}), so that its processes read them from"
            " the cache"
        )
        return None

    def _let_go(self) -> None:
        """Let go of shared images; those of a process that was killed stay until this one ends."""
        self.held.clear()
        self._give_back()

    @staticmethod
    def _give_back() -> None:
        """Give the memory of tensors that nobody needs back to the GPUs."""
        if torch.cuda.is_initialized():
            torch.cuda.ipc_collect()
            torch.cuda.empty_cache()

    def stop(self) -> None:
        """Start no further folds and end all running processes."""
        self.stopped.set()
        for child in [*self.children]:
            child.end(now=True)
