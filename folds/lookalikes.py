"""One person under two names: groups whose pictures share many local features in one geometry.

Near duplicates find the same picture; this finds other pictures of the same person and place. Keypoints
(SIFT, Lowe 2004) are counted as visual words (Sivic and Zisserman 2003) to find candidates, and
matched under a similarity transform to confirm them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import scipy.sparse

from folds.kfold import codes_of

__all__ = ["Lookalikes", "Sketch", "few_rows_of_groups", "lookalike_groups", "sketch_of"]

LONGER_SIDE = 256
NUM_KEYPOINTS = 200
MOST_PICTURES = 4
NUM_WORDS = 1000
NUM_SAMPLED = 30_000
NUM_CANDIDATES = 5
RATIO = 0.8
REACH = 4.0
# Among real portraits, strangers shared at most 22 matches (the masks drawn on them) and halves of one
# person's pictures at least 34. Where strangers share more, the least is raised above what they share.
LEAST_MATCHES = 27
MARGIN = 1.4

Sketch = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lookalikes:
    """Pairs of groups that look like one, and what the search was able to see in these pictures."""

    pairs: np.ndarray
    """M x 2 rows, one of each of two groups, best first: the two pictures that match best."""
    matches_M: np.ndarray
    """Features that the two pictures share."""
    least: int
    """Shared features from which two groups are named."""
    recall: float
    """Share of groups that, cut in two, would be named; NaN where no group has two pictures."""
    num_trials: int
    """Number of groups that this was tried on."""


def few_rows_of_groups(group_N: np.ndarray, *, most: int = MOST_PICTURES, seed: int = 0) -> np.ndarray:
    """Return the numbers of at most `most` rows of each group, drawn at random, in order."""
    order = np.random.default_rng(seed).permutation(len(group_N))
    code_N = codes_of(group_N)[order]
    by_group = np.argsort(code_N, kind="stable")
    starts = np.searchsorted(code_N[by_group], code_N[by_group])
    place_N = np.arange(len(group_N)) - starts
    return np.sort(order[by_group[place_N < most]])


def sketch_of(image: np.ndarray) -> Sketch:
    """Return the strongest keypoints of an RGB picture: places K x 2, and descriptors K x 128 uint8."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    scale = LONGER_SIDE / max(grey.shape)
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    size = (max(round(grey.shape[1] * scale), 8), max(round(grey.shape[0] * scale), 8))
    finder = cv2.SIFT_create(nfeatures=NUM_KEYPOINTS)  # type: ignore[attr-defined]
    keypoints, descriptors = finder.detectAndCompute(cv2.resize(grey, size, interpolation=method), None)
    if not keypoints:
        return np.empty((0, 2), np.float32), np.empty((0, 128), np.uint8)
    return np.array([one.pt for one in keypoints], np.float32), np.clip(descriptors, 0, 255).astype(np.uint8)


def _root(descriptors: np.ndarray) -> np.ndarray:
    """Return descriptors whose dot products compare them as histograms (Arandjelovic and Zisserman 2012)."""
    descriptors = descriptors.astype(np.float32)
    return np.sqrt(descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-6))


def _num_matches(one: Sketch, other: Sketch) -> int:
    """Return how many keypoints match one to one, clearly, and under one similarity transform."""
    if min(len(one[0]), len(other[0])) < 4:
        return 0
    likeness = _root(one[1]) @ _root(other[1]).T
    nearest = likeness.argmax(axis=1)
    second, first = np.sort(np.partition(likeness, -2, axis=1)[:, -2:], axis=1).T
    mutual = likeness.argmax(axis=0)[nearest] == np.arange(len(nearest))
    clear = (1 - first) < RATIO**2 * (1 - second)
    chosen = mutual & clear
    if chosen.sum() < 4:
        return 0
    cv2.setRNGSeed(0)
    transform, inliers = cv2.estimateAffinePartial2D(
        one[0][chosen], other[0][nearest[chosen]], ransacReprojThreshold=REACH
    )
    if transform is None or not 0.5 < np.hypot(*transform[:, 0]) < 2:
        return 0
    return int(inliers.sum())


