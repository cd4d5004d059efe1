"""Merging the logits of several views into one row of logits."""

from __future__ import annotations

import numpy as np

__all__ = ["mean_logit"]


def mean_logit(logits_VNC: np.ndarray) -> np.ndarray:
    """Return the mean over views, N x C float32.

    Its softmax is the normalised geometric mean of the views' probabilities: each view's
    log-normaliser shifts a whole row and so drops out. One view comes back bit for bit.
    """
    return logits_VNC.mean(axis=0, dtype=np.float64).astype(np.float32)
