"""Pseudo-labels: classes of images that models are sure of, after calibration.

References
----------
Lee, D.-H. (2013). Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method for Deep
Neural Networks. ICML Workshop on Challenges in Representation Learning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from foldblend.scores.metrics import softmax
from foldblend.scores.temperature import best_temperature

__all__ = ["Judged", "calibrated", "judged"]


@dataclass(frozen=True, slots=True)
class Judged:
    """The most likely class of images, and whether it is used."""

    label_N: np.ndarray
    top_N: np.ndarray
    """Its calibrated probability."""
    used_N: np.ndarray
    """Whether that reaches the threshold."""


def judged(logits_NC: np.ndarray, temperature: float, threshold: float) -> Judged:
    """Return the most likely class of each image, used from a calibrated probability on.

    Examples
    --------
    >>> found = judged(np.array([[4.0, 0.0], [1.0, 0.0]]), temperature=2.0, threshold=0.8)
    >>> found.label_N.tolist(), found.top_N.round(2).tolist(), found.used_N.tolist()
    ([0, 0], [0.88, 0.62], [True, False])
    """
    proba_NC = softmax(logits_NC.astype(np.float64) / temperature)
    top_N = proba_NC.max(axis=1)
    return Judged(proba_NC.argmax(axis=1), top_N, top_N >= threshold)


def calibrated(logits_NC: np.ndarray, label_N: np.ndarray, *, threshold: float) -> dict[str, Any]:
    """Return the temperature of out-of-fold rows, and how often sure ones are right.

    The rows of the fold that learns are not among them. `num_sure` is the number of rows whose
    calibrated probability reaches the threshold, and `num_right` that of those whose class is
    right: what share of the pseudo-labels can be expected to be so.
    """
    temperature = float(best_temperature(logits_NC, label_N))
    one = judged(logits_NC, temperature, threshold)
    right_N = one.used_N & (one.label_N == label_N)
    return {
        "temperature": temperature,
        "num_sure": int(one.used_N.sum()),
        "num_right": int(right_N.sum()),
    }
