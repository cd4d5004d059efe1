"""The time limit of a plan: how much of it is left, and what happens at its end."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Iterator

__all__ = ["Clock", "TimeUp"]


class TimeUp(KeyboardInterrupt):
    """The time limit ended in the middle of a run.

    It is a KeyboardInterrupt, because a run that is interrupted in any way goes on later from its
    last checkpoint.
    """


# Seconds between two alarms.
AGAIN = 5.0


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
