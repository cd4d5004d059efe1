"""Calls of our functions by processes on the nodes of a Ray cluster, which may be lost."""

from __future__ import annotations

import contextlib
import pickle
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from foldblend.cli import Say
from foldblend.cluster import probe
from foldblend.cluster.nodes import SAME, Share, nodes_of, room_of
from foldblend.cluster.worker import Message, Worker
from foldblend.errors import UserError, in_a_line

__all__ = ["Calls", "Task"]

# How often a call is begun on another node after one was lost.
MOST_LOST = 5
# Seconds before it is begun again, times the number of losses.
PAUSE = 2.0
# Seconds in which a call must notice that it is to stop.
PATIENCE = 10.0
# Seconds that a call waits for a node before the log says so.
SILENCE = 30.0

Listen = Callable[[str, Any], object]
"""Takes a message: its kind and content."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A call of one of our functions on a node."""

    title: str
    """What it works on, for messages, such as "fold 0"."""
    name: str
    """The function, as "module:function"; it is called with `args` and the keyword `tell`, a
    function that sends a message (a kind and its content).
    """
    args: tuple[Any, ...] = ()
    listen: Listen = field(default=lambda kind, what: None)
    """Gets the messages."""
    done: Callable[[Any], object] = field(default=lambda result: None)
    """Gets the result as soon as it is there, of one task at a time."""
    again: str = "it begins again"
    """How it goes on where its node was lost, for messages."""


class Calls:
    """Calls that belong together; an error in the block ends all of their processes."""

    def __init__(self, ray: Any, say: Say, share: Share, most: int) -> None:
        self.ray = ray
        self.say = say
        self.share = share
        self.most = most
        self._todo: queue.SimpleQueue[tuple[Future[Any], Task] | None] = queue.SimpleQueue()
        # Python waits for the threads of an executor, even for one that Ray never returns to.
        self._threads: list[threading.Thread] = []
        self._workers: set[Any] = set()
        self._stopped = threading.Event()
        self._one = threading.Lock()

    def __enter__(self) -> Calls:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._stopped.set()
            for worker in [*self._workers]:
                self._end(worker)
        for _ in self._threads:
            self._todo.put(None)
        for thread in self._threads:
            thread.join(None if kind is None else PATIENCE)

    def submit(self, task: Task) -> Future[Any]:
        """Begin a call as soon as there is room."""
        future: Future[Any] = Future()
        self._todo.put((future, task))
        if len(self._threads) < max(1, self.most):
            thread = threading.Thread(target=self._serve, daemon=True)
            self._threads.append(thread)
            thread.start()
        return future

    def _serve(self) -> None:
        """Make calls, one after the other."""
        while (one := self._todo.get()) is not None:
            future, task = one
            if self._stopped.is_set():
                future.cancel()
                continue
            try:
                future.set_result(self._call(task))
            except BaseException as error:
                future.set_exception(error)

    def _call(self, task: Task) -> Any:
        """Call a function on a node and return its result; if the node is lost, on another one."""
        why = ""
        for num_lost in range(1, MOST_LOST + 1):
            worker = self._worker()
            try:
                found = self._result(worker, task)
                with self._one:
                    task.done(found)
                return found
            except self.ray.exceptions.RayError as error:
                if self._stopped.is_set():
                    raise UserError(f"{task.title}: stopped") from None
                if getattr(error, "actor_init_failed", False):
                    # Such as a node that joined later, and lacks foldblend.
                    raise UserError(
                        f"{task.title}: could not start on a node ({_last_line(error)}); {SAME}"
                    ) from None
                why = self._cause(error)
            except ConnectionError:
                # That of a client, which Ray has tried to make again.
                raise UserError(
                    f"{task.title}: the connection to the Ray cluster was lost"
                ) from None
            finally:
                self._end(worker)
            if num_lost < MOST_LOST:
                self.say(f"{task.title}: was lost, as {why}; {task.again}")
                # A node that has just died may still be given work.
                self._stopped.wait(num_lost * PAUSE)
        raise UserError(
            f"{task.title}: was lost {MOST_LOST} times, the last time as {why}; run the same"
            " command again to go on"
        )

    def _worker(self) -> Any:
        """Start a process on a node, as soon as one has room."""
        # Nodes are filled evenly, so that each fold has as much of its node as possible.
        kind = self.ray.remote(
            num_cpus=self.share.cpus,
            num_gpus=self.share.gpus,
            max_restarts=0,
            scheduling_strategy="SPREAD",
        )(Worker)
        worker = kind.remote(str(Path.cwd()), sys.argv)
        self._workers.add(worker)
        if self._stopped.is_set():
            self._end(worker)
        return worker

    def _end(self, worker: Any) -> None:
        self._workers.discard(worker)
        # It may be gone with its node, or the cluster with all of them.
        with contextlib.suppress(Exception):
            self.ray.kill(worker)

    def _result(self, worker: Any, task: Task) -> Any:
        payload = self.ray.cloudpickle.dumps(task.args)
        begun = worker.start.remote(task.name, payload, probe.versions())
        # Ray waits for a node without a word. That one is busy needs none.
        ready, _ = self.ray.wait([begun], timeout=SILENCE)
        if not ready and not room_of(nodes_of(self.ray), self.share):
            self.say(f"{task.title}: waits for a node with {self.share}; none is left")
        self.ray.get(begun)
        for kind, what in self._messages(worker):
            if kind == "done":
                return pickle.loads(what)
            if kind == "failed":
                why, is_for_users = what
                raise UserError(why if is_for_users else f"{task.title} failed: {why}")
            task.listen(kind, what)
        raise AssertionError("messages end with done or failed")

    def _messages(self, worker: Any) -> Iterator[Message]:
        # Without its head, a cluster ends no process, but these still answer.
        while not self._stopped.is_set():
            yield from self.ray.get(worker.messages.remote())
        raise UserError("stopped")

    def _cause(self, error: Exception) -> str:
        """Return why a worker was lost; Ray's messages are pages."""
        errors = self.ray.exceptions
        if isinstance(error, errors.ActorUnavailableError):
            return "its node does not answer"
        if "node has died" in str(error):
            return "its node died"
        if "running low on memory" in str(error):
            return "its node ran out of memory"
        if isinstance(error, errors.ActorDiedError):
            return "its process died, often because memory ran out"
        return f"its process was lost ({in_a_line(error)})"


def _last_line(error: Exception) -> str:
    """Return the last line of a traceback, which names the error on a node."""
    return str(error).strip().splitlines()[-1][:200]
