"""Estimate by how much the best of several scores is too high because it was chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from foldblend.scores.bootstrap import group_resamples
from foldblend.scores.metrics import Metric
from foldblend.scores.rows import Rows
from foldblend.scores.score import left_out_score

__all__ = ["Optimism", "optimism_of_choice", "selection_optimism"]

NUM_AGAIN = 20  # bootstrap samples in which the estimate is repeated


class Optimism(NamedTuple):
    """By how much a score is expected to be too high, and the standard error of this estimate.

    It is the mean over data sets like this one; the optimism of a single choice varies more. Where
    it cannot be estimated, it is NaN with an infinite error.
    """

    value: float
    error: float

    @property
    def is_known(self) -> bool:
        """Return whether it could be estimated."""
        return bool(np.isfinite(self.error))

    def as_dict(self) -> dict[str, float | None]:
        """Return it for JSON, with None for both numbers if it is not known."""
        return {name: float(one) if self.is_known else None for name, one in self._asdict().items()}


def optimism_of_choice(noise_MB: np.ndarray, picked_B: np.ndarray, chosen: int) -> float:
    """Return the mean optimism of a choice that is made again in each bootstrap sample.

    Parameters
    ----------
    noise_MB
        The scores of M predictions in B samples, minus their scores on all groups.
    picked_B
        The place that is chosen in each sample.
    chosen
        The place that is chosen on all groups. How much its score drifts is subtracted, which
        removes the effect of resampling itself.

    References
    ----------
    Efron 1983, "Estimating the error rate of a prediction rule: improvement on cross-validation".

    Examples
    --------
    >>> optimism_of_choice(np.array([[0.02, -0.02], [-0.01, 0.01]]), np.array([0, 1]), 0)
    0.015
    """
    drift_B = noise_MB[picked_B, np.arange(len(picked_B))] - noise_MB[chosen]
    return float(drift_B.mean())


def selection_optimism(metric: Metric, rows: Rows, proba_MNC: Sequence[np.ndarray]) -> Optimism:
    """Return by how much the score of the best of M configurations on these rows is too high.

    The groups that score the configurations also choose among them. Each bootstrap sample of groups
    repeats the choice, and the optimism is how much higher the choice scores there than on all
    groups (Efron 1983). Scores in the samples are linear approximations from the scores without
    each group. Observed leads are larger than true ones, as errors widen them, so the samples have
    leads whose square is smaller by that of the standard error.

    Parameters
    ----------
    metric
        The score; a metric by group pools the images of each group first.
    rows
        Labels, groups, repeats and folds of the rows.
    proba_MNC
        Class probabilities N x C of each configuration on these rows.

    Returns
    -------
    Optimism
        In units of the metric, at least 0; greater is more optimistic for every metric. It is 0 for
        one configuration. It is not known with fewer than two groups, or without a finite score.

    Examples
    --------
    >>> from foldblend.scores.metrics import METRICS
    >>> rows = Rows.of(np.arange(100) % 2, np.arange(100))
    >>> rng = np.random.default_rng(0)
    >>> guesses = [rng.dirichlet([1, 1], 100) for _ in range(20)]
    >>> best = max(METRICS["accuracy"].score(rows.label_N, proba_NC) for proba_NC in guesses)
    >>> optimism = selection_optimism(METRICS["accuracy"], rows, guesses)
    >>> best, round(best - optimism.value, 2)
    (0.61, 0.55)
    """
    if len(proba_MNC) < 2:
        return Optimism(0.0, 0.0)
    rows = rows.coded()
    every = [left_out_score(metric, rows, proba_NC) for proba_NC in proba_MNC]
    scores = [score for score in every if np.isfinite(score.value)]
    if not scores or any(np.isfinite(score.left_out_G).sum() < 2 for score in scores):
        return Optimism(np.nan, np.inf)
    value_M = np.array([score.value for score in scores])
    noise_MB = _noise(np.stack([score.left_out_G for score in scores]))
    again = [_expected_optimism(value_M + noise_M, noise_MB) for noise_M in noise_MB.T[:NUM_AGAIN]]
    return Optimism(_expected_optimism(value_M, noise_MB), float(np.std(again, ddof=1)))


def _noise(left_out_MG: np.ndarray) -> np.ndarray:
    """Return the scores in bootstrap samples minus those on all groups, M x B.

    They are means of the groups' jackknife influences, so that no score is computed again.
    """
    num_groups = left_out_MG.shape[1]
    mean_M = np.nanmean(left_out_MG, axis=1, keepdims=True)
    # A group without which the score is not defined gets no influence.
    influence_MG = np.nan_to_num((num_groups - 1) * (mean_M - left_out_MG))
    return np.concatenate(
        [influence_MG @ draw_BG.T / num_groups for draw_BG in group_resamples(num_groups, 0)],
        axis=1,
    )


def _expected_optimism(value_M: np.ndarray, noise_MB: np.ndarray) -> float:
    """Return the mean optimism of choosing the best configuration."""
    best = int(value_M.argmax())
    lead_M = value_M[best] - value_M
    error_M = (noise_MB[best] - noise_MB).std(axis=1)
    # The mean of a squared observed lead is the squared true lead plus the squared error.
    true_lead_M = np.sqrt(np.maximum(lead_M**2 - error_M**2, 0.0))
    picked_B = (noise_MB - true_lead_M[:, None]).argmax(axis=0)
    return optimism_of_choice(noise_MB, picked_B, best)
