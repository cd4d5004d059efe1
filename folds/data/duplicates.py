"""Search for duplicate images: equal pixels, and near duplicates by perceptual hash.

Duplicates in two groups leak between folds; of duplicates with two labels, one label is wrong.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from foldblend.errors import counted, listed
from foldblend.images import AS_BEFORE, Levels, boxes_of, read_image
from foldblend.progress import track
from folds.data.hamming import near_pairs

__all__ = [
    "IN_TEST",
    "TWO_GROUPS",
    "TWO_LABELS",
    "Print",
    "Prints",
    "describe_pairs",
    "duplicate_pairs",
    "equal_pairs",
    "merged_groups",
    "print_of",
    "prints_of",
    "stacked",
]

SIDE = 32
LOW = 8
RADIUS = 4
# On real portraits, images of different people correlate by at most 0.942, recompressed and
# rescaled copies by at least 0.999, and copies of another brightness by at least 0.955. One
# photograph with masks of two colours reaches 0.985, but its tints differ by 13, and those of
# copies by at most 5.
LEAST_CORRELATION = 0.97
TINT_SIDE = 8
MOST_SHARING = 32
CHUNK = 50_000
MOST_TINT = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Prints:
    """Fingerprints of N images, from which duplicates are found."""

    pixels_N: np.ndarray
    """Hash of the decoded pixels, as text."""
    hash_N: np.ndarray
    """64-bit perceptual hash: signs of the lowest frequencies about their median (Zauner 2010)."""
    thumb_NHW: np.ndarray
    """Grey thumbnails, uint8, 32 x 32."""
    tint_ND: np.ndarray
    """The colour channels a and b of Lab at 8 x 8, flattened, int16."""


TWO_GROUPS = "same image in two groups, which leaks between folds"
TWO_LABELS = "same image with two labels, one of which is wrong"
IN_TEST = "same image in the training and the test set, so the test score will be too high"

Print = tuple[str, int, np.ndarray, np.ndarray]


def print_of(image: np.ndarray) -> Print:
    """Return the fingerprint of an RGB image; `stacked` makes `Prints` of several."""
    grey = cv2.resize(
        cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (SIDE, SIDE), interpolation=cv2.INTER_AREA
    )
    low = cv2.dct(grey.astype(np.float32))[:LOW, :LOW].ravel()
    bits = low > np.median(low)
    digest = hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=16)
    # Images of different shapes can have equal bytes, for example if they have one colour.
    digest.update(str(image.shape).encode())
    coarse = cv2.resize(image, (TINT_SIDE, TINT_SIDE), interpolation=cv2.INTER_AREA)
    tint = cv2.cvtColor(coarse, cv2.COLOR_RGB2LAB)[..., 1:].astype(np.int16).ravel()
    return digest.hexdigest(), int.from_bytes(np.packbits(bits).tobytes(), "big"), grey, tint


def prints_of(table: pd.DataFrame, levels: Levels = AS_BEFORE) -> Prints:
    """Return the fingerprints of the images of a manifest's table, as the levels make them.

    Raises BadImage for an image that cannot be read.
    """
    # Only check_images adds the hashes of the files.
    read = functools.partial(read_image, checked="content" in table, levels=levels)
    # Threads are enough: cv2 and hashlib release the interpreter lock.
    with ThreadPoolExecutor() as pool:
        prints = pool.map(lambda *source: print_of(read(*source)), table["path"], boxes_of(table))
        found = track(prints, "look for duplicate images", total=len(table), unit="images")
        return stacked(list(found))


def stacked(prints: Sequence[Print]) -> Prints:
    """Return the fingerprints of N images as arrays."""
    return Prints(
        pixels_N=np.array([one[0] for one in prints]),
        hash_N=np.array([one[1] for one in prints], dtype=np.uint64),
        thumb_NHW=np.array([one[2] for one in prints], dtype=np.uint8).reshape(-1, SIDE, SIDE),
        tint_ND=np.array([one[3] for one in prints], dtype=np.int16).reshape(-1, 2 * TINT_SIDE**2),
    )


def _correlation(thumb_NHW: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return the correlation of the thumbnails of each pair, length U."""
    flat = thumb_NHW.reshape(len(thumb_NHW), -1)

    def standard(rows: np.ndarray) -> np.ndarray:
        centred = flat[rows].astype(np.float32)
        centred -= centred.mean(axis=1, keepdims=True)
        return np.asarray(
            centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-6)
        )

    return np.asarray((standard(pairs[:, 0]) * standard(pairs[:, 1])).sum(axis=1))


