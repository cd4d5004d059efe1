"""Records from the cache, or made anew where the cache cannot be written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from foldblend.cli import Say
from pipeline.data.cache import CacheFailed, Store

__all__ = ["kept_or_made"]


def kept_or_made(
    store: Store,
    keys: Sequence[bytes],
    make: Callable[[list[int]], Iterable[np.ndarray]],
    *,
    say: Say,
    progress: Callable[[int], object] = lambda _: None,
    wait: Callable[[], object] = lambda: None,
) -> tuple[np.ndarray, bool]:
    """Return the records of keys and whether they are in the cache.

    Where the cache cannot be written, they are made in memory, and a line says so. Parameters are
    those of `Store.fill`.
    """
    try:
        store.fill(keys, make, progress=progress, wait=wait)
    except CacheFailed as error:
        say(f"{error.what}, so this run goes on without it.")
        made = [np.reshape(one, (-1, *store.shape)) for one in make([*range(len(keys))])]
        empty = np.empty((0, *store.shape), store.dtype)
        return np.concatenate([empty, *made]).astype(store.dtype, copy=False), False
    return store.records(keys).take(slice(None)), True
