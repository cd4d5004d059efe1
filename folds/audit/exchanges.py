"""Search for swapped labels: two images of a group that have each other's label.

The out-of-fold predictions of a group do not depend on its labels. So the search can measure on the
data how many exchanged labels it finds, and how many right labels it takes for exchanged ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from folds.kfold import codes_of, rows_by_code

__all__ = ["Swaps", "find_swaps"]

# The search must find this share of the test cases.
LEAST_RECALL = 0.5
# Largest share of the reported pairs that may be expected by chance, and a number that always may.
# They are low because images of a group can be difficult together, which the estimate ignores: in
# drawn data without swaps, up to three times as many pairs as expected were above the threshold.
MOST_BY_CHANCE = 0.1
ALWAYS_BY_CHANCE = 0.25
MOST_TRIALS = 1000
TRIALS_A_GROUP = 10
NUM_THRESHOLDS = 11
# The number of shuffles is smaller for large data.
LEAST_SHUFFLES = 10
MOST_SHUFFLES = 100
MOST_VALUES = 30_000_000
# If nearly all misfits are in likely pairs, the others are too few to estimate chance.
MOST_IN_PAIRS = 2 / 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Swaps:
    """Pairs of images that seem to have each other's label, and how far to trust the search."""

    pairs: np.ndarray
    """Two rows of a group for each reported pair, U x 2, the most likely pair first."""
    num_likely: int
    """Number of pairs above the threshold; none is reported if chance can explain them."""
    expected: float
    """Number of pairs above the threshold that is expected by chance if all labels are right."""
    recall: float
    """Share of test cases (exchanged labels) that the search finds; NaN if there are none."""
    num_trials: int
    """Number of test cases."""

    @property
    def finds_enough(self) -> bool:
        """True if the search finds enough of the test cases."""
        return self.recall >= LEAST_RECALL

    @property
    def beats_chance(self) -> bool:
        """True if few of the pairs above the threshold are expected by chance."""
        return self.expected <= max(ALWAYS_BY_CHANCE, MOST_BY_CHANCE * self.num_likely)

    @property
    def is_usable(self) -> bool:
        """True if the search can be trusted on these images, whether it found pairs or not."""
        return self.finds_enough and self.beats_chance


@dataclass(frozen=True, slots=True)
class _Cells:
    """Rows sorted by group and label; a cell is the rows of one label in one group.

    X counts cells, and U pairs of cells of one group.
    """

    order_N: np.ndarray
    start_X: np.ndarray
    label_X: np.ndarray
    first_U: np.ndarray
    second_U: np.ndarray
    group_U: np.ndarray

    @classmethod
    def of(cls, label_N: np.ndarray, code_N: np.ndarray) -> _Cells:
        order_N = np.lexsort((label_N, code_N))
        is_new = (np.diff(code_N[order_N]) != 0) | (np.diff(label_N[order_N]) != 0)
        start_X = np.append(0, np.flatnonzero(is_new) + 1)
        group_X = code_N[order_N][start_X]
        pairs = [
            cells[np.column_stack(np.triu_indices(len(cells), 1))]
            for cells in rows_by_code(group_X)
        ]
        first_U, second_U = np.concatenate(pairs).T
        label_X = label_N[order_N][start_X]
        return cls(order_N, start_X, label_X, first_U, second_U, group_X[first_U])

    def best_row(self, cell: int, better_N: np.ndarray) -> int:
        """Return the row of a cell with the highest value."""
        stop = self.start_X[cell + 1] if cell + 1 < len(self.start_X) else len(self.order_N)
        rows = self.order_N[self.start_X[cell] : stop]
        return int(rows[better_N[rows].argmax()])


def _better(log_proba_NC: np.ndarray, label_N: np.ndarray) -> np.ndarray:
    """Return how much more likely each class is than the label, as a log-ratio, N x C."""
    own_N = log_proba_NC[np.arange(len(label_N)), label_N]
    # The log-probability of a class that was never trained on is -inf, and such a class is no
    # evidence for a swap: all differences with it become -inf.
    with np.errstate(invalid="ignore"):
        better_NC = np.nan_to_num(
            log_proba_NC - own_N[:, None], nan=-np.inf, posinf=-np.inf, neginf=-np.inf
        )
    return np.asarray(better_NC)


