"""Search for pairs of 64-bit hashes within a small Hamming distance.

If two hashes differ in at most r bits, they agree in at least one of any r + 1 bands of bits (the
pigeonhole principle, as in Norouzi, Punjani and Fleet 2012). Hashes are sorted by each band, and
only hashes with equal bands are compared. If too many hashes share a band, their remaining bits
are divided into bands again.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

__all__ = ["near_pairs"]

BITS = 64
# Buckets up to this size are compared pair by pair; larger ones are divided further if there are
# more than FEW_PAIRS pairs and more than NARROWEST bits left.
LARGEST_BUCKET = 64
FEW_PAIRS = 10_000_000
NARROWEST = 16
# Pairs that are compared at a time, which bounds the memory.
CHUNK = 4_000_000


def _bands(bits: tuple[int, ...], num_bands: int) -> list[tuple[int, ...]]:
    return [tuple(part.tolist()) for part in np.array_split(np.array(bits), num_bands)]


def _mask(bits: tuple[int, ...]) -> np.uint64:
    return np.uint64(sum(1 << bit for bit in bits))


def _buckets(key_N: np.ndarray, cell_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the order that sorts rows by (cell, key), and each row's bucket in that order."""
    order = np.lexsort((key_N, cell_N))
    key_N = key_N[order]
    cell_N = cell_N[order]
    fresh = np.r_[True, (key_N[1:] != key_N[:-1]) | (cell_N[1:] != cell_N[:-1])]
    return order, np.cumsum(fresh) - 1


def _search(
    hash_N: np.ndarray, row_N: np.ndarray, cell_N: np.ndarray, bits: tuple[int, ...], radius: int
) -> Iterator[np.ndarray]:
    """Yield pairs of rows of one cell within the radius, each pair once.

    Hashes of one cell agree in all bits except `bits`.
    """
    bands = _bands(bits, radius + 1)
    for index, band in enumerate(bands):
        earlier = [_mask(one) for one in bands[:index]]
        rest = tuple(bit for bit in bits if bit not in band)
        order, bucket_N = _buckets(hash_N[row_N] & _mask(band), cell_N)
        row_sorted = row_N[order]
        size_N = np.bincount(bucket_N)[bucket_N]
        # Comparing all pairs of a bucket is cheap up to some millions of pairs. With more pairs,
        # dividing large buckets further is faster.
        few = size_N.sum() < 2 * FEW_PAIRS or len(rest) <= NARROWEST
        large = size_N > (np.inf if few else LARGEST_BUCKET)
        if large.any():
            for pairs in _search(hash_N, row_sorted[large], bucket_N[large], rest, radius):
                yield _first_seen(hash_N, pairs, earlier)
        row_sorted = row_sorted[~large]
        bucket_N = bucket_N[~large]
        for ahead in range(1, int(size_N[~large].max(initial=1))):
            same = np.flatnonzero(bucket_N[ahead:] == bucket_N[:-ahead])
            if not len(same):
                break
            for start in range(0, len(same), CHUNK):
                left = same[start : start + CHUNK]
                pairs = np.stack([row_sorted[left], row_sorted[left + ahead]], axis=1)
                near = np.bitwise_count(hash_N[pairs[:, 0]] ^ hash_N[pairs[:, 1]]) <= radius
                yield _first_seen(hash_N, pairs[near], earlier)


def _first_seen(hash_N: np.ndarray, pairs: np.ndarray, earlier: list[np.uint64]) -> np.ndarray:
    """Return the pairs that agree in no earlier band; the others were found there already."""
    differ = hash_N[pairs[:, 0]] ^ hash_N[pairs[:, 1]]
    for mask in earlier:
        keep = (differ & mask) != 0
        pairs = pairs[keep]
        differ = differ[keep]
    return pairs


def near_pairs(hash_N: np.ndarray, radius: int = 3) -> Iterator[np.ndarray]:
    """Yield pairs of rows whose hashes differ in at most `radius` bits, each pair once.

    Each row is paired with the next one of an equal hash, so that the number of pairs stays linear
    in the number of equal hashes. Only the first of them is paired with other hashes.

    Parameters
    ----------
    hash_N
        uint64 hashes.
    radius
        Largest number of different bits.

    Yields
    ------
    np.ndarray
        Row numbers of some pairs, U x 2.

    References
    ----------
    Norouzi, Punjani and Fleet 2012, "Fast search in Hamming space with multi-index hashing".
    """
    order = np.argsort(hash_N, kind="stable")
    ordered = hash_N[order]
    equal = ordered[1:] == ordered[:-1]
    yield np.stack([order[:-1][equal], order[1:][equal]], axis=1)
    first = order[np.r_[True, ~equal]] if len(order) else order
    if len(first) > 1 and radius > 0:
        yield from _search(
            hash_N, first, np.zeros(len(first), np.int64), tuple(range(BITS)), radius
        )
