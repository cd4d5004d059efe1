"""Dealing groups to folds so that every class, and the fold itself, gets its even share.

Groups with equal class counts are interchangeable, so the work is on profiles (distinct rows of
class counts) and on how many groups of each profile a fold gets. The objective is the sum over
folds and classes of the squared relative deviation from the even share, with the number of
images in the fold counted as one more class.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

__all__ = ["Profiles", "deal", "lower_bound", "objective", "profiles_of"]

DENSE = 4_000_000
NUM_CANDIDATES = 192
MOST_STARTS = 32
STARTS_BUDGET = 20_000
PATIENCE = 3
EPSILON = 1e-12


@dataclass(frozen=True, kw_only=True, slots=True)
class Profiles:
    """G groups as P distinct rows of counts over C classes and, in the last column, their sum."""

    count_PC: sparse.csr_array
    """Images of each class (and in all) that one group of the profile has; P x (C + 1)."""
    profile_G: np.ndarray
    """The profile of each group."""

    @property
    def sizes(self) -> np.ndarray:
        """Number of groups of each profile, P."""
        return np.bincount(self.profile_G, minlength=self.count_PC.shape[0])


def profiles_of(class_N: np.ndarray, group_N: np.ndarray) -> Profiles:
    """Return the profiles of N rows; `class_N` and `group_N` are codes 0.. without gaps."""
    shape = (int(group_N.max()) + 1, int(class_N.max()) + 2)
    group_2N = np.tile(group_N, 2)
    column_2N = np.append(class_N, np.full(len(class_N), shape[1] - 1))
    count_GC = sparse.coo_array(
        (np.ones(len(group_2N), np.int64), (group_2N, column_2N)), shape
    ).tocsr()
    count_GC.sort_indices()
    # Equal rows have equal hashes; whether equal hashes mean equal rows is checked.
    weight_C = np.random.default_rng(0).integers(1, 2**63, shape[1], dtype=np.uint64)
    hash_G = np.add.reduceat(
        count_GC.data.astype(np.uint64) * weight_C[count_GC.indices], count_GC.indptr[:-1]
    )
    _, first_P, profile_G = np.unique(hash_G, return_index=True, return_inverse=True)
    count_PC = count_GC[first_P]
    assert (count_PC[profile_G] != count_GC).nnz == 0, "two profiles share a hash"
    return Profiles(count_PC=count_PC, profile_G=profile_G)


def objective(count_KC: np.ndarray) -> float:
    """Return the sum of squared relative deviations of K folds' counts over C columns (size among
    them).
    """
    share_C = count_KC.mean(axis=0)
    return float(((count_KC[:, share_C > 0] / share_C[share_C > 0] - 1) ** 2).sum())


def _column_bound(count_G: np.ndarray, num_folds: int) -> float:
    """Return the least sum of squared relative deviations of one column, given each group's
    count.
    """
    count_G = np.sort(count_G[count_G > 0])[::-1]
    total = count_G.sum()
    rest = count_G.sum()
    folds = num_folds
    squares = 0.0
    # A group above the even share of what is left fills a fold by itself at least.
    for count in count_G[: num_folds - 1]:
        if count * folds <= rest:
            break
        squares = squares + float(count) ** 2
        rest = rest - count
        folds = folds - 1
    # Counts come in multiples of their common divisor, so the rest can be no more even than this.
    unit = np.gcd.reduce(count_G)
    low, over = divmod(rest // unit, folds)
    squares += float(unit) ** 2 * float((folds - over) * low**2 + over * (low + 1) ** 2)
    return squares * (num_folds / total) ** 2 - num_folds


def lower_bound(profiles: Profiles, num_folds: int) -> float:
    """Return a value that no assignment's objective can be below.

    Every column by itself: groups above the even share, and the granularity of the counts. The
    columns' bounds need not be reachable together.
    """
    columns = profiles.count_PC.tocsc()
    size_P = profiles.sizes
    bound = 0.0
    for column in range(columns.shape[1]):
        span = slice(columns.indptr[column], columns.indptr[column + 1])
        times = size_P[columns.indices[span]]
        if times.sum():
            bound += _column_bound(np.repeat(columns.data[span], times), num_folds)
    return max(bound, 0.0)


def _start(
    scaled_PC: Any, size_P: np.ndarray, norm_P: np.ndarray, num_folds: int, rng: np.random.Generator
) -> Any:
    """Return groups per profile and fold (P x K) and the deviations (K x C): even part, then
    greedily.

    The heaviest group first, by `norm_P`; ties fall by chance.
    """
    rows = sparse.csr_array(scaled_PC)
    deal_PK = np.repeat((size_P // num_folds)[:, None], num_folds, axis=1)
    deviation_KC = np.tile(deal_PK[:, 0] @ scaled_PC - 1.0, (num_folds, 1))
    left = np.repeat(np.arange(len(size_P)), size_P % num_folds)
    left = left[np.lexsort((rng.random(len(size_P))[left], -norm_P[left]))]
    empty = [] if deal_PK.any() else list(range(num_folds))
    for step, profile in enumerate(left):
        span = slice(rows.indptr[profile], rows.indptr[profile + 1])
        index = rows.indices[span]
        value = rows.data[span]
        cost_K = deviation_KC[:, index] @ value
        # No fold stays empty: the last groups go where nothing is yet.
        fold = (
            min(empty, key=cost_K.__getitem__)
            if len(empty) == len(left) - step
            else int(cost_K.argmin())
        )
        if fold in empty:
            empty.remove(fold)
        deal_PK[profile, fold] += 1
        deviation_KC[fold, index] += value
    return deal_PK, deviation_KC


def _candidates(deal_P: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    there = np.flatnonzero(deal_P)
    return (
        there
        if len(there) <= NUM_CANDIDATES
        else np.sort(rng.choice(there, NUM_CANDIDATES, replace=False))
    )


def _exchange(
    scaled_PC: Any,
    norm_P: np.ndarray,
    deal_PK: np.ndarray,
    deviation_KC: np.ndarray,
    pair: Any,
    rng: Any,
) -> bool:
    """Make the best exchange between two folds, in place; return whether there was one that helps.

    One group of profile p goes from fold a to b and one of q from b to a; either may be nothing.
    """
    a, b = pair
    ps = _candidates(deal_PK[:, a], rng)
    qs = _candidates(deal_PK[:, b], rng)
    slope_C = deviation_KC[b] - deviation_KC[a]
    rows_p = scaled_PC[ps]
    rows_q = scaled_PC[qs]
    cross = rows_p @ rows_q.T
    gain = np.zeros((len(ps) + 1, len(qs) + 1))  # the last row and column: nothing
    gain[:-1, :-1] = -2 * (cross.toarray() if sparse.issparse(cross) else cross)
    gain[:-1] += (norm_P[ps] + rows_p @ slope_C)[:, None]
    gain[:, :-1] += norm_P[qs] - rows_q @ slope_C
    if deal_PK[:, a].sum() == 1:
        gain[:-1, -1] = np.inf  # no fold is emptied
    if deal_PK[:, b].sum() == 1:
        gain[-1, :-1] = np.inf
    i, j = np.unravel_index(gain.argmin(), gain.shape)
    if gain[i, j] > -EPSILON:
        return False
    for chosen, index, source, target in ((ps, i, a, b), (qs, j, b, a)):
        if index < len(chosen):
            row = scaled_PC[[chosen[index]]]
            row = (row.toarray() if sparse.issparse(row) else row)[0]
            deviation_KC[source] -= row
            deviation_KC[target] += row
            deal_PK[chosen[index], source] -= 1
            deal_PK[chosen[index], target] += 1
    return True


def deal(profiles: Profiles, num_folds: int, rng: np.random.Generator) -> np.ndarray:
    """Return how many groups of each profile every fold gets, P x K.

    The even part of each profile is dealt out, the rest greedily, the heaviest group first; then
    pairs of folds exchange groups while that helps. Small data are started anew several times.
    No fold is empty if there are as many groups as folds.
    """
    size_P = profiles.sizes
    bound = lower_bound(profiles, num_folds)
    share_C = np.asarray(profiles.count_PC.T @ size_P) / num_folds
    scaled_PC: Any = sparse.csr_array(profiles.count_PC.multiply(1 / share_C))
    norm_P = np.asarray(scaled_PC.multiply(scaled_PC).sum(axis=1)).ravel()
    num_profiles, num_columns = scaled_PC.shape
    if num_profiles * num_columns <= DENSE:
        scaled_PC = scaled_PC.toarray()
    pairs = list(itertools.combinations(range(num_folds), 2))
    best = np.inf
    best_PK = None
    for start in range(int(np.clip(STARTS_BUDGET // (num_profiles * num_folds), 1, MOST_STARTS))):
        # The first start takes the weights as they are, the others blur them to begin elsewhere.
        weight_P = norm_P * rng.exponential(size=num_profiles) if start else norm_P
        deal_PK, deviation_KC = _start(scaled_PC, size_P, weight_P, num_folds, rng)
        quiet = 0
        while quiet < PATIENCE and (deviation_KC**2).sum() > bound + EPSILON:
            moved = False
            for pair in rng.permutation(pairs):
                while _exchange(scaled_PC, norm_P, deal_PK, deviation_KC, pair, rng):
                    moved = True
            # Where candidates are sampled, a quiet round proves nothing yet.
            quiet = 0 if moved else quiet + (1 if num_profiles > NUM_CANDIDATES else PATIENCE)
        value = float((deviation_KC**2).sum())
        if value < best - EPSILON:
            best = value
            best_PK = deal_PK
        if best <= bound + EPSILON:
            break
    assert best_PK is not None
    return best_PK
