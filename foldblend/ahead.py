"""Results in order, computed by threads a few ahead of their use."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

__all__ = ["ahead"]

Item = TypeVar("Item")
Answer = TypeVar("Answer")
NUM_THREADS = 2


def ahead(function: Callable[[Item], Answer], items: Iterable[Item]) -> Iterator[Answer]:
    """Yield the result of a function for each item, in order, while threads compute a few more.

    Few results wait at a time, so that memory does not grow with their number. An error is raised
    in the place of its item. It is for work that releases the interpreter lock, such as reading,
    hashing and sums of arrays.

    Examples
    --------
    >>> list(ahead(abs, [-1, 2, -3]))
    [1, 2, 3]
    """
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        rest = iter(items)
        waiting: deque[Future[Answer]] = deque()
        for item in islice(rest, NUM_THREADS + 1):
            waiting.append(pool.submit(function, item))
        while waiting:
            yield waiting.popleft().result()
            for item in islice(rest, 1):
                waiting.append(pool.submit(function, item))