def equal_pairs(value_N: Sequence[str] | np.ndarray) -> np.ndarray:
    """Return pairs of rows with equal values, U x 2, each row with the next equal one.

    Examples
    --------
    >>> equal_pairs(["a", "b", "a", "a"]).tolist()
    [[0, 2], [2, 3]]
    """
    values = pd.Series(np.asarray(value_N))
    earlier = pd.Series(np.arange(len(values))).groupby(values.to_numpy()).shift(1)
    later = np.flatnonzero(earlier.notna())
    return np.stack([earlier.to_numpy()[later].astype(np.int64), later], axis=1)


def duplicate_pairs(prints: Prints, *, radius: int = RADIUS) -> np.ndarray:
    """Return pairs of rows that show the same image, U x 2.

    Pairs have equal pixels, or hashes that differ in at most `radius` bits. The latter are
    confirmed by the correlation and the tints of the thumbnails, because hashes of different
    portraits are often similar.

    References
    ----------
    Zauner 2010, "Implementation and benchmarking of perceptual image hash functions".
    """
    found = [equal_pairs(prints.pixels_N)]
    parts = (
        np.array_split(pairs, len(pairs) // CHUNK + 1) for pairs in _candidates(prints, radius)
    )
    for pairs in itertools.chain.from_iterable(parts):
        alike = _correlation(prints.thumb_NHW, pairs) >= LEAST_CORRELATION
        tint = (
            np.abs(prints.tint_ND[pairs[:, 0]] - prints.tint_ND[pairs[:, 1]]).max(axis=1)
            <= MOST_TINT
        )
        found.append(pairs[alike & tint])
    return np.sort(np.concatenate(found), axis=1)


def _candidates(prints: Prints, radius: int) -> Iterator[np.ndarray]:
    """Yield pairs of rows, U x 2, with different pixels and hashes within the radius.

    Different images may share a hash, so all rows of one hash are compared with each other. If
    more than MOST_SHARING rows share it, each is compared with its neighbours in the order of a
    random projection of the thumbnails, in which copies are next to each other.
    """
    # Rows of equal pixels are paired by `equal_pairs`, so one of each is enough here.
    rows = np.sort(np.unique(prints.pixels_N, return_index=True)[1])
    if not len(rows):
        return
    weight = np.random.default_rng(0).normal(size=SIDE**2)
    place = np.array([one.ravel() @ weight for one in prints.thumb_NHW[rows]])
    rows = rows[np.lexsort([place, prints.hash_N[rows]])]
    hashes, start_U, size_U = np.unique(prints.hash_N[rows], return_index=True, return_counts=True)
    for ahead in range(1, min(int(size_U.max()), MOST_SHARING)):
        first = np.flatnonzero(prints.hash_N[rows[ahead:]] == prints.hash_N[rows[:-ahead]])
        yield np.stack([rows[first], rows[first + ahead]], axis=1)
    for pairs in near_pairs(hashes, radius):
        left, right = pairs.T
        for one, other in itertools.product(range(min(int(size_U.max()), MOST_SHARING)), repeat=2):
            both = (size_U[left] > one) & (size_U[right] > other)
            if both.any():
                yield np.stack(
                    [rows[start_U[left[both]] + one], rows[start_U[right[both]] + other]], axis=1
                )


def describe_pairs(pairs: np.ndarray, train: pd.DataFrame) -> list[str]:
    """Return one line on pairs of rows in two groups and one on pairs with two labels, if any."""
    ids = train["image_id"].to_numpy()
    lines = []
    for column, what in (("group", TWO_GROUPS), ("label", TWO_LABELS)):
        value_N = train[column].to_numpy()
        odd = pairs[value_N[pairs[:, 0]] != value_N[pairs[:, 1]]]
        if len(odd):
            names = listed(f"{ids[i]} = {ids[j]}" for i, j in odd)
            lines.append(f"{what} ({counted(len(odd), 'pair')}): {names}")
    return lines


def merged_groups(group_N: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return the group of each row after merging the groups that pairs of rows connect.

    Merged groups get the first of their names in alphabetical order.
    """
    names, code_N = np.unique(group_N.astype(str), return_inverse=True)
    links = sparse.coo_array(
        (np.ones(len(pairs)), (code_N[pairs[:, 0]], code_N[pairs[:, 1]])), (len(names),) * 2
    )
    part_G = connected_components(links, directed=False)[1]
    first_U = np.unique(part_G, return_index=True)[1]
    return names[first_U[part_G]][code_N].astype(object)
