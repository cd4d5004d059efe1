"""Ordered results from threads, computed a bounded number ahead."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

__all__ = ["in_threads"]

# Number of results per thread that are computed ahead of the reader.
AHEAD = 32


def in_threads(
    make: Callable[[int], np.ndarray], todo: Sequence[int], *, workers: int
) -> Iterator[np.ndarray]:
    """Yield `make(i)` for each i of `todo` in order, computed by `workers` threads.

    The threads compute a bounded number of results ahead, which limits the memory.

    Examples
    --------
    >>> [int(one) for one in in_threads(lambda index: np.array(index**2), [3, 1, 2], workers=2)]
    [9, 1, 4]
    """
    with ThreadPoolExecutor(workers) as pool:
        ahead: collections.deque[Future[np.ndarray]] = collections.deque()
        for index in todo:
            ahead.append(pool.submit(make, index))
            if len(ahead) > AHEAD * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
