"""Sums in one thread, which are the same on any number of cores."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from threadpoolctl import threadpool_limits

__all__ = ["one_thread"]


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let numpy and scipy compute in one thread, in a `with` block or a decorated function.

    scipy has a BLAS of its own, and a limit holds only for libraries that are loaded when it
    begins. Fits import scipy late, because a vote that fits nothing need not wait for it.
    """
    import scipy.linalg
    import scipy.optimize  # noqa: F401

    with threadpool_limits(limits=1):
        yield
