"""Assignment of groups to folds with even class counts and even fold sizes.

Groups with equal class counts are interchangeable. The algorithm therefore works on profiles
(distinct rows of class counts) and decides how many groups of each profile a fold gets. The
objective is the sum over folds and columns of the squared relative deviation from the even share.
The columns are the classes and the number of images.

In array names U is the number of profiles and X the number of columns, C + 1.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

__all__ = ["Profiles", "deal", "lower_bound", "objective", "profiles_of"]

# Tables of profiles with up to this many cells are dense, which is faster.
DENSE = 4_000_000
# An exchange between two folds tries at most this many profiles on each side.
NUM_CANDIDATES = 192
# Small data get several random starts, because a single greedy start may end in a local optimum.
MOST_STARTS = 32
STARTS_BUDGET = 20_000
# With sampled candidates, a start ends after this many rounds without an exchange.
PATIENCE = 3
# Smaller changes of the objective are rounding errors, and would let exchanges go on forever.
EPSILON = 1e-12


@dataclass(frozen=True, kw_only=True, slots=True)
class Profiles:
    """G groups as U distinct rows of image counts, with one column per class and their total."""

    count_UX: sparse.csr_array
    """Images of each class, and in total, in one group of each profile; U x (C + 1)."""
    profile_G: np.ndarray
    """The profile of each group."""

    @property
    def sizes(self) -> np.ndarray:
        """Number of groups of each profile, length U."""
        return np.bincount(self.profile_G, minlength=self.count_UX.shape[0])


def profiles_of(class_N: np.ndarray, group_N: np.ndarray) -> Profiles:
    """Return the profiles of N rows with classes and groups as codes 0, 1, ... without gaps."""
    shape = (int(group_N.max()) + 1, int(class_N.max()) + 2)
    group_twice = np.tile(group_N, 2)
    column_twice = np.append(class_N, np.full(len(class_N), shape[1] - 1))
    count_GX = sparse.coo_array(
        (np.ones(len(group_twice), np.int64), (group_twice, column_twice)), shape
    ).tocsr()
    count_GX.sort_indices()
    # Rows are compared by random hashes, which is fast on sparse rows. The assertion below checks
    # that different rows have different hashes.
    weight_X = np.random.default_rng(0).integers(1, 2**63, shape[1], dtype=np.uint64)
    hash_G = np.add.reduceat(
        count_GX.data.astype(np.uint64) * weight_X[count_GX.indices], count_GX.indptr[:-1]
    )
    _, first_U, profile_G = np.unique(hash_G, return_index=True, return_inverse=True)
    count_UX = count_GX[first_U]
    assert (count_UX[profile_G] != count_GX).nnz == 0, "two profiles share a hash"
    return Profiles(count_UX=count_UX, profile_G=profile_G)


def objective(count_KX: np.ndarray) -> float:
    """Return the sum of squared relative deviations of K folds' counts from the even share.

    Examples
    --------
    >>> objective(np.array([[6, 6], [6, 6]]))
    0.0
    """
    share_X = count_KX.mean(axis=0)
    return float(((count_KX[:, share_X > 0] / share_X[share_X > 0] - 1) ** 2).sum())


def _column_bound(count_G: np.ndarray, num_folds: int) -> float:
    """Return a lower bound on the objective of one column, given each group's count."""
    count_G = np.sort(count_G[count_G > 0])[::-1]
    total = count_G.sum()
    rest = count_G.sum()
    folds = num_folds
    squares = 0.0
    # A group that exceeds the even share of the remaining images takes up at least one whole fold.
    for count in count_G[: num_folds - 1]:
        if count * folds <= rest:
            break
        squares = squares + float(count) ** 2
        rest = rest - count
        folds = folds - 1
    # Fold counts are multiples of the groups' common divisor, which limits how even they can be.
    unit = np.gcd.reduce(count_G)
    low, over = divmod(rest // unit, folds)
    squares += float(unit) ** 2 * float((folds - over) * low**2 + over * (low + 1) ** 2)
    return squares * (num_folds / total) ** 2 - num_folds


def lower_bound(profiles: Profiles, num_folds: int) -> float:
    """Return a lower bound on the objective of any assignment.

    The bound adds up one bound per column, from groups above the even share and from the
    granularity of the counts. No assignment may reach all columns' bounds at once.
    """
    columns = profiles.count_UX.tocsc()
    size_U = profiles.sizes
    bound = 0.0
    for column in range(columns.shape[1]):
        span = slice(columns.indptr[column], columns.indptr[column + 1])
        times = size_U[columns.indices[span]]
        if times.sum():
            bound += _column_bound(np.repeat(columns.data[span], times), num_folds)
    return max(bound, 0.0)


def _start(
    scaled_UX: Any, size_U: np.ndarray, norm_U: np.ndarray, num_folds: int, rng: np.random.Generator
) -> Any:
    """Return a greedy assignment: groups per profile and fold, U x K, and deviations, K x X.

    Each profile's groups are spread evenly over the folds. The groups left over follow, in order of
    decreasing `norm_U` with random ties, each to the fold where it raises the objective least.
    """
    rows = sparse.csr_array(scaled_UX)
    deal_UK = np.repeat((size_U // num_folds)[:, None], num_folds, axis=1)
    deviation_KX = np.tile(deal_UK[:, 0] @ scaled_UX - 1.0, (num_folds, 1))
    left = np.repeat(np.arange(len(size_U)), size_U % num_folds)
    left = left[np.lexsort((rng.random(len(size_U))[left], -norm_U[left]))]
    # The even part gives every fold the same groups, so either all folds are empty or none is.
    empty = [] if deal_UK.any() else list(range(num_folds))
    for step, profile in enumerate(left):
        span = slice(rows.indptr[profile], rows.indptr[profile + 1])
        index = rows.indices[span]
        value = rows.data[span]
        cost_K = deviation_KX[:, index] @ value
        # When only as many groups as empty folds are left, each goes to an empty fold.
        fold = (
            min(empty, key=cost_K.__getitem__)
            if len(empty) == len(left) - step
            else int(cost_K.argmin())
        )
        if fold in empty:
            empty.remove(fold)
        deal_UK[profile, fold] += 1
        deviation_KX[fold, index] += value
    return deal_UK, deviation_KX


def _candidates(deal_U: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return up to NUM_CANDIDATES profiles of which a fold has groups."""
    present = np.flatnonzero(deal_U)
    if len(present) <= NUM_CANDIDATES:
        return present
    return np.sort(rng.choice(present, NUM_CANDIDATES, replace=False))


def _exchange(
    scaled_UX: Any,
    norm_U: np.ndarray,
    deal_UK: np.ndarray,
    deviation_KX: np.ndarray,
    pair: Any,
    rng: Any,
) -> bool:
    """Make the best exchange between two folds in place; return False if none helps.

    One group of profile p moves from fold a to b and one of profile q from b to a. An exchange may
    also move a group in one direction only.
    """
    a, b = pair
    ps = _candidates(deal_UK[:, a], rng)
    qs = _candidates(deal_UK[:, b], rng)
    slope_X = deviation_KX[b] - deviation_KX[a]
    rows_p = scaled_UX[ps]
    rows_q = scaled_UX[qs]
    cross = rows_p @ rows_q.T
    # Half the change of the objective by each exchange. The last row and column stand for no group.
    change = np.zeros((len(ps) + 1, len(qs) + 1))
    change[:-1, :-1] = -2 * (cross.toarray() if sparse.issparse(cross) else cross)
    change[:-1] += (norm_U[ps] + rows_p @ slope_X)[:, None]
    change[:, :-1] += norm_U[qs] - rows_q @ slope_X
    # A fold with a single group may exchange it but not give it away.
    if deal_UK[:, a].sum() == 1:
        change[:-1, -1] = np.inf
    if deal_UK[:, b].sum() == 1:
        change[-1, :-1] = np.inf
    i, j = np.unravel_index(change.argmin(), change.shape)
    if change[i, j] > -EPSILON:
        return False
    for chosen, index, source, target in ((ps, i, a, b), (qs, j, b, a)):
        if index < len(chosen):
            row = scaled_UX[[chosen[index]]]
            row = (row.toarray() if sparse.issparse(row) else row)[0]
            deviation_KX[source] -= row
            deviation_KX[target] += row
            deal_UK[chosen[index], source] -= 1
            deal_UK[chosen[index], target] += 1
    return True


def deal(profiles: Profiles, num_folds: int, rng: np.random.Generator) -> np.ndarray:
    """Return the number of groups of each profile in each fold, U x K.

    Each start assigns groups greedily, largest first; then pairs of folds exchange groups as long
    as the objective falls. Small data get several starts, and the best one is returned. No fold is
    empty if there are at least as many groups as folds.
    """
    size_U = profiles.sizes
    bound = lower_bound(profiles, num_folds)
    # Counts are divided by the even share, so that rare classes weigh as much as frequent ones.
    share_X = np.asarray(profiles.count_UX.T @ size_U) / num_folds
    scaled_UX: Any = sparse.csr_array(profiles.count_UX.multiply(1 / share_X))
    norm_U = np.asarray(scaled_UX.multiply(scaled_UX).sum(axis=1)).ravel()
    num_profiles, num_columns = scaled_UX.shape
    if num_profiles * num_columns <= DENSE:
        scaled_UX = scaled_UX.toarray()
    pairs = list(itertools.combinations(range(num_folds), 2))
    best = np.inf
    best_UK = None
    for start in range(int(np.clip(STARTS_BUDGET // (num_profiles * num_folds), 1, MOST_STARTS))):
        # The first start orders groups by size; the others randomise the order.
        weight_U = norm_U * rng.exponential(size=num_profiles) if start else norm_U
        deal_UK, deviation_KX = _start(scaled_UX, size_U, weight_U, num_folds, rng)
        quiet = 0
        while quiet < PATIENCE and (deviation_KX**2).sum() > bound + EPSILON:
            moved = False
            for pair in rng.permutation(pairs):
                while _exchange(scaled_UX, norm_U, deal_UK, deviation_KX, pair, rng):
                    moved = True
            # If candidates are sampled, one round without an exchange does not prove there is none.
            quiet = 0 if moved else quiet + (1 if num_profiles > NUM_CANDIDATES else PATIENCE)
        value = float((deviation_KX**2).sum())
        if value < best - EPSILON:
            best = value
            best_UK = deal_UK
        if best <= bound + EPSILON:
            break
    assert best_UK is not None
    return best_UK
