"""Cache of which images were checked, so that later runs need not decode them to start."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import numpy as np
import pandas as pd

from foldblend.errors import UserError
from foldblend.images import boxes_of, image_key
from pipeline.data.cache import Store, cache_root, known_keys

__all__ = ["checked_keys", "keep_checked"]

# Raise this when more damage is found, so that known images are checked again.
CHECK_VERSION = 1


def checked_keys(cache_dir: str | None) -> frozenset[bytes]:
    """Return the keys of images that an earlier run decoded and searched for damage.

    A cached image does not prove it, because versions before 0.3 cached damaged images too.
    """
    return known_keys(cache_root(cache_dir) / f"checked-{CHECK_VERSION}")


def keep_checked(tables: Iterable[pd.DataFrame | None], cache_dir: str | None) -> None:
    """Note in the cache that the images of a manifest's tables were checked.

    The tables have the boxes with which the images were checked.
    """
    keys = [
        image_key(*source)
        for table in tables
        if table is not None
        for source in zip(table["content"], boxes_of(table), strict=True)
    ]
    store = Store.at(cache_root(cache_dir) / f"checked-{CHECK_VERSION}", (1,), "uint8", {})
    # A cache that cannot be written may still be read, and only saves time.
    with contextlib.suppress(UserError):
        store.fill(keys, lambda todo: [np.ones((len(todo), 1), np.uint8)])
