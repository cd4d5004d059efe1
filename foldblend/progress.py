"""Progress of long work: bars on a terminal, a line now and then elsewhere.

Work is wrapped in a `Task` or in `track`. On a terminal the tasks that are running are drawn as
bars (rich; `NO_COLOR` is respected). Elsewhere a task that takes longer than ten seconds prints
what it does, how far it is and how long it will take, through the function that `lines_to` set.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any, TextIO, TypeVar

from foldblend.errors import printable
from foldblend.streams import print_line

__all__ = [
    "Task",
    "duration",
    "forget_terminal",
    "lines_to",
    "shows_bars",
    "track",
    "write",
]

Item = TypeVar("Item")
FIRST_LINE = 10.0  # seconds; shorter work needs no line
FEW_STEPS = 20  # with fewer, the first step counts for the time left as well
LEAST_PAUSE = 20.0  # seconds between two lines of a task, which grow apart as it goes on
STYLES = {"warning:": "yellow", "OOF ": "bold"}

_say: ContextVar[Callable[[str], None] | None] = ContextVar("say", default=None)


def duration(seconds: float | None) -> str:
    """Return a duration in the unit that suits it: 40 s, 12 min, 3.5 h; "-" for None.

    >>> duration(40), duration(720), duration(12_600), duration(None)
    ('40 s', '12 min', '3.5 h', '-')
    """
    if seconds is None:
        return "-"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 99.5 * 60 else f"{seconds / 3600:.1f} h"


@contextlib.contextmanager
def lines_to(say: Callable[[str], None]) -> Iterator[None]:
    """Send the lines of tasks that start inside the block to `say`."""
    token = _say.set(say)
    try:
        yield
    finally:
        _say.reset(token)


class _Output:
    """A text stream for bars whose loss is remembered instead of raised.

    Bars are drawn by a thread of rich, in which an error would only end the thread.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.is_lost = False

    def write(self, text: str) -> int:
        if not self.is_lost:
            try:
                return self.stream.write(text)
            except OSError as error:
                self._lose(error)
        return len(text)

    def flush(self) -> None:
        if not self.is_lost:
            try:
                self.stream.flush()
            except OSError as error:
                self._lose(error)

    def _lose(self, error: OSError) -> None:
        if error.errno != errno.EIO:
            raise error
        self.is_lost = True

    @property
    def encoding(self) -> str:
        # rich draws with plain letters where this is not a form of Unicode.
        return self.stream.encoding

    def isatty(self) -> bool:
        return self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()


