"""Choice of the L2 penalty of linear heads by inner cross-validation.

Letters of array names in this module: N rows, X principal axes, Z problems (see
`pipeline.frozen.linear_heads`), P L2 penalties to choose from, U pairs of a problem and an inner
fold.
"""

from __future__ import annotations

import numpy as np
import torch

from foldblend.errors import UserError
from folds.kfold import codes_of, stratified_group_folds
from pipeline.frozen.axes import own_scales
from pipeline.frozen.linear_heads import ROUGH, fit_heads

__all__ = ["choose_l2"]

# Inner folds that choose the L2 penalty.
NUM_INNER = 3
# Rows on which the penalty is chosen. Losses are sums over rows, so that a penalty means the same
# for any number of rows; with so many, the losses of neighbouring penalties hardly differ.
MOST_ROWS = 2**17
# Groups that have the rows at least, whatever their size: problems leave out those of a fold.
LEAST_GROUPS = 50


def choose_l2(
    rows_NX: np.ndarray,
    label_N: np.ndarray,
    group_N: np.ndarray,
    weight_ZN: np.ndarray,
    penalties: tuple[float, ...],
    *,
    seed: int,
    num_classes: int,
    variance_X: np.ndarray,
    device: torch.device | None = None,
    group_name: str = "group",
    share_NC: np.ndarray | None = None,
    scored_N: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Choose the L2 penalty of each problem by cross-validation within its own rows.

    The groups of a problem are split into three inner folds, and the penalty with the least
    held-out log loss is chosen. A single penalty is returned without a fit. Of more than MOST_ROWS
    rows, the penalty is chosen on those of some groups, drawn at random.

    Parameters
    ----------
    rows_NX, variance_X
        Rows and variances in the axes of `principal_axes`.
    label_N, group_N
        Class and group of each row.
    weight_ZN
        Row weights of each problem; rows of weight 0 are not used.
    penalties
        P penalties to choose from, in units of `own_scales`, so that rows outside a problem do not
        influence it.
    seed
        Seed of the inner folds.
    num_classes
        Number of classes.
    device
        Where to compute.
    group_name
        What a group is, in the singular.
    share_NC
        Shares of classes that the rows learn; None: each learns its label.
    scored_N
        Which rows may be held out and scored; the others are always trained on. None: all.

    Returns
    -------
    tuple
        The best penalty of each problem (Z) and the inner log losses (Z x P; NaN for a single
        penalty).

    Raises
    ------
    UserError
        If a problem has fewer than two groups.
    """
    if len(penalties) == 1:
        return np.full(len(weight_ZN), penalties[0]), np.full((len(weight_ZN), 1), np.nan)
    if len(rows_NX) > MOST_ROWS:
        some_N = _rows_of_some_groups(group_N, scored_N, seed)
        rows_NX = rows_NX[some_N]
        label_N = label_N[some_N]
        group_N = group_N[some_N]
        weight_ZN = weight_ZN[:, some_N]
        share_NC = None if share_NC is None else share_NC[some_N]
        scored_N = None if scored_N is None else scored_N[some_N]
    inner_ZN = np.full(weight_ZN.shape, -1)
    for problem, weight_N in enumerate(weight_ZN):
        used = weight_N > 0 if scored_N is None else (weight_N > 0) & scored_N
        folds = min(NUM_INNER, len(np.unique(group_N[used])))
        if folds < 2:
            raise UserError(
                f"--finetune head: a fold trains on a single {group_name}, so no L2 penalty can be"
                " chosen; pass one value to --head-l2, or fewer --folds"
            )
        inner_ZN[problem, used] = stratified_group_folds(
            label_N[used], group_N[used], num_folds=folds, seed=seed
        )
    parts = [
        (problem, inner)
        for problem in range(len(weight_ZN))
        for inner in range(int(inner_ZN[problem].max()) + 1)
    ]
    train_UN = np.stack(
        [weight_ZN[problem] * (inner_ZN[problem] != inner) for problem, inner in parts]
    )
    loss_ZP = np.zeros((len(weight_ZN), len(penalties)))
    scale_U = own_scales(rows_NX, weight_ZN)[[problem for problem, _ in parts]]
    heads = None
    # From the largest penalty down, each fit starts from the solution of the one before.
    for penalty in sorted(penalties, reverse=True):
        heads = fit_heads(
            rows_NX,
            label_N,
            train_UN,
            penalty * scale_U,
            num_classes=num_classes,
            variance_X=variance_X,
            tolerance=ROUGH,
            start=heads,
            device=device,
            share_NC=share_NC,
        )
        column = penalties.index(penalty)
        for part, (problem, inner) in enumerate(parts):
            held = inner_ZN[problem] == inner
            logits = heads.logits(rows_NX[held], part)
            if share_NC is None:
                own = logits[np.arange(len(logits)), label_N[held]]
            else:
                own = (logits * share_NC[held]).sum(axis=1)
            loss = np.logaddexp.reduce(logits, axis=1) - own
            loss_ZP[problem, column] += (loss * weight_ZN[problem, held]).sum() / weight_ZN[
                problem
            ].sum()
    return np.asarray(penalties)[loss_ZP.argmin(axis=1)], loss_ZP


def _rows_of_some_groups(group_N: np.ndarray, scored_N: np.ndarray | None, seed: int) -> np.ndarray:
    """Return which rows are of groups that are drawn at random until they have MOST_ROWS rows.

    Groups with rows that are scored have the same share of the rows as without a draw. Of these and
    of the others there are LEAST_GROUPS or more, so that no problem is left with one group.
    """
    code_N = codes_of(group_N)
    size_G = np.bincount(code_N)
    order_G = np.random.default_rng(seed).permutation(len(size_G))
    is_scored_G = np.ones(len(size_G), bool)
    if scored_N is not None:
        is_scored_G = np.bincount(code_N, scored_N) > 0
    is_drawn_G = np.zeros(len(size_G), bool)
    for are_scored in (True, False):
        these = order_G[is_scored_G[order_G] == are_scored]
        num_rows = np.cumsum(size_G[these])
        most = MOST_ROWS * size_G[these].sum() / len(code_N)
        num = int(np.searchsorted(num_rows, most, side="right"))
        is_drawn_G[these[: max(num, LEAST_GROUPS)]] = True
    return is_drawn_G[code_N]
