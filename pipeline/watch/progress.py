"""Progress of a run: bars for folds, epochs and steps, and the estimated time left."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from foldblend.progress import Task

__all__ = ["FoldProgress", "Progress"]


class Progress:
    """Count the training steps of all folds of a run, and estimate the time they still take.

    A process that trains a fold for another one shows nothing. It passes `tell`, which is called
    with the name of a method of this class and its number, so that the other process counts.
    """

    def __init__(self, num_folds: int, *, tell: Callable[[str, int], None] | None = None) -> None:
        self.num_folds = num_folds
        self.tell = tell
        self.done = 0
        self.total = 0
        self.before = 0
        self.task: Task | None = None  # made once the number of steps is known

    def __getstate__(self) -> dict[str, int]:
        return {"num_folds": self.num_folds}  # bars stay in their process

    def __setstate__(self, state: dict[str, int]) -> None:
        Progress.__init__(self, tell=lambda *_: None, **state)

    def expect(self, steps_per_fold: int) -> None:
        """Set the number of steps of each fold."""
        self._resize(steps_per_fold * self.num_folds - self.before)
        self._tell("expect", steps_per_fold)

    def skip(self, steps: int) -> None:
        """Leave out steps of an earlier process, whose speed may differ."""
        self.before += steps
        self._resize(self.total - steps)
        self._tell("skip", steps)

    def add(self, steps: int) -> None:
        """Count steps that were taken."""
        self.done += steps
        if self.task is not None:
            self.task.add(steps)
        self._tell("add", steps)

    def _resize(self, total: int) -> None:
        self.total = total
        if self.tell is None:
            if self.task is None:
                self.task = Task("all folds", unit="steps")
            self.task.resize(total)

    def _tell(self, what: str, steps: int) -> None:
        if self.tell is not None:
            self.tell(what, steps)

    def left(self) -> str:
        """Return the time left for all folds, such as "about 12 min left", or "" if unknown."""
        if self.task is None:
            return ""
        self.task.last_line = time.monotonic()  # the caller prints it: no second line so soon
        return self.task.left()

    def close(self) -> None:
        """Remove the bar."""
        if self.task is not None:
            self.task.close()


class FoldProgress:
    """Show the epochs of one fold and the steps of its epoch as bars."""

    def __init__(
        self, progress: Progress, title: str, *, epochs: int, steps: int, done_steps: int
    ) -> None:
        self.progress = progress
        self.steps = steps
        self.untold = 0
        progress.expect(epochs * steps)
        progress.skip(done_steps)
        shown = progress.tell is None
        self.epoch_task = Task(title, epochs, unit="epochs", lines=False, shown=shown)
        self.step_task = Task("epoch", steps, unit="steps", lines=False, shown=shown)
        self.epoch_task.add(done_steps // steps)
        self.step_task.add(done_steps % steps)

    def __enter__(self) -> FoldProgress:
        return self

    def step(self) -> None:
        """Count one step."""
        self.step_task.add()
        self.untold += 1
        if self.progress.tell is None or self.untold >= self.steps:
            self._tell()

    def epoch(self) -> None:
        """Count an epoch."""
        self.epoch_task.add()
        self.step_task.restart()

    def _tell(self) -> None:
        self.progress.add(self.untold)
        self.untold = 0

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.untold:
            self._tell()
        self.step_task.close()
        self.epoch_task.close()
