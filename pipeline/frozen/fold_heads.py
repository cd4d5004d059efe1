"""Linear heads of the folds of a run, from training rows of features; nothing is written.

Letters of array names in this module: N rows, D features, X principal axes (at most D), Z problems
(see `pipeline.frozen.linear_heads`), P L2 penalties, V views.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from foldblend.errors import UserError
from pipeline.config.train import parse_l2
from pipeline.frozen.axes import Axes, blocks, own_scales, principal_axes
from pipeline.frozen.choose_l2 import choose_l2
from pipeline.frozen.features import Features
from pipeline.frozen.linear_heads import Head, fit_heads
from pipeline.job import Prepared

__all__ = ["FoldHeads", "TrainingRows", "fit_folds", "logits_of", "penalties_of", "training_rows"]

# L2 penalties (1 / C of scikit-learn) for rows of mean squared length 1. The range covers what
# data sets with few and with many groups need.
PENALTIES = (1.0, 0.3, 0.1, 0.03)


@dataclass(frozen=True)
class TrainingRows:
    """Training rows of the heads: one per training image and view or augmented copy."""

    rows_NX: np.ndarray
    """Features in principal axes, float64."""
    axes: Axes
    label_N: np.ndarray
    group_N: np.ndarray
    place_N: np.ndarray
    """Row of the manifest's labelled images, then of those without labels, of each row."""
    num_each: int
    """Number of views and copies of each image."""


@dataclass(frozen=True)
class FoldHeads:
    """The fitted heads of some problems."""

    axes: Axes
    heads: Head
    l2_Z: np.ndarray
    """L2 penalty of each problem."""
    loss_ZP: np.ndarray
    """Inner log losses of the penalties; NaN for a single penalty."""

    def linear(self, problem: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a problem's weights D x C and biases C, which apply to features."""
        weight_DC = self.axes.turn_DX @ self.heads.weight_ZXC[problem]
        return weight_DC, self.heads.bias_ZC[problem] - self.axes.mean_D @ weight_DC


def training_rows(
    run: Prepared, views_VND: Sequence[np.ndarray], features: Features
) -> TrainingRows:
    """Return the training rows of a run's heads, with its augmented copies.

    Parameters
    ----------
    run
        The prepared run.
    views_VND
        Features of the labelled images in each view of the run.
    features
        Gives the features of augmented copies.
    """
    labelled = run.manifest.labelled
    copies = range(run.config.train.feature_views)
    label_N = run.manifest.label_to_learn
    group_N = labelled["group"].to_numpy()
    parts = [*views_VND, *(features.of(labelled, "identity", copy=copy) for copy in copies)]
    further = run.manifest.unlabelled
    if further is not None:
        # What these are labelled as differs from fold to fold (see pipeline.frozen.taught_heads).
        label_N = np.concatenate([label_N, np.zeros(len(further), np.int64)])
        group_N = np.concatenate([group_N, further["group"].to_numpy()])
        more = [
            *(features.of(further, view) for view in run.views),
            *(features.of(further, "identity", copy=copy) for copy in copies),
        ]
        parts = [np.concatenate(pair) for pair in zip(parts, more, strict=True)]
    num_each = len(parts)
    # A negative label marks an image that is left out of training.
    learns_N = label_N >= 0
    place_N = np.tile(np.flatnonzero(learns_N), num_each)
    if not learns_N.all():
        parts = [one[learns_N] for one in parts]
    features_ND = parts[0] if num_each == 1 else np.concatenate(parts)
    axes = principal_axes(features_ND)
    return TrainingRows(
        rows_NX=axes.of(features_ND),
        axes=axes,
        label_N=label_N[place_N],
        group_N=group_N[place_N],
        place_N=place_N,
        num_each=num_each,
    )


def penalties_of(run: Prepared) -> tuple[float, ...]:
    """Return the L2 penalties that each fold of a run chooses from."""
    return parse_l2(run.config.train.head_l2) or PENALTIES


def fit_folds(
    run: Prepared,
    rows: TrainingRows,
    trains_ZN: Sequence[np.ndarray],
    *,
    device: torch.device | None,
) -> FoldHeads:
    """Fit heads on different parts of the training images, such as all folds but one.

    Parameters
    ----------
    run
        The prepared run, with the L2 penalty.
    rows
        Its training rows.
    trains_ZN
        For each problem, which images of the manifest's `train` it trains on.
    device
        Where to compute; None: the CPU.

    Raises
    ------
    UserError
        If a problem has no image, or a head cannot be fitted.
    """
    weight_ZN = (
        np.stack([run.manifest.learns(chosen_N)[rows.place_N] for chosen_N in trains_ZN])
        / rows.num_each
    )
    if not (weight_ZN > 0).any(axis=1).all():
        raise UserError("--finetune head: a fold has no image to train on; pass fewer --folds")
    common: Any = {
        "num_classes": run.manifest.num_classes,
        "variance_X": rows.axes.variance_X,
        "device": device,
    }
    l2_Z, loss_ZP = choose_l2(
        rows.rows_NX,
        rows.label_N,
        rows.group_N,
        weight_ZN,
        penalties_of(run),
        seed=run.config.split.split_seed,
        group_name=run.manifest.group_name,
        **common,
    )
    own_l2_Z = l2_Z * own_scales(rows.rows_NX, weight_ZN)
    heads = fit_heads(rows.rows_NX, rows.label_N, weight_ZN, own_l2_Z, **common)
    return FoldHeads(rows.axes, heads, l2_Z, loss_ZP)


def logits_of(
    views_VND: Sequence[np.ndarray], weight_DC: np.ndarray, bias_C: np.ndarray
) -> np.ndarray:
    """Return the logits V x N x C, float32, of a linear head on features of each view."""
    num_rows = len(views_VND[0])
    found_VNC = np.empty((len(views_VND), num_rows, len(bias_C)), np.float32)
    for found_NC, one_ND in zip(found_VNC, views_VND, strict=True):
        for at in blocks(num_rows):
            found_NC[at] = one_ND[at].astype(np.float64) @ weight_DC + bias_C
    return found_VNC
