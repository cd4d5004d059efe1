"""The same image under two names: equal pixels, and near duplicates by perceptual hash.

Across two groups they leak between folds; with two labels one label is wrong.
"""

from __future__ import annotations

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
from foldblend.images import boxes_of, read_image
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
# On real portraits no two images of different people came above 0.942, recompressed and rescaled
# copies stayed above 0.999, and copies with another brightness above 0.955. Masks of two colours on
# one photograph came to 0.985, but differ by 13 in their tints, where copies differ by 5 at most.
LEAST_CORRELATION = 0.97
TINT_SIDE = 8
MOST_SHARING = 32
CHUNK = 50_000
MOST_TINT = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Prints:
    """What is kept of N images to tell whether two are one."""

    pixels_N: np.ndarray
    """Hash of the decoded pixels, as text."""
    hash_N: np.ndarray
    """64-bit perceptual hash: the signs of the lowest frequencies about their median (Zauner
    2010).
    """
    thumb_NHW: np.ndarray
    """Grey thumbnails, uint8, 32 x 32."""
    tint_NF: np.ndarray
    """The two colour channels of Lab at 8 x 8, int16, flat."""


TWO_GROUPS = "the same under two groups, so they leak between folds"
TWO_LABELS = "the same with two labels, of which one is wrong"
IN_TEST = "the same in the training and the test set, so the test score will flatter"

Print = tuple[str, int, np.ndarray, np.ndarray]


def print_of(image: np.ndarray) -> Print:
    """Return what `Prints` keeps of one RGB image."""
    grey = cv2.resize(
        cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (SIDE, SIDE), interpolation=cv2.INTER_AREA
    )
    low = cv2.dct(grey.astype(np.float32))[:LOW, :LOW].ravel()
    bits = low > np.median(low)
    digest = hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=16)
    digest.update(str(image.shape).encode())
    coarse = cv2.resize(image, (TINT_SIDE, TINT_SIDE), interpolation=cv2.INTER_AREA)
    tint = cv2.cvtColor(coarse, cv2.COLOR_RGB2LAB)[..., 1:].astype(np.int16).ravel()
    return digest.hexdigest(), int.from_bytes(np.packbits(bits).tobytes(), "big"), grey, tint


def prints_of(table: pd.DataFrame) -> Prints:
    """Decode every image of a manifest's table once and return its prints. Raises BadImage."""
    with ThreadPoolExecutor() as pool:  # cv2 and hashlib release the interpreter lock
        return stacked(
            list(
                pool.map(
                    lambda *source: print_of(read_image(*source)), table["path"], boxes_of(table)
                )
            )
        )


def stacked(prints: Sequence[Print]) -> Prints:
    """Return the prints of N images as arrays."""
    return Prints(
        pixels_N=np.array([one[0] for one in prints]),
        hash_N=np.array([one[1] for one in prints], dtype=np.uint64),
        thumb_NHW=np.array([one[2] for one in prints], dtype=np.uint8).reshape(-1, SIDE, SIDE),
        tint_NF=np.array([one[3] for one in prints], dtype=np.int16).reshape(-1, 2 * TINT_SIDE**2),
    )


def _correlation(thumb_NHW: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return the correlation of the thumbnails of each pair, M."""
    flat = thumb_NHW.reshape(len(thumb_NHW), -1)

    def standard(rows: np.ndarray) -> np.ndarray:
        centred = flat[rows].astype(np.float32)
        centred -= centred.mean(axis=1, keepdims=True)
        return np.asarray(
            centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-6)
        )

    return np.asarray((standard(pairs[:, 0]) * standard(pairs[:, 1])).sum(axis=1))


def equal_pairs(value_N: Sequence[str] | np.ndarray) -> np.ndarray:
    """Return pairs M x 2 of rows with equal values, each row with the next of its kind."""
    values = pd.Series(np.asarray(value_N))
    earlier = pd.Series(np.arange(len(values))).groupby(values.to_numpy()).shift(1)
    later = np.flatnonzero(earlier.notna())
    return np.stack([earlier.to_numpy()[later].astype(np.int64), later], axis=1)


def duplicate_pairs(prints: Prints, *, radius: int = RADIUS) -> np.ndarray:
    """Return pairs M x 2 of rows that show the same image.

    Equal pixels, or hashes within `radius` bits confirmed by the correlation of the thumbnails and
    by their tints: portraits share their coarse hashes with strangers.
    """
    found = [equal_pairs(prints.pixels_N)]
    parts = (
        np.array_split(pairs, len(pairs) // CHUNK + 1) for pairs in _candidates(prints, radius)
    )
    for pairs in itertools.chain.from_iterable(parts):
        alike = _correlation(prints.thumb_NHW, pairs) >= LEAST_CORRELATION
        tint = (
            np.abs(prints.tint_NF[pairs[:, 0]] - prints.tint_NF[pairs[:, 1]]).max(axis=1)
            <= MOST_TINT
        )
        found.append(pairs[alike & tint])
    return np.sort(np.concatenate(found), axis=1)


def _candidates(prints: Prints, radius: int) -> Iterator[np.ndarray]:
    """Yield pairs M x 2 of rows of other pixels whose hashes are within the radius.

    Strangers may share a hash, so every row of a hash is compared with every other, up to
    MOST_SHARING: where more share one, each is compared with those next to it in the order of a
    random projection of the thumbnails, where copies lie side by side.
    """
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
    """Return a line for pairs of rows across groups and one for those with different labels, if
    there are any.
    """
    ids = train["image_id"].to_numpy()
    lines = []
    for column, what in (("group", TWO_GROUPS), ("label", TWO_LABELS)):
        value_N = train[column].to_numpy()
        odd = pairs[value_N[pairs[:, 0]] != value_N[pairs[:, 1]]]
        if len(odd):
            named = listed(f"{ids[i]} = {ids[j]}" for i, j in odd)
            lines.append(f"{counted(len(odd), 'pair')} of images: {what}: {named}")
    return lines


def merged_groups(group_N: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return the groups with those made one that a pair connects; the first name in order stands
    for all.
    """
    names, code_N = np.unique(group_N.astype(str), return_inverse=True)
    links = sparse.coo_array(
        (np.ones(len(pairs)), (code_N[pairs[:, 0]], code_N[pairs[:, 1]])), (len(names),) * 2
    )
    part_G = connected_components(links, directed=False)[1]
    first_P = np.unique(part_G, return_index=True)[1]
    return names[first_P[part_G]][code_N].astype(object)
