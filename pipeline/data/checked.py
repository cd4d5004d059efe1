"""Cache of which images were checked, so that later runs need not decode them to start."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from foldblend.errors import UserError
from foldblend.images import Values, boxes_of, image_key
from pipeline.data.cache import Store, cache_root, known_keys

__all__ = ["checked_keys", "keep_checked", "keep_values", "kept_values"]

# Raise this when more damage is found, so that known images are checked again.
CHECK_VERSION = 1
# Raise this when other values are found in an image.
VALUES_VERSION = 2


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


def _values_store(cache_dir: str | None) -> Store:
    return Store.at(cache_root(cache_dir) / f"values-{VALUES_VERSION}", (8,), "float64", {})


def kept_values(cache_dir: str | None) -> dict[bytes, Values]:
    """Return the values of images of more than 8 bits that earlier runs found, by `values_key`."""
    store = _values_store(cache_dir)
    keys = [*known_keys(store.folder.parent)]
    try:
        records = store.records(keys).take(slice(None))
    except UserError:  # a damaged cache only costs time
        return {}
    found = {}
    for key, (has_span, low, high, least, most, is_deep, bits, alpha) in zip(
        keys, records.tolist(), strict=True
    ):
        span = (low, high) if has_span else None
        found[key] = Values(span, least, most, bool(is_deep), int(bits) or None, bool(alpha))
    return found


def keep_values(values: Mapping[bytes, Values], cache_dir: str | None) -> None:
    """Note the values of images in the cache."""
    keys = [*values]

    def record(key: bytes) -> list[float]:
        one = values[key]
        span = one.span or (0.0, 0.0)
        ends = [one.span is not None, *span, one.low, one.high]
        return [float(part) for part in (*ends, one.is_deep, one.bits or 0, one.has_alpha)]

    with contextlib.suppress(UserError):
        _values_store(cache_dir).fill(
            keys, lambda todo: [np.array([record(keys[place]) for place in todo])]
        )
