"""How far a run is: bars for folds, epochs and steps on a terminal; the time left for lines of a
log.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from tqdm import tqdm

from reports.text import duration

__all__ = ["FoldProgress", "Progress"]


class Progress:
    """The steps of all folds that are to be done, with the time they will still take.

    Nothing is drawn where there is no terminal, nor in a process that does folds for another: that
    one is told instead, by `tell` with the name of a method here and its number.
    """

    def __init__(self, num_folds: int, *, tell: Callable[[str, int], None] | None = None) -> None:
        self.num_folds = num_folds
        self.tell = tell
        self.start = time.monotonic()
        self.done = self.total = self.before = 0
        self.bar: Any = None  # drawn once there are steps to count

    def __getstate__(self) -> dict[str, int]:
        return {"num_folds": self.num_folds}  # bars stay in their process

    def __setstate__(self, state: dict[str, int]) -> None:
        Progress.__init__(self, tell=lambda *_: None, **state)

    def expect(self, steps_per_fold: int) -> None:
        """Say how many steps a fold has."""
        self._show(total=steps_per_fold * self.num_folds - self.before)
        self._tell("expect", steps_per_fold)

    def skip(self, steps: int) -> None:
        """Take out steps that an earlier process took: they tell nothing of this one's speed."""
        self.before += steps
        self._show(total=self.total - steps)
        self._tell("skip", steps)

    def add(self, steps: int) -> None:
        """Count steps that were taken."""
        self.done += steps
        if self.bar is not None:
            self.bar.update(steps)
        self._tell("add", steps)

    def _show(self, *, total: int) -> None:
        self.total = total
        if self.tell is None:
            if self.bar is None:
                self.bar = tqdm(desc="all folds", unit="step", disable=None, leave=False)
            self.bar.total = total

    def _tell(self, what: str, steps: int) -> None:
        if self.tell is not None:
            self.tell(what, steps)

    def left(self) -> str:
        """Return "about 12 min left" for all folds, or "" while nothing can be said."""
        if not self.done or self.tell is not None:
            return ""
        spent = time.monotonic() - self.start
        return f"about {duration(spent / self.done * max(0, self.total - self.done))} left"

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()


class FoldProgress:
    """The bars of one fold: its epochs, and the steps of the epoch."""

    def __init__(
        self, progress: Progress, title: str, *, epochs: int, steps: int, done_steps: int
    ) -> None:
        self.progress = progress
        self.steps = steps
        self.untold = 0
        progress.expect(epochs * steps)
        progress.skip(done_steps)
        off = None if progress.tell is None else True
        self.epoch_bar = tqdm(
            desc=title,
            total=epochs,
            initial=done_steps // steps,
            unit="epoch",
            disable=off,
            leave=False,
        )
        self.step_bar = tqdm(
            desc="epoch",
            total=steps,
            initial=done_steps % steps,
            unit="step",
            disable=off,
            leave=False,
        )

    def __enter__(self) -> FoldProgress:
        return self

    def step(self) -> None:
        """Count one step."""
        self.step_bar.update()
        self.untold += 1
        if self.progress.tell is None or self.untold >= self.steps:
            self._tell()

    def epoch(self) -> None:
        """Count an epoch."""
        self.epoch_bar.update()
        self.step_bar.reset()

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
        self.step_bar.close()
        self.epoch_bar.close()
