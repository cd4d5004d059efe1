"""Search for one group under two names, by local features that images of two groups share.

The search for duplicates finds copies of an image; this one finds other images of the same person
and place. Candidates are found by counts of visual words (Sivic and Zisserman 2003) of SIFT
keypoints (Lowe 2004), and confirmed by matching the keypoints under a similarity transform.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import scipy.sparse

from foldblend.progress import track
from folds.kfold import codes_of, rows_by_code

__all__ = ["Lookalikes", "Sketch", "few_rows_of_groups", "lookalike_groups", "sketch_of"]

LONGER_SIDE = 256
NUM_KEYPOINTS = 200
MOST_IMAGES = 4
NUM_WORDS = 1000
NUM_SAMPLED = 30_000
CHUNK = 2_000
LEAST_GROUPS = 3
NUM_CANDIDATES = 5
# Threshold of the ratio test (Lowe 2004), and the largest error of a match in pixels.
RATIO = 0.8
REACH = 4.0
# Among real portraits, images of different people shared at most 22 matches (on the masks drawn on
# them), and images of one person at least 34. If different groups share more in other data, the
# threshold is raised by MARGIN above what they share.
LEAST_MATCHES = 27
MARGIN = 1.4

Sketch = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lookalikes:
    """Pairs of groups that look the same, and the sensitivity of the search on these images."""

    pairs: np.ndarray
    """Rows of the two best matching images of each pair of groups, U x 2, best first."""
    matches_U: np.ndarray
    """Number of features that the two images of each pair share."""
    least: int
    """Least number of shared features for which a pair is reported."""
    recall: float
    """Share of test cases (groups split in two) that the search finds; NaN if there are none."""
    num_trials: int
    """Number of test cases."""


def few_rows_of_groups(
    group_N: np.ndarray, *, most: int = MOST_IMAGES, seed: int = 0
) -> np.ndarray:
    """Return the sorted numbers of at most `most` random rows of each group."""
    order = np.random.default_rng(seed).permutation(len(group_N))
    chosen = [rows[:most] for rows in rows_by_code(codes_of(group_N)[order])]
    return np.sort(order[np.concatenate(chosen)])


def sketch_of(image: np.ndarray) -> Sketch:
    """Return the strongest keypoints of an RGB image.

    A sketch is a pair of arrays: the places of the keypoints, X x 2 float32, and their SIFT
    descriptors, X x 128 uint8.
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
    """Return RootSIFT descriptors (Arandjelovic and Zisserman 2012)."""
    descriptors = descriptors.astype(np.float32)
    return np.sqrt(descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-6))


def _num_matches(one: Sketch, other: Sketch) -> int:
    """Return the number of unambiguous keypoint matches under one similarity transform."""
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
    # RANSAC draws from a generator of cv2, which is seeded to make results reproducible.
    cv2.setRNGSeed(0)
    transform, inliers = cv2.estimateAffinePartial2D(
        one[0][chosen], other[0][nearest[chosen]], ransacReprojThreshold=REACH
    )
    # Matches that need a larger change of scale are chance matches.
    if transform is None or not 0.5 < np.hypot(*transform[:, 0]) < 2:
        return 0
    return int(inliers.sum())


def _best_match(
    sketches: Sequence[Sketch],
    ones: Iterable[int],
    others: Iterable[int],
    known: Set[tuple[int, int]] = frozenset(),
) -> tuple[int, int, int]:
    """Return (matches, i, j) of the best matching pair of images that is not a `known` pair."""
    pairs = [
        (i, j) for i, j in itertools.product(ones, others) if (min(i, j), max(i, j)) not in known
    ]
    return max(
        ((_num_matches(sketches[i], sketches[j]), i, j) for i, j in pairs), default=(0, -1, -1)
    )


def _words_of(sketches: Sequence[Sketch], seed: int) -> scipy.sparse.csr_matrix:
    """Return the count of each visual word in each image, N x X for X words."""
    from sklearn.cluster import MiniBatchKMeans

    # The keypoints of a random sample of images are enough to cluster them into words.
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


