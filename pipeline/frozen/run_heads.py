"""Cross-validation with a frozen backbone and a linear head per fold."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
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
from pipeline.fold_files import fold_record, start_fold, write_fold
from pipeline.frozen.features import Backbone, Features
from pipeline.frozen.fold_heads import fit_folds, logits_of, penalties_of, training_rows
from pipeline.frozen.taught_heads import fit_taught
from pipeline.job import TrainingJob
from pipeline.predict.compare import keep_reference, looks_of, rows_of_fold
from pipeline.predict.reference import make_reference
from pipeline.watch.tracking import attribute_scores, open_trackers, tracking_id
from tta.merge import mean_logit

__all__ = ["run_heads"]


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
    rows = training_rows(job.run, all_VND, features)
    seconds = time.perf_counter() - start
    num_images = (len(labelled) + (0 if test is None else len(test))) * len(job.run.views)
    num_images += job.run.config.train.feature_views * len(labelled)
    kept = (
        f", {num_images - features.num_computed:,} of them from the cache"
        if features.num_computed < num_images
        else ""
    )
    job.say(f"features: {num_images:,} x {backbone.num_features} in {seconds:.1f} s{kept}")
    check_there(job.folder)
    write_bytes(job.folder / "backbone.safetensors", safetensors.torch.save(backbone.state))
    done: dict[int, dict[str, Any]] = {}
    num_folds = job.run.num_folds
    shared = (time.perf_counter() - start) / len(todo)
    for repeat, fold_N in enumerate(job.run.fold_RN):
        wanted = [index for index in todo if job.run.place(index)[0] == repeat]
        if not wanted:
            continue
        start = time.perf_counter()
        trains_KN = [fold_N != fold for fold in range(num_folds)]
        if job.run.labels is None:
            fitted = fit_folds(job.run, rows, trains_KN, device=job.compute.device)
        else:
            fitted = fit_taught(job, rows, repeat)
        for index in wanted:
            fold = index % num_folds
            held = fold_N == fold
            weight_DC, bias_C = fitted.linear(fold)
            held_VNC = logits_of([one[held] for one in train_VND], weight_DC, bias_C)
            test_VNC = logits_of(test_VND, weight_DC, bias_C) if test_VND else None
            start_fold(job, index)
            log = pd.DataFrame(
                {"l2": penalties_of(job.run), "inner_log_loss": fitted.loss_ZP[fold]}
            )
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
            done[index] = _done(job, index, files, held, held_VNC, float(fitted.l2_Z[fold]))
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
