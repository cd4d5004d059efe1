"""Adversarial validation: can a classifier tell training images from test images, and by what?

Where it can, a cross-validated score need not hold on the test set.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# here, for limits hold for what is loaded already
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from foldblend.scores.metrics import METRICS
from folds.kfold import codes_of, stratified_group_folds

__all__ = ["LEAST_ROWS", "Adversarial", "tell_apart"]

NUM_FOLDS = 5
LEAST_ROWS = 20
MOST_ROWS = 20_000
NUM_TRIES = 100
NUM_DRAWS = 19  # so that being above all of them has a chance of one in twenty


@dataclass(frozen=True, kw_only=True, slots=True)
class Adversarial:
    """How well two sets of images are told apart, out of fold."""

    auc: float
    """Area under the ROC curve; a guess has 0.5."""
    chance_D: np.ndarray
    """The AUC of as many training images, whole groups drawn at random, against the rest."""
    alone_S: np.ndarray
    """The AUC of each statistic alone; below 0.5 where the test set has the smaller values."""
    lost_S: np.ndarray
    """What the AUC loses where one statistic is shuffled between held-out rows."""

    @property
    def differs(self) -> bool:
        """Whether test images are told apart better than any of the draws (p = 0.05)."""
        return self.auc > self.chance_D.max()


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
    """Return out-of-fold scores, 1 x N; with `shuffled`, then those with each statistic shuffled,
    (1 + S) x N.
    """
    fold_N = stratified_group_folds(is_test_N, group_N, num_folds=NUM_FOLDS, seed=seed)
    rng = np.random.default_rng(seed)
    num_statistics = statistic_NS.shape[1] if shuffled else 0
    score_SN = np.zeros((1 + num_statistics, len(is_test_N)))
    for fold in range(NUM_FOLDS):
        held = fold_N == fold
        # Without class weights, which make its binning twenty times slower and leave the AUC as it
        # is.
        model = HistGradientBoostingClassifier(
            max_iter=60, max_leaf_nodes=8, early_stopping=False, random_state=seed
        ).fit(statistic_NS[~held], is_test_N[~held])
        score_SN[0, held] = model.decision_function(statistic_NS[held])
        for statistic in range(num_statistics):
            changed = statistic_NS[held].copy()
            changed[:, statistic] = rng.permutation(changed[:, statistic])
            score_SN[1 + statistic, held] = model.decision_function(changed)
    return score_SN


def _drawn_groups(code_N: np.ndarray, num_rows: int, rng: np.random.Generator) -> np.ndarray:
    """Return whether each row is drawn, N: whole groups at random, `num_rows` rows at most.

    None of rows, where no draw has a row in every fold and leaves groups for every fold.
    """
    size_G = np.bincount(code_N)
    for _ in range(NUM_TRIES):
        order = rng.permutation(len(size_G))
        num_drawn = int(np.searchsorted(np.cumsum(size_G[order]), num_rows, side="right"))
        drawn = order[:num_drawn]
        if size_G[drawn].sum() >= LEAST_ROWS // 2 and len(size_G) - num_drawn >= NUM_FOLDS:
            return np.isin(code_N, drawn).astype(np.int64)
    return np.zeros(0, np.int64)


@threadpool_limits.wrap(
    limits=1
)  # the trees' threads wait busily: on cores that others use, a hundred times slower
def tell_apart(
    statistic_NS: np.ndarray, is_test_N: np.ndarray, group_N: np.ndarray, *, seed: int = 0
) -> Adversarial | None:
    """Return how well boosted trees tell test rows (1) from training rows (0) of N x S statistics.

    Which test images are of one person is not known, so a few people can be told apart by
    themselves. The measure is therefore what as many training images, drawn by group and treated
    like test images, come to. `group_N` counts for training rows only. None where the groups are
    too few for that. Of more than 20,000 rows on a side, so many are taken at random. Source: Pan
    et al. 2020, "Adversarial validation approach to concept drift problem".
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
    single_N = len(code_N) + np.arange(len(code_N))
    score_SN = _scores(
        statistic_NS, is_test_N, np.where(is_train_N, code_N, single_N), seed, shuffled=True
    )
    auc = _auc(is_test_N, score_SN[0])
    inside_NS = statistic_NS[is_train_N]
    inside_N = code_N[is_train_N]
    num_drawn = min(int(is_test_N.sum()), len(inside_N) // 2)
    chance = []
    for _ in range(NUM_DRAWS):
        drawn_N = _drawn_groups(inside_N, num_drawn, rng)
        if not len(drawn_N):
            return None
        group_of_N = np.where(drawn_N == 1, single_N[: len(inside_N)], inside_N)
        chance.append(_auc(drawn_N, _scores(inside_NS, drawn_N, group_of_N, seed)[0]))
    assert np.isfinite(chance).all()
    return Adversarial(
        auc=auc,
        chance_D=np.array(chance),
        alone_S=np.array([_auc(is_test_N, column) for column in statistic_NS.T]),
        lost_S=np.array([auc - _auc(is_test_N, row) for row in score_SN[1:]]),
    )
