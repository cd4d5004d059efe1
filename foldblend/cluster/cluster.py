"""A Ray cluster as a place to call our functions, with the messages of the calls."""

from __future__ import annotations

import contextlib
import pickle
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from foldblend.cli import Say
from foldblend.cluster import probe
from foldblend.cluster.connect import connected
from foldblend.cluster.names import LOCAL
from foldblend.cluster.nodes import SAME, Share, check_nodes, nodes_of, room_of, share_of
from foldblend.cluster.worker import Message, Worker
from foldblend.errors import UserError, counted, in_a_line, require

__all__ = ["Cluster", "Task", "opened"]

# How often a call is begun on another node after one was lost.
MOST_LOST = 5
# Seconds before it is begun again, times the number of losses.
PAUSE = 2.0
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


class Cluster:
    """A cluster that this process is connected to."""

    def __init__(self, ray: Any, say: Say) -> None:
        self.ray = ray
        self.say = say
        self._checked: set[tuple[Path | None, ...]] = set()
        # Of functions of this process that wait for nodes, one runs at a time (see `together`).
        self._turn = threading.Lock()
        self._takes_turns = threading.local()
        self._stopped = threading.Event()

    def check(self, folder: Path | None, files: Sequence[Path] = ()) -> None:
        """Check that each node has our versions and shares our files (see `check_nodes`)."""
        asked = (folder, *files)
        if asked not in self._checked:
            check_nodes(self.ray, folder, files)
            self._checked.add(asked)

    def share(self, *, device: str, threads: int | None) -> Share:
        """Return what a model takes of a node (see `share_of`)."""
        return share_of(nodes_of(self.ray), device=device, threads=threads)

    def room(self, share: Share) -> int:
        """Return how many models have room on the nodes at the same time, at least one."""
        return max(room_of(nodes_of(self.ray), share), 1)

    def describe(self) -> str:
        """Return the nodes and what they have, in words."""
        nodes = nodes_of(self.ray)
        cpus = counted(sum(one.cpus for one in nodes), "CPU")
        gpus = counted(sum(one.gpus for one in nodes), "GPU")
        return f"{counted(len(nodes), 'node')} with {cpus} and {gpus}"

    def call(self, task: Task, share: Share) -> Any:
        """Call a function on a node and return its result (see `map`)."""
        return self.map([task], share)[0]

    def map(self, tasks: Sequence[Task], share: Share, *, most: int | None = None) -> list[Any]:
        """Call functions at the same time, as many as there is room for, and return the results.

        A call whose node is lost begins again on another one.

        Parameters
        ----------
        tasks
            The calls. All are finished even if some fail.
        share
            What each takes of a node.
        most
            How many run at the same time at most; None: as many as the cluster has room for.

        Raises
        ------
        UserError
            If some failed, in one line.
        """
        with _Calls(self.ray, self.say, share, most or len(tasks)) as calls:
            waiting = [calls.submit(task) for task in tasks]
            with self._turn_of_others():
                # Ctrl-C is noticed between waits.
                while not all(one.done() for one in waiting):
                    wait(waiting, timeout=1.0)
                    require(not self._stopped.is_set(), "stopped, as another run was")
        failed = [error for one in waiting if (error := one.exception()) is not None]
        for error in failed:
            if not isinstance(error, UserError):
                raise error
        if failed:
            raise UserError("; ".join(map(str, failed)))
        return [one.result() for one in waiting]

    def together(self, functions: Sequence[Callable[[], Any]]) -> list[Any]:
        """Call functions of this process, each of which goes on while the others wait for nodes.

        They take turns, so that only calls on nodes run at the same time. Raises what one of them
        raised, when the others have ended.
        """

        def in_turn(function: Callable[[], Any]) -> Any:
            self._takes_turns.now = True
            with self._turn:
                return function()

        with ThreadPoolExecutor(max(1, len(functions))) as pool:
            waiting = [pool.submit(in_turn, function) for function in functions]
            try:
                while not all(one.done() for one in waiting):
                    wait(waiting, timeout=1.0)
            except BaseException:
                self._stopped.set()
                raise
        return [one.result() for one in waiting]

    @contextlib.contextmanager
    def _turn_of_others(self) -> Iterator[None]:
        """Let the other functions of `together` go on within the block."""
        if not getattr(self._takes_turns, "now", False):
            yield
            return
        self._turn.release()
        try:
            yield
        finally:
            self._turn.acquire()

    def each(self, tasks: Sequence[Task], share: Share) -> Iterator[Any]:
        """Yield the results of calls in their order, while further ones are running.

        Raises UserError for the first call that fails, and ends the others.
        """
        with _Calls(self.ray, self.say, share, 2 * self.room(share)) as calls:
            for one in [calls.submit(task) for task in tasks]:
                yield one.result()


class _Calls:
    """Calls that belong together; an error in the block ends all of their processes."""

    def __init__(self, ray: Any, say: Say, share: Share, most: int) -> None:
        self.ray = ray
        self.say = say
        self.share = share
        self._pool = ThreadPoolExecutor(max(1, most))
        self._workers: set[Any] = set()
        self._stopped = threading.Event()
        self._one = threading.Lock()

    def __enter__(self) -> _Calls:
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
        self._pool.shutdown(wait=True, cancel_futures=True)

    def submit(self, task: Task) -> Future[Any]:
        """Begin a call as soon as there is room."""
        return self._pool.submit(self._call, task)

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
            finally:
                self._end(worker)
            if num_lost < MOST_LOST:
                self.say(f"{task.title}: was lost, as {why}; it goes on from its last checkpoint")
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
        while True:
            yield from self.ray.get(worker.messages.remote())

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


_open: dict[str, Cluster] = {}


@contextlib.contextmanager
def opened(backend: str, address: str, say: Say) -> Iterator[Cluster | None]:
    """Return the cluster of --backend ray, None for the local backend.

    Blocks within a block share its connection, and the outermost one ends all its processes.

    Parameters
    ----------
    backend
        local or ray.
    address
        See `foldblend.cluster.connect.connected`.
    say
        Function that prints one line of the log.
    """
    if backend == LOCAL:
        yield None
        return
    if address in _open:
        yield _open[address]
        return
    with connected(address) as ray:
        cluster = _open[address] = Cluster(ray, say)
        say(f"Ray cluster: {cluster.describe()}")
        try:
            yield cluster
        finally:
            del _open[address]
