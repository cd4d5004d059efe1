"""Average the models of a repeated cross-validation, as a submission averages models.

Out-of-fold scores are those of single models. A submission holds the mean of several models, and
usually scores better. In a repeated cross-validation each image has a prediction of one model per
repeat, none of which was trained on it or on its group; so the score of their mean estimates what
the mean of so many models scores.
"""

from __future__ import annotations

import numpy as np

from foldblend.scores.rows import Rows

__all__ = ["over_repeats"]


def over_repeats(
    rows: Rows, values_NX: np.ndarray, image_N: np.ndarray | None = None
) -> tuple[Rows, np.ndarray] | None:
    """Return the rows of the first repeat, with the mean over repeats of their values.

    Parameters
    ----------
    rows
        Labels, groups and repeats of N rows.
    values_NX
        Logits or probabilities of the rows; X are the classes.
    image_N
        Image of each row. Without it, the images of every repeat must be in the same order.

    Returns
    -------
    (Rows, array) or None
        None for a single repeat, and where repeats differ in their images, labels or groups.

    Examples
    --------
    >>> rows = Rows.of(np.array([0, 1, 0, 1]), np.arange(4) % 2, repeat_N=np.array([0, 0, 1, 1]))
    >>> once, mean_NX = over_repeats(rows, np.array([[0.2], [0.4], [0.6], [0.8]]))
    >>> once.label_N.tolist(), mean_NX.round(3).tolist()
    ([0, 1], [[0.4], [0.6]])
    """
    repeats = np.unique(rows.repeat_N)
    if len(repeats) < 2:
        return None
    orders = [np.flatnonzero(rows.repeat_N == repeat) for repeat in repeats]
    if image_N is not None:
        orders = [order_N[np.argsort(image_N[order_N], kind="stable")] for order_N in orders]
    first_N = orders[0]
    told_apart = [rows.label_N, rows.group_N, *([] if image_N is None else [image_N])]
    for order_N in orders:
        if len(order_N) != len(first_N):
            return None
        if any((values[order_N] != values[first_N]).any() for values in told_apart):
            return None
    mean_NX = np.mean([values_NX[order_N] for order_N in orders], axis=0)
    return rows.take(first_N), mean_NX
