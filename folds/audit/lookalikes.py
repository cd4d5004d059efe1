"""One person under two names: groups whose images share many local features in one geometry.

Near duplicates find the same image; this finds other images of the same person and place.
Keypoints (SIFT, Lowe 2004) are counted as visual words (Sivic and Zisserman 2003) to find
candidates, and matched under a similarity transform to confirm them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import scipy.sparse

from folds.kfold import codes_of, rows_by_code

__all__ = ["Lookalikes", "Sketch", "few_rows_of_groups", "lookalike_groups", "sketch_of"]

LONGER_SIDE = 256
NUM_KEYPOINTS = 200
MOST_PICTURES = 4
NUM_WORDS = 1000
NUM_SAMPLED = 30_000
CHUNK = 2_000
LEAST_GROUPS = 3
NUM_CANDIDATES = 5
RATIO = 0.8
REACH = 4.0
# Among real portraits, strangers shared at most 22 matches (the masks drawn on them) and halves of
# one person's images at least 34. Where strangers share more, the least is raised above what they
# share.
LEAST_MATCHES = 27
MARGIN = 1.4

Sketch = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lookalikes:
    """Pairs of groups that look like one, and what the search was able to see in these images."""

    pairs: np.ndarray
    """M x 2 rows, one of each of two groups, best first: the two images that match best."""
    matches_M: np.ndarray
    """Features that the two images share."""
    least: int
    """Shared features from which two groups are named."""
    recall: float
    """Share of groups that, cut in two, would be named; NaN where no group has two images."""
    num_trials: int
    """Number of groups that this was tried on."""


def few_rows_of_groups(
    group_N: np.ndarray, *, most: int = MOST_PICTURES, seed: int = 0
) -> np.ndarray:
    """Return the numbers of at most `most` rows of each group, drawn at random, in order."""
    order = np.random.default_rng(seed).permutation(len(group_N))
    chosen = [rows[:most] for rows in rows_by_code(codes_of(group_N)[order])]
    return np.sort(order[np.concatenate(chosen)])


def sketch_of(image: np.ndarray) -> Sketch:
    """Return the strongest keypoints of an RGB image: places K x 2, and descriptors K x 128
    uint8.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    scale = LONGER_SIDE / max(grey.shape)
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    size = (max(round(grey.shape[1] * scale), 8), max(round(grey.shape[0] * scale), 8))
    finder = cv2.SIFT_create(nfeatures=NUM_KEYPOINTS)  # type: ignore[attr-defined]
    keypoints, descriptors = finder.detectAndCompute(
        cv2.resize(grey, size, interpolation=method), None
    )
    if not keypoints:
        return np.empty((0, 2), np.float32), np.empty((0, 128), np.uint8)
    return np.array([one.pt for one in keypoints], np.float32), np.clip(descriptors, 0, 255).astype(
        np.uint8
    )


def _root(descriptors: np.ndarray) -> np.ndarray:
    """Return descriptors whose dot products compare them as histograms (Arandjelovic and Zisserman
    2012).
    """
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


def _best_match(
    sketches: Sequence[Sketch],
    ones: Iterable[int],
    others: Iterable[int],
    known: Set[tuple[int, int]] = frozenset(),
) -> tuple[int, int, int]:
    """Return (matches, i, j) of the two images, one of each side and not a `known` pair, that
    match best.
    """
    pairs = [
        (i, j) for i, j in itertools.product(ones, others) if (min(i, j), max(i, j)) not in known
    ]
    return max(
        ((_num_matches(sketches[i], sketches[j]), i, j) for i, j in pairs), default=(0, -1, -1)
    )


