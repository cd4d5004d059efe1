"""A Ray cluster as a place to call our functions, with the messages of the calls."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from foldblend.cli import Say
from foldblend.cluster.calls import Calls, Task
from foldblend.cluster.connect import connected, head_answers
from foldblend.cluster.names import LOCAL
from foldblend.cluster.nodes import Share, check_nodes, nodes_of, room_of, share_of
from foldblend.errors import UserError, counted, require

__all__ = ["Cluster", "Task", "opened"]

# Seconds between two looks at the head of a cluster, and how many it may leave unanswered. Ray
# itself gives up after a minute, and ends the process at once.
LOOK = 5.0
MOST_UNANSWERED = 3


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
        with Calls(self.ray, self.say, share, most or len(tasks)) as calls:
            waiting = [calls.submit(task) for task in tasks]
            with self._turn_of_others():
                self._wait(waiting)
        failed = [error for one in waiting if (error := one.exception()) is not None]
        for error in failed:
            if not isinstance(error, UserError):
                raise error
        if failed:
            raise UserError("; ".join(dict.fromkeys(map(str, failed))))
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
        with Calls(self.ray, self.say, share, 2 * self.room(share)) as calls:
            for one in [calls.submit(task) for task in tasks]:
                self._wait([one])
                yield one.result()

    def _wait(self, waiting: Sequence[Future[Any]]) -> None:
        """Wait until calls have ended.

        Raises UserError if the head of the cluster does not answer any more.
        """
        unanswered = 0
        look = time.monotonic() + LOOK
        # Ctrl-C is noticed between waits.
        while not all(one.done() for one in waiting):
            wait(waiting, timeout=1.0)
            require(not self._stopped.is_set(), "stopped, as another run was")
            if time.monotonic() < look:
                continue
            unanswered = 0 if head_answers(self.ray) else unanswered + 1
            if unanswered == MOST_UNANSWERED:
                raise UserError(
                    "the head of the Ray cluster does not answer any more; start the cluster again"
                )
            look = time.monotonic() + LOOK


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
