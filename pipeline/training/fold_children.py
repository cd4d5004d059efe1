"""A process that trains folds for another one, and what the two say to each other."""

from __future__ import annotations

import dataclasses
import functools
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from multiprocessing import get_start_method, set_start_method
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from joblib.externals.loky.backend.context import get_context

from foldblend.errors import UserError, in_a_line
from foldblend.files import open_in_place
from foldblend.siblings import call
from pipeline.data.feeding import Feeder
from pipeline.device import compute_of
from pipeline.job import TrainingJob
from pipeline.memory import OutOfMemory, is_out_of_memory
from pipeline.training.shared_images import SharedImages
from pipeline.watch.hangup import hangup_held
from pipeline.watch.progress import Progress

__all__ = ["FoldChild", "FoldError", "RunFold", "log_to", "serve_folds"]

# A child process imports its function by this name (see foldblend.siblings.call).
SERVE = "pipeline.training.fold_children:serve_folds"
RunFold = Callable[[TrainingJob, int], dict[str, Any]]


class FoldError(Exception):
    """An unfinished fold; the message gives the reason."""

    def __init__(self, why: str, *, for_want_of_memory: bool = True) -> None:
        super().__init__(why)
        self.for_want_of_memory = for_want_of_memory
        """Whether a lack of memory may be the reason, so that a fold alone may succeed."""


class FoldChild:
    """A process that trains folds on request, one at a time."""

    def __init__(
        self, job: TrainingJob, run: RunFold, device: str, images: SharedImages | None
    ) -> None:
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
        picklable = dataclasses.replace(job, say=print, epoch_lines=None, memory=None)
        self.process = context.Process(
            target=call,
            args=(
                SERVE,
                picklable,
                run,
                device,
                images,
                theirs,
                their_lifeline,
                get_start_method(),
            ),
        )
        with hangup_held():
            self.process.start()
        theirs.close()
        their_lifeline.close()

    @property
    def alive(self) -> bool:
        return bool(self.process.is_alive())

    def do(self, index: int, job: TrainingJob) -> dict[str, Any]:
        """Train one fold and return its done.json. Raises FoldError."""
        log = self.logs / f"{job.run.name_of(index)}.log"
        for kind, what in self._messages(index):
            if kind == "done":
                return dict(what)
            if kind == "failed":
                why, short = what
                raise FoldError(f"failed: {why}; see {log}", for_want_of_memory=short)
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
        raise FoldError(f"{how}{why}{f'; see {log}' if log.exists() else ''}")

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


def log_to(file: Path) -> None:
    """Redirect the output of this process, also that of C libraries, to a file."""
    file.parent.mkdir(exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    handle = open_in_place(file, os.O_WRONLY | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)


def serve_folds(
    job: TrainingJob,
    run: RunFold,
    device: str,
    images: SharedImages | None,
    pipe: Connection,
    lifeline: Connection,
    method: str,
) -> None:
    """Train the folds whose numbers arrive through the pipe, in a child process.

    It sends back tuples (kind, content): "say" and "epoch" with a line to print, "progress" with a
    method of `Progress` and its argument, and at the end of a fold "done" with its done.json or
    "failed" with the reason and whether memory ran out.
    """
    _die_with(lifeline)
    # loky has set its own start method; the workers that read images must use the caller's.
    set_start_method(method, force=True)
    # The parent handles Ctrl-C and ends its children.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # This process prints to a log file, so a closed terminal does not concern it.
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        compute = compute_of(dataclasses.replace(job.run.config.machine, device=device))
    except (UserError, RuntimeError) as error:
        # Such as a GPU that takes one process at a time: alone, the fold may succeed.
        pipe.recv()
        pipe.send(
            ("failed", (str(error) if isinstance(error, UserError) else in_a_line(error), True))
        )
        return

    def send_line(kind: str, line: str) -> None:
        print(line, flush=True)
        pipe.send((kind, line))

    say = functools.partial(send_line, "say")
    pixels = None if images is None else images.open(say)
    source = job.feeder.source
    if images is not None and pixels is None:
        # There is no room for another copy.
        source = source.off_device()
    here = dataclasses.replace(
        job,
        say=say,
        epoch_lines=functools.partial(send_line, "epoch"),
        compute=compute,
        feeder=Feeder(job.run.config, source, compute, pixels=pixels),
        progress=Progress(1, tell=lambda *what: pipe.send(("progress", what))),
    )
    while True:
        try:
            index = pipe.recv()
        except EOFError:
            return
        log_to(here.folder / "logs" / f"{here.run.name_of(index)}.log")
        try:
            pipe.send(("done", run(here, index)))
        except UserError as error:
            print(f"error: {error}", flush=True)
            pipe.send(("failed", (str(error), isinstance(error, OutOfMemory))))
        except Exception as error:
            traceback.print_exc()
            reason = f"{type(error).__name__}: {error}"
            pipe.send(("failed", (reason, is_out_of_memory(error) or "CUDA error" in reason)))