def _words_of(sketches: Sequence[Sketch], seed: int) -> scipy.sparse.csr_matrix:
    """Return how often each visual word occurs in each image, N x W."""
    from sklearn.cluster import MiniBatchKMeans

    rng = np.random.default_rng(seed)
    order = rng.permutation(len(sketches))
    sample = []
    num_sampled = 0
    for row in order:
        sample.append(_root(sketches[row][1]))
        num_sampled += len(sample[-1])
        if num_sampled >= NUM_SAMPLED:
            break
    num_words = min(NUM_WORDS, max(num_sampled // 10, 1))
    words = MiniBatchKMeans(
        num_words, init="random", random_state=seed, n_init=1, batch_size=4096, max_iter=10
    ).fit(np.concatenate(sample))
    counts = []
    for start in range(0, len(sketches), CHUNK):
        part = sketches[start : start + CHUNK]
        word = (
            words.predict(np.concatenate([_root(one[1]) for one in part]))
            if any(len(one[1]) for one in part)
            else []
        )
        owner = np.repeat(np.arange(len(part)), [len(one[1]) for one in part])
        shape = (len(part), num_words)
        counts.append(
            scipy.sparse.coo_matrix((np.ones(len(owner)), (owner, word)), shape=shape).tocsr()
        )
    return scipy.sparse.vstack(counts).tocsr()


def _nearest(words_NW: scipy.sparse.csr_matrix, code_N: np.ndarray) -> np.ndarray:
    """Return the nearest others of each set of images, sets 0..G-1, by their words: G x K."""
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.neighbors import NearestNeighbors

    member = scipy.sparse.coo_matrix(
        (np.ones(len(code_N)), (code_N, np.arange(len(code_N))))
    ).tocsr()
    weighted = TfidfTransformer(sublinear_tf=True).fit_transform(member @ words_NW)
    num_near = min(NUM_CANDIDATES, member.shape[0] - 1)
    near_GK = (
        NearestNeighbors(n_neighbors=num_near, metric="cosine")
        .fit(weighted)
        .kneighbors(return_distance=False)
    )
    return np.asarray(near_GK)


def _share_found(
    sketches: Sequence[Sketch],
    words_NW: scipy.sparse.csr_matrix,
    rows_of: Sequence[np.ndarray],
    least: int,
) -> tuple[float, int]:
    """Cut every group of two images and more in two; return the share that would be named, and
    their number.
    """
    code_N = np.empty(len(sketches), np.int64)
    trials = []
    for number, rows in enumerate(rows_of):
        code_N[rows[::2]] = 2 * number
        code_N[rows[1::2]] = 2 * number + 1
        if len(rows) > 1:
            trials.append(number)
    if not trials:
        return float("nan"), 0
    sets, code_N = np.unique(code_N, return_inverse=True)
    near = {
        int(sets[code]): set(sets[row].tolist())
        for code, row in enumerate(_nearest(words_NW, code_N))
    }

    def is_named(number: int) -> bool:
        one = 2 * number
        other = 2 * number + 1
        candidate = other in near[one] or one in near[other]
        rows = rows_of[number]
        return candidate and _best_match(sketches, rows[::2], rows[1::2])[0] >= least

    with ThreadPoolExecutor() as pool:
        return float(np.mean(list(pool.map(is_named, trials)))), len(trials)


def _second_best(pairs: np.ndarray, matches_M: np.ndarray) -> np.ndarray:
    """Return the second most matches of each group: what strangers share, also where people stand
    under two names.
    """
    group_M = pairs.ravel()
    both_M = np.repeat(matches_M, 2)
    order = np.lexsort([-both_M, group_M])
    group_M = group_M[order]
    both_M = both_M[order]
    return both_M[np.arange(len(order)) - np.searchsorted(group_M, group_M) == 1]


def lookalike_groups(
    sketches: Sequence[Sketch],
    group_N: np.ndarray,
    *,
    known: Set[tuple[int, int]] = frozenset(),
    seed: int = 0,
) -> Lookalikes:
    """Return the pairs of groups that look like one, from the sketches of N rows (few a group).

    `known` are pairs of rows, smaller first, that are the same image and no evidence here. The
    search tries itself: every group is cut in two, and `recall` is the share of these that it would
    have named.
    """
    code_N = codes_of(group_N)
    rows_of = rows_by_code(code_N)
    if len(rows_of) < LEAST_GROUPS or not sum(len(one[1]) for one in sketches):
        return Lookalikes(
            pairs=np.empty((0, 2), np.int64),
            matches_M=np.empty(0, int),
            least=0,
            recall=np.nan,
            num_trials=0,
        )
    words_NW = _words_of(sketches, seed)
    near_GK = _nearest(words_NW, code_N)
    pairs = np.stack(
        [np.repeat(np.arange(len(near_GK)), near_GK.shape[1]), near_GK.ravel()], axis=1
    )
    pairs = np.unique(np.sort(pairs, axis=1), axis=0)
    with ThreadPoolExecutor() as pool:  # cv2 and numpy's products release the interpreter lock
        found = list(
            pool.map(
                lambda pair: _best_match(sketches, rows_of[pair[0]], rows_of[pair[1]], known), pairs
            )
        )
    matches_M = np.array([one[0] for one in found])
    # What one group in ten shares with a stranger is no mark of one person, but of place or
    # clothing.
    least = max(
        LEAST_MATCHES, int(np.ceil(MARGIN * np.quantile(_second_best(pairs, matches_M), 0.9)))
    )
    order = np.argsort(-matches_M, kind="stable")
    named = order[matches_M[order] >= least]
    recall, num_trials = _share_found(sketches, words_NW, rows_of, least)
    return Lookalikes(
        pairs=np.array([found[index][1:] for index in named], np.int64).reshape(-1, 2),
        matches_M=matches_M[named],
        least=least,
        recall=recall,
        num_trials=num_trials,
    )