def _nearest(words_NX: scipy.sparse.csr_matrix, code_N: np.ndarray) -> np.ndarray:
    """Return the sets of images nearest to each set by visual words, G x X for X neighbours.

    `code_N` is the set 0..G-1 of each image.
    """
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.neighbors import NearestNeighbors

    member = scipy.sparse.coo_matrix(
        (np.ones(len(code_N)), (code_N, np.arange(len(code_N))))
    ).tocsr()
    weighted = TfidfTransformer(sublinear_tf=True).fit_transform(member @ words_NX)
    num_near = min(NUM_CANDIDATES, member.shape[0] - 1)
    near_GX = (
        NearestNeighbors(n_neighbors=num_near, metric="cosine")
        .fit(weighted)
        .kneighbors(return_distance=False)
    )
    return np.asarray(near_GX)


def _share_found(
    sketches: Sequence[Sketch],
    words_NX: scipy.sparse.csr_matrix,
    rows_of: Sequence[np.ndarray],
    least: int,
) -> tuple[float, int]:
    """Return the share of test cases that the search finds, and the number of test cases.

    A test case is a group with at least two images, split in two.
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
        for code, row in enumerate(_nearest(words_NX, code_N))
    }

    def is_found(number: int) -> bool:
        one = 2 * number
        other = 2 * number + 1
        candidate = other in near[one] or one in near[other]
        rows = rows_of[number]
        return candidate and _best_match(sketches, rows[::2], rows[1::2])[0] >= least

    with ThreadPoolExecutor() as pool:
        tried = track(
            pool.map(is_found, trials), "search split groups", total=len(trials), unit="groups"
        )
        return float(np.mean(list(tried))), len(trials)


def _second_best(pairs: np.ndarray, matches_U: np.ndarray) -> np.ndarray:
    """Return the second highest number of matches of each group.

    It estimates what unrelated groups share, even if the best match of a group is the same group
    under another name.
    """
    group = pairs.ravel()
    matches = np.repeat(matches_U, 2)
    order = np.lexsort([-matches, group])
    group = group[order]
    matches = matches[order]
    return matches[np.arange(len(order)) - np.searchsorted(group, group) == 1]


def lookalike_groups(
    sketches: Sequence[Sketch],
    group_N: np.ndarray,
    *,
    known: Set[tuple[int, int]] = frozenset(),
    seed: int = 0,
) -> Lookalikes:
    """Return the pairs of groups that look the same, and how sensitive the search is.

    To measure the sensitivity on these images, every group is split in two; `recall` is the share
    of these test cases that the search finds.

    Parameters
    ----------
    sketches
        `sketch_of` each image, a few per group.
    group_N
        Group of each image.
    known
        Pairs of rows, smaller first, that are copies of one image. They are ignored, because a
        copied image does not show that two groups are the same.
    seed
        Seed of the clustering into visual words.
    """
    code_N = codes_of(group_N)
    rows_of = rows_by_code(code_N)
    if len(rows_of) < LEAST_GROUPS or not sum(len(one[1]) for one in sketches):
        return Lookalikes(
            pairs=np.empty((0, 2), np.int64),
            matches_U=np.empty(0, int),
            least=0,
            recall=np.nan,
            num_trials=0,
        )
    words_NX = _words_of(sketches, seed)
    near_GX = _nearest(words_NX, code_N)
    pairs = np.stack(
        [np.repeat(np.arange(len(near_GX)), near_GX.shape[1]), near_GX.ravel()], axis=1
    )
    pairs = np.unique(np.sort(pairs, axis=1), axis=0)
    # Threads are enough: cv2 and numpy's products release the interpreter lock.
    with ThreadPoolExecutor() as pool:
        matched = pool.map(
            lambda pair: _best_match(sketches, rows_of[pair[0]], rows_of[pair[1]], known), pairs
        )
        found = list(track(matched, "match groups", total=len(pairs), unit="pairs"))
    matches_U = np.array([one[0] for one in found])
    # One group in ten shares this many features with an unrelated group, for example the place or
    # clothing, so pairs need clearly more.
    least = max(
        LEAST_MATCHES, int(np.ceil(MARGIN * np.quantile(_second_best(pairs, matches_U), 0.9)))
    )
    order = np.argsort(-matches_U, kind="stable")
    reported = order[matches_U[order] >= least]
    recall, num_trials = _share_found(sketches, words_NX, rows_of, least)
    return Lookalikes(
        pairs=np.array([found[index][1:] for index in reported], np.int64).reshape(-1, 2),
        matches_U=matches_U[reported],
        least=least,
        recall=recall,
        num_trials=num_trials,
    )
