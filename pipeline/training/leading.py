"""Several processes of torchrun for one command: the first leads, and the others train with it.

The leader does all that one process does: it prepares the run, writes and prints. The others wait
until it sends them a job and the number of a fold, train that with it, and write nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch
from torch import distributed

from foldblend.cli import quiet
from foldblend.errors import UserError, in_a_line
from foldblend.progress import forget_terminal
from foldblend.streams import print_aside
from foldblend.torchrun import ALONE, World, attempt_of
from pipeline.config.resolved import resolved
from pipeline.data.feeding import Feeder
from pipeline.device import compute_of
from pipeline.job import TrainingJob
from pipeline.machine import workers_of
from pipeline.training.fold_children import RunFold
from pipeline.training.team import Team, backend_of, is_lost

__all__ = ["Leader", "lead", "leader", "serve", "world_in_use"]

END = "end"
# The leader may prepare data for hours before the first fold.
CONNECT = datetime.timedelta(seconds=60)
FOREVER = datetime.timedelta(days=365)
# A failure that all processes meet is told by the leader, which then ends within this time.
GRACE_S = 10.0
POLL_S = 0.1
WATCH_S = 1.0
SIGNAL_S = 2.0

_leader: Leader | None = None


def leader() -> Leader | None:
    """Return this process's command of the others; None without torchrun."""
    return _leader


def world_in_use() -> World:
    """Return the place of this process among those of the command that it leads or runs alone."""
    return ALONE if _leader is None else _leader.world


class _Words:
    """Words that the leader tells the others, one after the other, in the store of torchrun."""

    def __init__(self) -> None:
        try:
            self.store, _, _ = next(distributed.rendezvous("env://", timeout=CONNECT))
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"torchrun: its store does not answer ({in_a_line(error)}); start run_cv.py with"
                " torchrun --nproc-per-node, or unset WORLD_SIZE"
            ) from None
        self.store.set_timeout(FOREVER)
        # torchrun may keep its store when it starts the processes again (--max-restarts).
        self.store = distributed.PrefixStore(f"foldblend/{attempt_of()}", self.store)
        self.number = 0

    def send(self, word: str) -> None:
        self.store.set(self._key(), word)
        self.number += 1

    def wait(self) -> str:
        """Return the next word."""
        key = self._key()
        self.store.wait([key], FOREVER)
        self.number += 1
        return str(self.store.get(key).decode())

    def comes(self, word: str, patience_s: float) -> bool:
        """Return whether the next word is this one; False if none comes in time."""
        end = time.monotonic() + patience_s
        # The store itself would print warnings when its time is over.
        while not self.store.check([self._key()]):
            if time.monotonic() >= end:
                return False
            time.sleep(POLL_S)
        return self.wait() == word

    def _key(self) -> str:
        return str(self.number)


class Leader:
    """The first process of torchrun, with which the others train folds."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._words = _Words()
        self._team: Team | None = None
        self._trains = False

    def stop(self, number: int, frame: FrameType | None) -> None:
        """Note the first Ctrl-C within a fold, where the step ends first; raise any other.

        Torch and Python's fork would drop an exception that is raised within them.
        """
        if self._team is None or not self._trains or self._team.is_stopped:
            signal.default_int_handler(number, frame)
        else:
            self._team.is_stopped = True

    def train(self, run: RunFold, job: TrainingJob, index: int) -> dict[str, Any]:
        """Train a fold together with the other processes, and return its done.json."""
        job = _shared(job, self.world)
        backend = backend_of(job.compute.device)
        self._words.send(backend)
        try:
            if self._team is None:
                self._team = Team.join(self.world, self._words.store, backend)
            # Functions that print to this process cannot be pickled.
            sent = dataclasses.replace(job, say=print, epoch_lines=None, memory=None)
            self._team.from_leader((sent, index, run))
            self._trains = True
            done = run(_placed(job, self._team), index)
            self._team.heed_stop()
            return done
        except Exception as error:
            if is_lost(error):
                # Ctrl-C ends the others at once, and may reach this process a moment later.
                time.sleep(SIGNAL_S)
            if self._team is not None:
                self._team.heed_stop()
            if not is_lost(error):
                raise
            raise UserError(
                f"{job.title(index)}: another of the {self.world.size} processes has ended; its own"
                " message tells why, and the same command continues the fold"
            ) from None
        finally:
            self._trains = False

    def end(self, *, failed: bool) -> None:
        """Let the other processes end; after a failure, none of them is waited for."""
        # If torchrun has ended already, so have they.
        with contextlib.suppress(RuntimeError):
            self._words.send(END)
            if self._team is not None and not failed:
                self._team.leave()


def _shared(job: TrainingJob, world: World) -> TrainingJob:
    """Return the job for several processes, which share the cores and the shared memory."""
    config = job.run.config
    workers = config.machine.workers
    if "workers" not in config.typed:
        workers = workers_of(config.machine.device, world.size)
    config = resolved(config, workers=workers, parallel_folds=str(world.size))
    return dataclasses.replace(job, run=dataclasses.replace(job.run, config=config))


def _placed(job: TrainingJob, team: Team) -> TrainingJob:
    """Return the job for this process, on its device."""
    config = job.run.config
    device = config.machine.device
    if torch.device(device).type == "cuda":
        device = f"cuda:{team.world.local_rank}"
    compute = compute_of(dataclasses.replace(config.machine, device=device))
    compute = dataclasses.replace(compute, compile=False)
    feeder = Feeder(config, job.feeder.source, compute)
    return dataclasses.replace(job, compute=compute, feeder=feeder, team=team)


@contextlib.contextmanager
def lead(world: World) -> Iterator[Leader]:
    """Lead the other processes of torchrun, which end with the block."""
    global _leader
    _end_with_parent()
    _leader = Leader(world)
    failed = True
    before = signal.signal(signal.SIGINT, _leader.stop)
    try:
        yield _leader
        failed = False
    finally:
        signal.signal(signal.SIGINT, before)
        _leader.end(failed=failed)
        _leader = None


def serve(world: World) -> int:
    """Train folds with the leader until it ends, and return the exit code.

    A failure that the leader meets as well is its to tell.
    """
    # At once, so that the leader does not wait for this process; it says that the command stops.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    forget_terminal()
    warnings.simplefilter("ignore")
    _end_with_parent()
    team: Team | None = None
    try:
        words = _Words()
    except UserError as error:
        print_aside(f"error: rank {world.rank} of {world.size}: {error}")
        return 2
    try:
        while (backend := words.wait()) != END:
            team = team or Team.join(world, words.store, backend)
            job, index, run = team.from_leader()
            job = dataclasses.replace(job, say=quiet, epoch_lines=quiet)
            run(_placed(job, team), index)
        if team is not None:
            team.leave()
    except Exception as error:
        return _failed(error, world, words)
    return 0


def _failed(error: Exception, world: World, words: _Words) -> int:
    """Tell of an error, unless the leader does, and return the exit code."""
    with contextlib.suppress(RuntimeError):
        if words.comes(END, GRACE_S):
            return 0
    if is_lost(error):
        return 1
    # As torchrun counts them in its own account.
    place = f"rank {world.rank} of {world.size}"
    if isinstance(error, UserError):
        print_aside(f"error: {place}: {error}")
        return 2
    print_aside(f"{place}:\n{''.join(traceback.format_exception(error))}")
    return 1


def _end_with_parent() -> None:
    """End this process as soon as torchrun has ended, even if that was killed."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