class _Screen:
    """The bars of all running tasks; a terminal shows one set of bars at a time."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.bars: Any = None
        self.output: _Output | None = None
        self.is_forgotten = False

    def shows_bars(self) -> bool:
        return not self.is_forgotten and _is_terminal(sys.stderr)

    def add(self, what: str, total: int | None, unit: str) -> Any:
        with self.lock:
            if self.bars is None:
                self._start()
            return self.bars.add_task(what, total=total, unit=unit)

    def _start(self) -> None:
        from rich.console import Console  # only where there is a terminal: it takes 0.1 s to import
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as Remaining

        self.output = _Output(sys.stderr)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}", markup=False),
            Remaining(compact=True, elapsed_when_finished=True),
        )
        self.bars = Progress(
            *columns,
            console=Console(file=self.output),  # type: ignore[arg-type]
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self.bars.start()

    def remove(self, bar: Any) -> None:
        with self.lock:
            self.bars.remove_task(bar)
            if not self.bars.tasks:
                self.bars.stop()
                self.bars = None

    def write(self, line: str) -> None:
        with self.lock:
            # Names of files, classes and settings may hold sequences that a terminal obeys.
            text = "\n".join(map(printable, line.split("\n")))
            try:
                self._write(text)
            except UnicodeEncodeError as error:
                self._write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))

    def _write(self, line: str) -> None:
        if not _is_terminal(sys.stdout) or self.is_forgotten:
            print_line(line)
            return
        from rich.console import Console
        from rich.text import Text

        above = self.bars is not None and self.output is not None
        console = self.bars.console if above else Console(file=sys.stdout)
        style = next((STYLES[start] for start in STYLES if line.startswith(start)), "")
        console.print(Text(line, style), soft_wrap=True)
        if above and self.output is not None and self.output.is_lost:
            raise OSError(errno.EIO, os.strerror(errno.EIO))


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"
    except ValueError:  # it was closed
        return False


_SCREEN = _Screen()


def shows_bars() -> bool:
    """Return whether tasks are drawn as bars, so that lines on progress are not needed."""
    return _SCREEN.shows_bars()


def write(line: str) -> None:
    """Print a line to standard output at once, above the bars if there are any.

    Warnings and headlines have styles on a terminal. Raises OSError if it is gone.
    """
    _SCREEN.write(line)


def forget_terminal() -> None:
    """Draw no more bars, because the terminal is gone and standard output goes to a file."""
    _SCREEN.is_forgotten = True
    if _SCREEN.output is not None:
        _SCREEN.output.is_lost = True


class Task:
    """A piece of work with a known number of steps.

    Parameters
    ----------
    what
        What is done, such as "decode images".
    total
        Number of steps; it may be changed by `resize` when it is known better.
    unit
        Name of the steps, such as "images".
    lines
        Whether it prints lines where there is no terminal.
    shown
        Whether it shows anything at all.
    """

    def __init__(
        self, what: str, total: int = 0, *, unit: str = "", lines: bool = True, shown: bool = True
    ) -> None:
        self.what = what
        self.total = total
        self.unit = unit
        self.done = 0
        self.start = time.monotonic()
        self.last_line = self.start + FIRST_LINE - LEAST_PAUSE
        # Time and number of the first steps: they are slow, as they load what the others need.
        self.warm: tuple[float, int] | None = None
        self.say = _say.get() if lines and shown else None
        self.bar = _SCREEN.add(what, total, unit) if shown and _SCREEN.shows_bars() else None

    def __enter__(self) -> Task:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, steps: int = 1) -> None:
        """Count steps that were done."""
        self.done += steps
        if self.warm is None:
            self.warm = time.monotonic(), self.done
        if self.bar is not None:
            _SCREEN.bars.update(self.bar, completed=self.done)
        if self.say is not None and self._is_due():
            self.say(self.line())
            self.last_line = time.monotonic()

    def resize(self, total: int) -> None:
        """Change the number of steps."""
        self.total = total
        if self.bar is not None:
            _SCREEN.bars.update(self.bar, total=total)

    def restart(self) -> None:
        """Begin again at no steps, as for the next epoch."""
        self.done = 0
        self.warm = None
        self.start = time.monotonic()
        if self.bar is not None:
            _SCREEN.bars.reset(self.bar, total=self.total)

    def _is_due(self) -> bool:
        now = time.monotonic()
        pause = max(LEAST_PAUSE, (now - self.start) / 4)
        is_visible = self.bar is not None and _SCREEN.shows_bars()
        return not is_visible and self.done < self.total and now - self.last_line >= pause

    def left(self) -> str:
        """Return the time left, such as "about 12 min left", or "" if unknown or none is left."""
        uses_warm = self.total > FEW_STEPS and self.warm is not None
        since, before = self.warm if uses_warm and self.warm is not None else (self.start, 0)
        if self.done == before or self.done >= self.total:
            return ""
        rate = (time.monotonic() - since) / (self.done - before)
        return f"about {duration(rate * max(0, self.total - self.done))} left"

    def line(self) -> str:
        """Return what is done, how far it is and how long it will take."""
        unit = f" {self.unit}" if self.unit else ""
        left = self.left()
        left = f", {left}" if left else ""
        return f"{self.what}: {self.done:,} of {self.total:,}{unit}{left}"

    def close(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            _SCREEN.remove(self.bar)
            self.bar = None


def track(
    items: Iterable[Item], what: str, *, total: int | None = None, unit: str = ""
) -> Iterator[Item]:
    """Yield items and count them as steps of a task; `total` defaults to their number.

    >>> list(track([1, 2], "count"))
    [1, 2]
    """
    with Task(what, len(items) if total is None else total, unit=unit) as task:  # type: ignore[arg-type]
        for item in items:
            yield item
            task.add()