def _best_pairs(better_NC: np.ndarray, cells: _Cells) -> tuple[np.ndarray, np.ndarray]:
    """Return the pair of each group that fits each other's label best, U x 2, and its gain.

    The gain is the sum of the log-ratios of both images, which must both be positive. The pair with
    the highest gain comes first.
    """
    best_XC = np.maximum.reduceat(better_NC[cells.order_N], cells.start_X, axis=0)
    one_U = best_XC[cells.first_U, cells.label_X[cells.second_U]]
    other_U = best_XC[cells.second_U, cells.label_X[cells.first_U]]
    gain_U = one_U + other_U
    likely = np.flatnonzero((one_U > 0) & (other_U > 0))
    likely = likely[np.argsort(-gain_U[likely], kind="stable")]
    _, first = np.unique(cells.group_U[likely], return_index=True)
    chosen = likely[np.sort(first)]
    pairs = []
    for one, other in zip(cells.first_U[chosen], cells.second_U[chosen], strict=True):
        first_row = cells.best_row(one, better_NC[:, cells.label_X[other]])
        second_row = cells.best_row(other, better_NC[:, cells.label_X[one]])
        pairs.append(sorted((first_row, second_row)))
    return np.array(pairs, np.int64).reshape(-1, 2), gain_U[chosen]


