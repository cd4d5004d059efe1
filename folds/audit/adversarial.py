"""Adversarial validation: a classifier that separates training images from test images.

If it succeeds, the two sets differ, and the cross-validated score may not hold on the test set.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Imported at the top, because threadpool_limits only affects libraries that are already loaded.
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from foldblend.progress import track
from foldblend.scores.metrics import METRICS
from folds.kfold import codes_of, stratified_group_folds

__all__ = ["LEAST_ROWS", "Adversarial", "tell_apart"]

NUM_FOLDS = 5
LEAST_ROWS = 20
MOST_ROWS = 20_000
NUM_TRIES = 100
# With 19 draws, an AUC exceeds all of them by chance in one of twenty cases.
NUM_DRAWS = 19


@dataclass(frozen=True, kw_only=True, slots=True)
class Adversarial:
    """Result of adversarial validation; all AUCs are out of fold."""

    auc: float
    """Area under the ROC curve of the classifier; 0.5 is a random guess."""
    chance_T: np.ndarray
    """AUC by chance: T random draws of training groups against the rest of the training set."""
    single_S: np.ndarray
    """AUC of each single statistic; below 0.5 if it is smaller in the test set."""
    lost_S: np.ndarray
    """Loss of AUC when one statistic is shuffled between the held-out rows."""

    @property
    def differs(self) -> bool:
        """True if the AUC is above that of every random draw (p = 0.05)."""
        return self.auc > self.chance_T.max()


def _auc(is_test_N: np.ndarray, score_N: np.ndarray) -> float:
    return METRICS["roc_auc_ovr"].score(is_test_N, np.stack([-score_N, score_N], axis=1))


def _scores(
    statistic_NS: np.ndarray,
    is_test_N: np.ndarray,
    group_N: np.ndarray,
    seed: int,
    *,
    shuffled: bool = False,
) -> np.ndarray:
    """Return out-of-fold scores, 1 x N.

    With `shuffled`, S more rows follow: the scores with each statistic shuffled.
    """
    fold_N = stratified_group_folds(is_test_N, group_N, num_folds=NUM_FOLDS, seed=seed)
    rng = np.random.default_rng(seed)
    num_statistics = statistic_NS.shape[1] if shuffled else 0
    # X = 1 + S: the original rows, then each statistic shuffled.
    score_XN = np.zeros((1 + num_statistics, len(is_test_N)))
    for fold in range(NUM_FOLDS):
        held = fold_N == fold
        # No class weights: they make the binning twenty times slower and do not change the AUC.
        model = HistGradientBoostingClassifier(
            max_iter=60, max_leaf_nodes=8, early_stopping=False, random_state=seed
        ).fit(statistic_NS[~held], is_test_N[~held])
        score_XN[0, held] = model.decision_function(statistic_NS[held])
        for statistic in range(num_statistics):
            changed = statistic_NS[held].copy()
            changed[:, statistic] = rng.permutation(changed[:, statistic])
            score_XN[1 + statistic, held] = model.decision_function(changed)
    return score_XN


def _drawn_groups(code_N: np.ndarray, num_rows: int, rng: np.random.Generator) -> np.ndarray:
    """Return 1 for the rows of random groups, at most `num_rows`, and 0 for the others.

    The result is empty if no draw has enough rows and leaves enough groups for every fold.
    """
    size_G = np.bincount(code_N)
    for _ in range(NUM_TRIES):
        order = rng.permutation(len(size_G))
        num_drawn = int(np.searchsorted(np.cumsum(size_G[order]), num_rows, side="right"))
        drawn = order[:num_drawn]
        if size_G[drawn].sum() >= LEAST_ROWS // 2 and len(size_G) - num_drawn >= NUM_FOLDS:
            return np.isin(code_N, drawn).astype(np.int64)
    return np.zeros(0, np.int64)


# The trees' threads spin while they wait. On cores that other processes use, that is a hundred
# times slower than a single thread.
@threadpool_limits.wrap(limits=1)
def tell_apart(
    statistic_NS: np.ndarray, is_test_N: np.ndarray, group_N: np.ndarray, *, seed: int = 0
) -> Adversarial | None:
    """Return how well boosted trees separate test rows from training rows.

    The groups of test images are unknown, so a test set of few groups is separable merely because
    its images resemble each other. The AUC is therefore compared with that of random draws of
    training groups, which are treated like test images.

    Parameters
    ----------
    statistic_NS
        Statistics of each image, N x S.
    is_test_N
        1 for test rows, 0 for training rows.
    group_N
        Group of each row; only those of training rows are used.
    seed
        Seed of the folds, the draws and the trees.

    Returns
    -------
    Adversarial or None
        None if the training set has too few groups for the random draws. More than 20,000 rows on a
        side are sampled at random.

    References
    ----------
    Pan et al. 2020, "Adversarial validation approach to concept drift problem".
    """
    rng = np.random.default_rng(seed)
    kept = np.sort(
        np.concatenate(
            [rng.permutation(np.flatnonzero(is_test_N == side))[:MOST_ROWS] for side in (0, 1)]
        )
    )
    statistic_NS = statistic_NS[kept]
    is_test_N = is_test_N[kept]
    group_N = group_N[kept]
    is_train_N = is_test_N == 0
    assert min(is_train_N.sum(), is_test_N.sum()) >= LEAST_ROWS
    code_N = np.zeros(len(is_test_N), np.int64)
    code_N[is_train_N] = codes_of(group_N[is_train_N])
    # The groups of test images are unknown, so each test image gets a separate group.
    single_N = len(code_N) + np.arange(len(code_N))
    score_XN = _scores(
        statistic_NS, is_test_N, np.where(is_train_N, code_N, single_N), seed, shuffled=True
    )
    auc = _auc(is_test_N, score_XN[0])
    inside_NS = statistic_NS[is_train_N]
    inside_N = code_N[is_train_N]
    num_drawn = min(int(is_test_N.sum()), len(inside_N) // 2)
    chance = []
    for _ in track(range(NUM_DRAWS), "compare test and training images", unit="draws"):
        drawn_N = _drawn_groups(inside_N, num_drawn, rng)
        if not len(drawn_N):
            return None
        # Drawn rows are treated like test images: each is a separate group.
        group_of_N = np.where(drawn_N == 1, single_N[: len(inside_N)], inside_N)
        chance.append(_auc(drawn_N, _scores(inside_NS, drawn_N, group_of_N, seed)[0]))
    assert np.isfinite(chance).all()
    return Adversarial(
        auc=auc,
        chance_T=np.array(chance),
        single_S=np.array([_auc(is_test_N, column) for column in statistic_NS.T]),
        lost_S=np.array([auc - _auc(is_test_N, row) for row in score_XN[1:]]),
    )
