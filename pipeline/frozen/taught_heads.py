"""Linear heads of folds whose labels come in part from the models of another run.

What an image is labelled as differs from fold to fold, so that each fold is fitted apart.

Letters of array names in this module: N rows, X principal axes, C classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from foldblend.errors import UserError
from pipeline.frozen.axes import own_scales
from pipeline.frozen.choose_l2 import choose_l2
from pipeline.frozen.fold_heads import FoldHeads, TrainingRows, penalties_of
from pipeline.frozen.linear_heads import Head, fit_heads
from pipeline.job import FoldJob
from pipeline.labels.rows import further_rows, kept_of_fold, shares_of

__all__ = ["fit_taught"]

# Least share of a class that a teacher deems possible. Intercepts, which have no penalty, would go
# to minus infinity for a share of 0.
LEAST = 1e-4


def _targets(job: FoldJob, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return, for each image, whether a fold learns it, its class, and its shares of classes."""
    run = job.run
    manifest = run.manifest
    found = kept_of_fold(job, index)
    chosen_N = manifest.learns(~run.is_held_out(index)) & (manifest.label_to_learn >= 0)
    own_N = np.flatnonzero(chosen_N)
    label_N = manifest.label_to_learn.copy()
    share_NC = np.zeros((len(label_N), manifest.num_classes))
    share_NC[own_N, label_N[own_N]] = 1
    assert run.labels is not None
    if run.labels.is_teacher:
        ids = manifest.labelled["image_id"].to_numpy()[own_N]
        share_NC[own_N] = shares_of(run, found, ids.tolist(), label_N[own_N])
    if manifest.unlabelled is None:
        return chosen_N, label_N, share_NC
    extra, extra_NC = further_rows(run, found)
    every = manifest.unlabelled["image_id"]
    at_N = every.isin(extra["image_id"]).to_numpy()
    # Both are in the order of the table.
    assert every[at_N].tolist() == extra["image_id"].tolist()
    more_N = np.zeros(len(every), np.int64)
    more_N[at_N] = extra["label"]
    more_NC = np.zeros((len(every), manifest.num_classes))
    more_NC[at_N] = extra_NC
    return (
        np.concatenate([chosen_N, at_N]),
        np.concatenate([label_N, more_N]),
        np.concatenate([share_NC, more_NC]),
    )


def _head(job: FoldJob, rows: TrainingRows, index: int) -> tuple[Head, float, np.ndarray]:
    """Return the head of a fold, its L2 penalty and the inner log losses of all penalties."""
    run = job.run
    chosen_N, label_N, share_NC = _targets(job, index)
    used_N = chosen_N[rows.place_N]
    if not used_N.any():
        raise UserError("--finetune head: a fold has no image to train on; pass fewer --folds")
    place_N = rows.place_N[used_N]
    rows_NX = rows.rows_NX[used_N]
    weight_ZN = np.full((1, len(rows_NX)), 1 / rows.num_each)
    common: dict[str, Any] = {
        "num_classes": run.manifest.num_classes,
        "variance_X": rows.axes.variance_X,
        "device": job.compute.device,
    }
    assert run.labels is not None
    if run.labels.is_teacher:
        taught_NC = np.maximum(share_NC[place_N], LEAST)
        common["share_NC"] = taught_NC / taught_NC.sum(axis=1, keepdims=True)
    own_N = label_N[place_N]
    l2_Z, loss_ZP = choose_l2(
        rows_NX,
        own_N,
        rows.group_N[used_N],
        weight_ZN,
        penalties_of(run),
        seed=run.config.split.split_seed,
        group_name=run.manifest.group_name,
        # What models have labelled is no measure of a penalty.
        scored_N=place_N < len(run.manifest.labelled),
        **common,
    )
    head = fit_heads(rows_NX, own_N, weight_ZN, l2_Z * own_scales(rows_NX, weight_ZN), **common)
    return head, float(l2_Z[0]), loss_ZP


def fit_taught(job: FoldJob, rows: TrainingRows, repeat: int) -> FoldHeads:
    """Fit the heads of all folds of a repeat on the labels that are kept for each of them.

    Raises UserError if a fold has no image, its labels are gone, or a head cannot be fitted.
    """
    num_folds = job.run.num_folds
    found = [_head(job, rows, repeat * num_folds + fold) for fold in range(num_folds)]
    heads = Head(
        np.concatenate([head.weight_ZXC for head, _, _ in found]),
        np.concatenate([head.bias_ZC for head, _, _ in found]),
    )
    l2_Z = np.array([l2 for _, l2, _ in found])
    return FoldHeads(rows.axes, heads, l2_Z, np.concatenate([loss_ZP for *_, loss_ZP in found]))
