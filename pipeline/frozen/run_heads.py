"""Cross-validation with a frozen backbone and a linear head per fold."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import safetensors.torch
import torch

from foldblend.errors import UserError
from foldblend.failures import check_room
from foldblend.files import write_bytes
from foldblend.runs.folder import check_there, file_hash, write_json, write_table
from foldblend.scores.metrics import METRICS, softmax
from pipeline.config.settings import flatten
from pipeline.config.train import parse_l2
from pipeline.fold_files import fold_record, start_fold, write_fold
from pipeline.frozen.axes import own_scales, principal_axes
from pipeline.frozen.choose_l2 import choose_l2
from pipeline.frozen.features import Backbone, Features
from pipeline.frozen.linear_heads import Head, fit_heads
from pipeline.job import TrainingJob
from pipeline.predict.compare import keep_reference, looks_of, rows_of_fold
from pipeline.predict.reference import make_reference
from pipeline.watch.tracking import attribute_scores, open_trackers, tracking_id
from tta.merge import mean_logit

__all__ = ["run_heads"]

# L2 penalties (1 / C of scikit-learn) for rows of mean squared length 1. The range covers what
# data sets with few and with many groups need.
PENALTIES = (1.0, 0.3, 0.1, 0.03)


@dataclass(frozen=True)
class _Rows:
    """Training rows of the heads: one per training image and view or augmented copy."""

    features_ND: np.ndarray
    label_N: np.ndarray
    group_N: np.ndarray
    place_N: np.ndarray
    """Row of the manifest's labelled images that each row comes from."""
    num_each: int
    """Number of views and copies of each image."""


def _training_rows(job: TrainingJob, views_VND: Sequence[np.ndarray], features: Features) -> _Rows:
    labelled = job.run.manifest.labelled
    copies = [
        features.of(labelled, "identity", copy=copy)
        for copy in range(job.run.config.train.feature_views)
    ]
    label_N = job.run.manifest.label_to_learn
    num_each = len(views_VND) + len(copies)
    # A negative label marks an image that is left out of training.
    place_N = np.tile(np.flatnonzero(label_N >= 0), num_each)
    return _Rows(
        features_ND=np.concatenate([one[label_N >= 0] for one in (*views_VND, *copies)]),
        label_N=label_N[place_N],
        group_N=labelled["group"].to_numpy()[place_N],
        place_N=place_N,
        num_each=num_each,
    )


