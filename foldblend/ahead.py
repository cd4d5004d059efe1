"""Results in order, computed by threads a few ahead of their use."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

__all__ = ["ahead", "threads_for"]

Item = TypeVar("Item")
Answer = TypeVar("Answer")
NUM_THREADS = 2
# Bytes of a task up to which several are worked on at a time.
MOST_BYTES = 2**29


def threads_for(num_bytes: int) -> int:
    """Return how many threads may hold so many bytes each: none if these are very many.

    Examples
    --------
    >>> threads_for(10**6), threads_for(10**10)
    (2, 0)
    """
    return NUM_THREADS if num_bytes <= MOST_BYTES else 0


def ahead(
    function: Callable[[Item], Answer], items: Iterable[Item], *, num_threads: int = NUM_THREADS
) -> Iterator[Answer]:
    """Yield the result of a function for each item, in order, while threads compute a few more.

    Few results wait at a time, so that memory does not grow with their number; without threads,
    none does. An error is raised in the place of its item. It is for work that releases the
    interpreter lock, such as reading, hashing and sums of arrays.

    Examples
    --------
    >>> list(ahead(abs, [-1, 2, -3]))
    [1, 2, 3]
    """
    if not num_threads:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(num_threads) as pool:
        rest = iter(items)
        waiting: deque[Future[Answer]] = deque()
        for item in islice(rest, num_threads + 1):
            waiting.append(pool.submit(function, item))
        while waiting:
            yield waiting.popleft().result()
            for item in islice(rest, 1):
                waiting.append(pool.submit(function, item))
