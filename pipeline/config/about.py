"""What a report says of how its run was made. No torch here."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from foldblend.flags import flags_of
from folds.data.manifest import Manifest
from folds.split import SPLITTERS
from pipeline.config.resolved import ResolvedConfig
from pipeline.config.run import RunConfig
from pipeline.config.train import TrainConfig

__all__ = ["describe_run"]


def _weights(train: TrainConfig) -> str:
    if train.select != "last":
        rows = (
            "a fifth of the training groups"
            if train.select == "inner"
            else "the rows that are scored"
        )
        return (
            f"the best epoch of {train.epochs} on"
            f" {rows}{', EMA weights' if train.model_ema else ''}"
        )
    what = (
        "EMA"
        if train.model_ema
        else f"mean of the last {train.average_last}"
        if train.average_last
        else "last"
    )
    return f"{train.epochs} epochs (fixed), {what} weights"


def _how(train: TrainConfig, folds: Sequence[dict[str, Any]]) -> str:
    if not train.frozen:
        stages = "" if train.tuned.last_stages is None else f", the last {train.finetune} stages"
        return f"{_weights(train)}, {train.opt} {train.lr:g} {train.sched}{stages}"
    augmented = f", {train.feature_views} augmented copies" if train.feature_views else ""
    l2 = ", ".join(f"{fold['l2']:g}" for fold in folds)
    chosen = train.head_l2 == "auto" or "," in train.head_l2
    why = " (chosen by log loss within each fold's training groups)" if chosen else ""
    return f"frozen, a linear head a fold{augmented}, L2 {l2}{why}"


def _levers(config: ResolvedConfig) -> list[str]:
    """Return "smoothing 0" and the like: what of training, loss and augmentation is not as it is by
    default.
    """
    changed = []
    known = flags_of(RunConfig)
    plain = RunConfig()
    for group, default in (
        (config.train, plain.train),
        (config.loss, plain.loss),
        (config.augment, plain.augment),
    ):
        for item in dataclasses.fields(group):
            value = getattr(group, item.name)
            if not known[item.name].worded and value != getattr(default, item.name):
                changed.append(f"{item.name.replace('_', '-')} {value}")
    return changed


def describe_run(
    config: ResolvedConfig,
    manifest: Manifest,
    *,
    origin: str,
    views: Sequence[str],
    folds: Sequence[dict[str, Any]],
) -> tuple[str, list[str]]:
    """Return one sentence on how a run was made, and what a reader of its score must know.

    `origin` is where the weights come from, `folds` are the folds' done.json.
    """
    model = config.model
    ordered = f" ({model.ordinal} in order)" if model.ordinal else ""
    head = "" if model.head == "joint" else f" with a head an attribute{ordered}"
    parts = [f"{model.backbone}{head} at {model.img_size}", _how(config.train, folds)]
    if not config.train.frozen:
        parts += _levers(config)
    parts += [f"weights from {origin}", f"views {' + '.join(views)}", f"data {manifest.name}"]
    parts += [f"seed {config.train.seed}", f"split seed {config.split.split_seed}"]
    notes = list(manifest.notes)
    if manifest.is_demo:
        notes.append(
            "the embedded demo set of drawn faces: this score proves plumbing, not quality"
        )
    if SPLITTERS[config.split.split].leaks:
        notes.append(
            f"--split {config.split.split} leaks groups between folds: this score is not honest"
        )
    if config.train.select == "best":
        notes.append(
            "OPTIMISTIC: each fold's epoch was chosen on the very rows that are scored (--select"
            " best)"
        )
    return ", ".join(parts), notes