def _trial_gains(
    log_proba_NC: np.ndarray, label_N: np.ndarray, code_N: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Return the gain of each of T test cases, or -inf where the search prefers another pair.

    In a test case, the labels of two random images of a group are exchanged.
    """
    rows_of = [rows for rows in rows_by_code(code_N) if len(np.unique(label_N[rows])) > 1]
    rows_of = [rows_of[index] for index in rng.permutation(len(rows_of))]
    gains = []
    for number in range(min(MOST_TRIALS, TRIALS_A_GROUP * len(rows_of))):
        rows = rows_of[number % len(rows_of)]
        label_of = label_N[rows]
        one = rng.integers(len(rows))
        other = rng.choice(np.flatnonzero(label_of != label_of[one]))
        exchanged = label_of.copy()
        exchanged[[one, other]] = label_of[[other, one]]
        cells = _Cells.of(exchanged, np.zeros(len(rows), np.int64))
        pairs, gain_U = _best_pairs(_better(log_proba_NC[rows], exchanged), cells)
        is_found = len(pairs) and pairs[0].tolist() == sorted((one, other))
        gains.append(float(gain_U[0]) if is_found else -np.inf)
    return np.array(gains)


def _mean_of_label(better_NC: np.ndarray, label_N: np.ndarray) -> np.ndarray:
    """Return the mean of the finite log-ratios of each row's label, N x C."""
    is_finite_NC = np.isfinite(better_NC)
    code_N = codes_of(label_N)
    mean_EC = np.zeros((code_N.max() + 1, better_NC.shape[1]))
    count_EC = np.zeros_like(mean_EC)
    np.add.at(mean_EC, code_N, np.where(is_finite_NC, better_NC, 0))
    np.add.at(count_EC, code_N, is_finite_NC)
    return np.asarray((mean_EC / np.maximum(count_EC, 1))[code_N])


def _expected_by_chance(
    better_NC: np.ndarray,
    label_N: np.ndarray,
    code_N: np.ndarray,
    least_T: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return how many pairs are expected above each of T thresholds if all labels are right.

    The images of each label are shuffled between the groups. This keeps the errors of the
    classifier, and separates the two images of a real swap.
    """
    cells = _Cells.of(label_N, code_N)
    pairs, gain_U = _best_pairs(better_NC, cells)
    likely_N = np.full(len(label_N), -np.inf)
    likely_N[pairs] = gain_U[:, None]
    is_likely_NT = likely_N[:, None] > least_T
    mean_NC = _mean_of_label(better_NC, label_N)
    # Features are relative to the mean of a group's n images, so the errors of two of its images
    # have a correlation of 1 / (n - 1), which shuffled images lack. Wider deviations from the mean
    # give their sum the same variance.
    size_N = np.bincount(code_N)[code_N]
    wider_N = np.sqrt(size_N / np.maximum(size_N - 1, 1))
    rows_of = rows_by_code(codes_of(label_N))
    num_shuffles = int(np.clip(MOST_VALUES // better_NC.size, LEAST_SHUFFLES, MOST_SHUFFLES))
    neither_T = np.zeros(len(least_T))
    not_both_T = np.zeros(len(least_T))
    for _ in range(num_shuffles):
        source_N = np.empty(len(label_N), np.int64)
        for rows in rows_of:
            source_N[rows] = rng.permutation(rows)
        shuffled_NC = mean_NC + wider_N[:, None] * (better_NC[source_N] - mean_NC)
        pairs, gain_U = _best_pairs(shuffled_NC, cells)
        is_above_UT = gain_U[:, None] > least_T
        one_UT, other_UT = is_likely_NT[source_N[pairs.T]]
        neither_T += (is_above_UT & ~(one_UT | other_UT)).sum(axis=0)
        not_both_T += (is_above_UT & ~(one_UT & other_UT)).sum(axis=0)
    # Half of a real swap also fits the errors of other images, which is not chance. So pairs with
    # an image of a likely pair are left out, and the rest is scaled up: of the images that fit
    # another label better, a share of 1 - `share_T` is left for each half of a pair.
    occurs_GC = np.zeros((code_N.max() + 1, better_NC.shape[1]), bool)
    occurs_GC[code_N, label_N] = True
    is_misfit_N = ((better_NC > 0) & occurs_GC[code_N]).any(axis=1)
    share_T = is_likely_NT[is_misfit_N].sum(axis=0) / max(is_misfit_N.sum(), 1)
    scaled_T = neither_T / np.maximum(1 - share_T, 1 - MOST_IN_PAIRS) ** 2
    return np.where(share_T <= MOST_IN_PAIRS, scaled_T, not_both_T) / num_shuffles


def find_swaps(
    log_proba_NC: np.ndarray, label_N: np.ndarray, group_N: np.ndarray, *, seed: int = 0
) -> Swaps:
    """Return pairs of images of a group that seem to have each other's label.

    To measure the recall, labels of random pairs are exchanged. To measure false alarms, images are
    shuffled between groups. Nothing is reported if too few test cases are found, or if chance
    explains too many of the likely pairs.

    Parameters
    ----------
    log_proba_NC
        Out-of-fold log-probabilities of N images and C classes.
    label_N, group_N
        Label and group of each image.
    seed
        Seed of the test cases and of the shuffles.
    """
    code_N = codes_of(group_N)
    none = np.empty((0, 2), np.int64)
    rng = np.random.default_rng(seed)
    trial_T = _trial_gains(log_proba_NC, label_N, code_N, rng)
    if not len(trial_T):
        return Swaps(pairs=none, num_likely=0, expected=0.0, recall=np.nan, num_trials=0)
    better_NC = _better(log_proba_NC, label_N)
    pairs, gain_U = _best_pairs(better_NC, _Cells.of(label_N, code_N))
    # Half the median gain of test cases lies midway between no evidence and a typical swap. Above
    # the median, the search finds less than half of them.
    least_T = max(float(np.median(trial_T)), 0.0) * np.linspace(0.5, 1, NUM_THRESHOLDS)
    expected_T = _expected_by_chance(better_NC, label_N, code_N, least_T, rng)
    results = [
        Swaps(
            pairs=pairs[gain_U > least],
            num_likely=int((gain_U > least).sum()),
            expected=float(expected),
            recall=float((trial_T > least).mean()),
            num_trials=len(trial_T),
        )
        for least, expected in zip(least_T, expected_T, strict=True)
    ]
    # The lowest usable threshold finds the most.
    best = next((one for one in results if one.is_usable), results[0])
    return best if best.is_usable else replace(best, pairs=none)