def _best_match(sketches: Sequence[Sketch], ones: Iterable[int], others: Iterable[int]) -> tuple[int, int, int]:
    """Return (matches, i, j) of the two pictures, one of each side, that match best."""
    return max((_num_matches(sketches[i], sketches[j]), i, j) for i, j in itertools.product(ones, others))


def _word_counts(sketches: Sequence[Sketch], code_N: np.ndarray, seed: int) -> scipy.sparse.csr_matrix:
    """Return how often each visual word occurs in each group, G x W."""
    from sklearn.cluster import MiniBatchKMeans

    root = np.concatenate([_root(one[1]) for one in sketches])
    owner = np.repeat(code_N, [len(one[1]) for one in sketches])
    rng = np.random.default_rng(seed)
    sample = root[rng.choice(len(root), min(len(root), NUM_SAMPLED), replace=False)]
    num_words = min(NUM_WORDS, max(len(sample) // 10, 1))
    words = MiniBatchKMeans(num_words, init="random", random_state=seed, n_init=1, batch_size=4096, max_iter=10).fit(
        sample
    )
    word = np.concatenate([words.predict(part) for part in np.array_split(root, len(root) // 500_000 + 1)])
    shape = (int(code_N.max()) + 1, num_words)
    return scipy.sparse.coo_matrix((np.ones(len(word)), (owner, word)), shape=shape).tocsr()


def _candidates(counts_GW: scipy.sparse.csr_matrix) -> np.ndarray:
    """Return pairs M x 2 of groups of which one is among the other's nearest."""
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.neighbors import NearestNeighbors

    weighted = TfidfTransformer(sublinear_tf=True).fit_transform(counts_GW)
    num_near = min(NUM_CANDIDATES, counts_GW.shape[0] - 1)
    near_GK = NearestNeighbors(n_neighbors=num_near, metric="cosine").fit(weighted).kneighbors(return_distance=False)
    pairs = np.stack([np.repeat(np.arange(len(near_GK)), num_near), near_GK.ravel()], axis=1)
    return np.unique(np.sort(pairs, axis=1), axis=0)


def _second_best(pairs: np.ndarray, matches_M: np.ndarray) -> np.ndarray:
    """Return the second most matches of each group: what strangers share, also where people stand under two names."""
    group_M, both_M = pairs.ravel(), np.repeat(matches_M, 2)
    order = np.lexsort([-both_M, group_M])
    group_M, both_M = group_M[order], both_M[order]
    return both_M[np.arange(len(order)) - np.searchsorted(group_M, group_M) == 1]


def lookalike_groups(sketches: Sequence[Sketch], group_N: np.ndarray, *, seed: int = 0) -> Lookalikes:
    """Return the pairs of groups that look like one, from the sketches of N rows (few a group).

    The search tries itself: every group is cut in two, and `recall` is the share of these that it
    would have named.
    """
    code_N = codes_of(group_N)
    rows_of = np.split(np.argsort(code_N, kind="stable"), np.cumsum(np.bincount(code_N))[:-1])
    nothing = Lookalikes(
        pairs=np.empty((0, 2), np.int64), matches_M=np.empty(0, int), least=LEAST_MATCHES, recall=np.nan, num_trials=0
    )
    if len(rows_of) < 3 or not sum(len(one[1]) for one in sketches):
        return nothing
    pairs = _candidates(_word_counts(sketches, code_N, seed))
    trials = [rows for rows in rows_of if len(rows) > 1]
    with ThreadPoolExecutor() as pool:  # cv2 and numpy's products release the interpreter lock
        found = list(pool.map(lambda pair: _best_match(sketches, rows_of[pair[0]], rows_of[pair[1]]), pairs))
        halves = list(pool.map(lambda rows: _best_match(sketches, rows[::2], rows[1::2])[0], trials))
    matches_M = np.array([one[0] for one in found])
    least = max(LEAST_MATCHES, int(np.ceil(MARGIN * np.quantile(_second_best(pairs, matches_M), 0.9))))
    order = np.argsort(-matches_M, kind="stable")
    named = order[matches_M[order] >= least]
    return Lookalikes(
        pairs=np.array([found[index][1:] for index in named], np.int64).reshape(-1, 2),
        matches_M=matches_M[named],
        least=least,
        recall=float(np.mean(np.array(halves) >= least)) if halves else np.nan,
        num_trials=len(trials),
    )
