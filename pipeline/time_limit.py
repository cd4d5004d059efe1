"""Time limits of commands: how they are written, how much is left, and what happens at the end."""

from __future__ import annotations

import contextlib
import math
import re
import signal
import threading
import time
from collections.abc import Iterator

from foldblend.errors import require

__all__ = ["Clock", "TimeUp", "parse_limit"]

LIMIT = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?")
LONGEST = 30 * 24 * 3600.0
# Seconds between two alarms.
AGAIN = 5.0


def parse_limit(text: str) -> float:
    """Return the seconds of a time limit such as 45m, 2h, 1h30m, 90s or 90.

    Examples
    --------
    >>> parse_limit("45m"), parse_limit("1h30m"), parse_limit("90")
    (2700.0, 5400.0, 90.0)
    """
    found = LIMIT.fullmatch(text.strip().lower())
    parts = [float(part or 0) for part in found.groups()] if found else [0.0]
    seconds = sum(part * unit for part, unit in zip(parts, (3600, 60, 1), strict=False))
    require(
        0 < seconds <= LONGEST,
        f"--time-limit {text}: write a time such as 90s, 45m, 2h or 1h30m, of at most 30 days",
    )
    return seconds


class TimeUp(KeyboardInterrupt):
    """The time limit ended in the middle of a run.

    It is a KeyboardInterrupt, because a run that is interrupted in any way goes on later from its
    last checkpoint.
    """


class Clock:
    """Time since a command began, against its limit.

    Examples
    --------
    >>> Clock(None).left
    inf
    >>> clock = Clock(60.0)
    >>> 50 < clock.left <= 60
    True
    """

    def __init__(self, limit: float | None, *, already: float = 0.0) -> None:
        """Begin to count; `already` are the seconds that the command took before."""
        self.limit = math.inf if limit is None else limit
        self._start = time.monotonic() - already

    @property
    def spent(self) -> float:
        """Seconds since the command began."""
        return time.monotonic() - self._start

    @property
    def left(self) -> float:
        """Seconds until the limit; infinite without one."""
        return self.limit - self.spent

    def alarm(self, reserve: float) -> contextlib.AbstractContextManager[None]:
        """Raise TimeUp inside the block when only `reserve` seconds are left.

        It works in the main thread only, as signals do; elsewhere the block ends by itself.
        """
        return self.alarm_in(self.left - reserve)

    @contextlib.contextmanager
    def alarm_in(self, seconds: float) -> Iterator[None]:
        """Raise TimeUp inside the block after so many seconds (see `alarm`)."""
        in_main = threading.current_thread() is threading.main_thread()
        if math.isinf(seconds) or not in_main or not hasattr(signal, "setitimer"):
            yield
            return

        def end(*_: object) -> None:
            raise TimeUp

        before = signal.signal(signal.SIGALRM, end)
        # Again and again, as code that a library calls may swallow an exception.
        signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01), AGAIN)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