def run_heads(job: TrainingJob, todo: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Fit and score the heads of all folds and return the done.json of each.

    All folds of a repeat are fitted together, including finished ones, so that a continued run has
    exactly the logits of an uninterrupted one.

    Parameters
    ----------
    job
        The job that all folds share.
    todo
        Numbers of the folds (models) to write.

    Returns
    -------
    dict
        {fold number: done.json}.

    Raises
    ------
    UserError
        If the backbone does not end in one linear layer, or a head cannot be fitted.
    """
    start = time.perf_counter()
    backbone = Backbone(job)
    check_room(job.folder, sum(one.nbytes for one in backbone.state.values()))
    features = Features(job, backbone)
    labelled = job.run.manifest.labelled
    test = job.run.manifest.test
    all_VND = [features.of(labelled, view) for view in job.run.views]
    train_VND = [one[: len(job.run.manifest.train)] for one in all_VND]
    test_VND = [] if test is None else [features.of(test, view) for view in job.run.views]
    rows = _training_rows(job, all_VND, features)
    seconds = time.perf_counter() - start
    num_images = (len(labelled) + (0 if test is None else len(test))) * len(job.run.views)
    num_images += job.run.config.train.feature_views * len(labelled)
    kept = (
        f", {num_images - features.num_computed:,} of them from the cache"
        if features.num_computed < num_images
        else ""
    )
    job.say(f"features: {num_images:,} x {backbone.num_features} in {seconds:.1f} s{kept}")
    axes = principal_axes(rows.features_ND)
    rows_NX = axes.of(rows.features_ND)
    check_there(job.folder)
    write_bytes(job.folder / "backbone.safetensors", safetensors.torch.save(backbone.state))
    done: dict[int, dict[str, Any]] = {}
    num_folds = job.run.num_folds
    shared = (time.perf_counter() - start) / len(todo)
    for repeat, fold_N in enumerate(job.run.fold_RN):
        wanted = [index for index in todo if job.place(index)[0] == repeat]
        if not wanted:
            continue
        start = time.perf_counter()
        heads, l2_K, loss_KP = _fit(job, rows, rows_NX, axes.variance_X, fold_N)
        for index in wanted:
            fold = index % num_folds
            held = fold_N == fold
            weight_DC = axes.turn_DX @ heads.weight_ZXC[fold]
            bias_C = heads.bias_ZC[fold] - axes.mean_D @ weight_DC
            held_VNC = _logits([one[held] for one in train_VND], weight_DC, bias_C)
            test_VNC = _logits(test_VND, weight_DC, bias_C) if test_VND else None
            start_fold(job, index)
            log = pd.DataFrame({"l2": _penalties(job), "inner_log_loss": loss_KP[fold]})
            write_table(job.folder / f"fold_{index}" / "log.csv", log)
            parts = {"weight": weight_DC.T, "bias": bias_C}
            files = write_fold(
                job,
                index,
                state={
                    # In float64, as the logits are computed, so that they can be made again.
                    f"{backbone.head_name}.{name}": torch.from_numpy(np.ascontiguousarray(part))
                    for name, part in parts.items()
                },
                held_VNC=held_VNC,
                test_VNC=test_VNC,
                shared=("backbone.safetensors",),
            )
            done[index] = _done(job, index, files, held, held_VNC, float(l2_K[fold]))
            _track(job, index, held, held_VNC, done[index]["score"])
            if job.spec is not None:
                done[index]["engine"] = features.engine
        each = shared + (time.perf_counter() - start) / len(wanted)
        if 0 in wanted:
            # Without its images the run goes on; the end of it says what is missing.
            with contextlib.suppress(UserError, OSError):
                _keep_reference(job, train_VND[0], fold_N)
        for index in wanted:
            done[index] |= {"seconds": each, "infer_images_per_s": features.images_per_s}
            check_there(job.folder)
            write_json(job.folder / f"fold_{index}" / "done.json", done[index])
            job.say_done(index, done[index])
    return done


def _keep_reference(job: TrainingJob, features_ND: np.ndarray, fold_N: np.ndarray) -> None:
    """Keep what new images are compared with; the features are there, so it takes no pass."""
    table = job.run.manifest.train
    train_N, held_N = rows_of_fold(fold_N, table["group"].to_numpy())
    images = job.feeder.source.of(table)
    looks_N3 = looks_of(images, table["path"].tolist(), train_N.tolist())
    reference = make_reference(features_ND[train_N], features_ND[held_N], looks_N3)
    check_there(job.folder)
    of = file_hash(job.folder / "fold_0" / "best.safetensors")
    keep_reference(job.folder, of, reference)


def _logits(
    views_VND: Sequence[np.ndarray], weight_DC: np.ndarray, bias_C: np.ndarray
) -> np.ndarray:
    return np.stack([one.astype(np.float64) @ weight_DC + bias_C for one in views_VND]).astype(
        np.float32
    )


def _penalties(job: TrainingJob) -> tuple[float, ...]:
    return parse_l2(job.run.config.train.head_l2) or PENALTIES


def _fit(
    job: TrainingJob, rows: _Rows, rows_NX: np.ndarray, variance_X: np.ndarray, fold_N: np.ndarray
) -> tuple[Head, np.ndarray, np.ndarray]:
    """Return the heads, chosen L2 penalties and inner log losses of all folds of a repeat."""
    num_folds = job.run.num_folds
    weight_KN = (
        np.stack(
            [job.run.manifest.learns(fold_N != fold)[rows.place_N] for fold in range(num_folds)]
        )
        / rows.num_each
    )
    if not (weight_KN > 0).any(axis=1).all():
        raise UserError("--finetune head: a fold has no image to train on; pass fewer --folds")
    common: Any = {
        "num_classes": job.run.manifest.num_classes,
        "variance_X": variance_X,
        "device": job.compute.device,
    }
    seed = job.run.config.split.split_seed
    l2_K, loss_KP = choose_l2(
        rows_NX,
        rows.label_N,
        rows.group_N,
        weight_KN,
        _penalties(job),
        seed=seed,
        group_name=job.run.manifest.group_name,
        **common,
    )
    own_l2_K = l2_K * own_scales(rows_NX, weight_KN)
    return fit_heads(rows_NX, rows.label_N, weight_KN, own_l2_K, **common), l2_K, loss_KP


def _track(
    job: TrainingJob, index: int, held_N: np.ndarray, held_VNC: np.ndarray, score: float | None
) -> None:
    """Log the scores of a fold to TensorBoard and W&B, with the tags of a fold that is trained."""
    metric = job.run.config.output.metric
    label_N = job.run.manifest.train["label"].to_numpy()[held_N]
    proba_NC = softmax(mean_logit(held_VNC))
    main = float("nan") if score is None else score
    with open_trackers(
        job.folder / f"fold_{index}",
        run_name=job.folder.name,
        fold_title=f"fold_{index}",
        run_id=tracking_id(job.folder.name, job.fold_key, index),
        use_wandb=job.run.config.output.wandb,
        purge_step=0,
        say=job.say,
    ) as trackers:
        values = {
            "val/f1_macro": METRICS["f1_macro"].score(label_N, proba_NC),
            f"val/{metric}": main,
            **attribute_scores(label_N, proba_NC, job.run.manifest.attributes),
        }
        trackers.scalars(values, 0)
        trackers.hparams(flatten(job.run.config), {metric: main})


def _done(
    job: TrainingJob,
    index: int,
    files: dict[str, str],
    held_N: np.ndarray,
    held_VNC: np.ndarray,
    l2: float,
) -> dict[str, Any]:
    metric = METRICS[job.run.config.output.metric]
    score = metric.score(
        job.run.manifest.train["label"].to_numpy()[held_N], softmax(mean_logit(held_VNC))
    )
    return {**fold_record(job, index, files, score), "l2": l2}
