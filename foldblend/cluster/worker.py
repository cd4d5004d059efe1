"""The process on a node that works for a command elsewhere."""

from __future__ import annotations

import os
import pickle
import platform
import queue
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foldblend.cluster import probe
from foldblend.cluster.nodes import SAME
from foldblend.errors import UserError, in_a_line
from foldblend.progress import lines_to
from foldblend.siblings import call

__all__ = ["Message", "Worker"]

Message = tuple[str, Any]
"""A kind and its content: "say" a line, "done" a pickled result, "failed" a reason and whether it
is a UserError's; the functions that are called send further kinds."""

# Seconds that a call waits for a message. The command must notice soon that it is to stop.
WAIT = 1.0


class Worker:
    """Calls our functions in a thread, and keeps their messages until they are fetched.

    Fetching works in the same way for a command in the cluster and for one outside of it, to which
    a node cannot send anything by itself.
    """

    def __init__(self, folder: str, argv: Sequence[str]) -> None:
        """Work in `folder`, that of the command, if the node has it: paths may be relative.

        `argv` is the command, which records of the environment have instead of Ray's own.
        """
        sys.argv = [*argv]
        if Path(folder).is_dir():
            os.chdir(folder)
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()

    def start(self, name: str, payload: bytes, versions: Mapping[str, str | None]) -> None:
        """Begin a call of our function "module:function" with pickled arguments.

        A node may have joined after the command checked all: `versions` are those of the command.
        """
        threading.Thread(target=self._work, args=(name, payload, versions), daemon=True).start()

    def messages(self) -> list[Message]:
        """Return the messages since the last time, after a second's waiting maybe none."""
        found: list[Message] = []
        try:
            found.append(self._messages.get(timeout=WAIT))
            while True:
                found.append(self._messages.get_nowait())
        except queue.Empty:
            return found

    def tell(self, kind: str, what: Any) -> None:
        """Keep a message."""
        self._messages.put((kind, what))

    def _work(self, name: str, payload: bytes, versions: Mapping[str, str | None]) -> None:
        try:
            other = probe.difference(versions, probe.versions(), "the command")
            if other is not None:
                raise UserError(f"node {platform.node()} {other}; {SAME}")
            with lines_to(lambda line: self.tell("say", line)):
                result = call(name, *pickle.loads(payload), tell=self.tell)
            self.tell("done", pickle.dumps(result))
        except UserError as error:
            self.tell("failed", (str(error), True))
        except BaseException as error:
            traceback.print_exc()
            self.tell("failed", (in_a_line(error), False))
