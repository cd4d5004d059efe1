"""Description of how a run was made, for its report.

Imports no torch, as all of this package, so that --help and flag errors are fast.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foldblend.errors import listed
from foldblend.flags import flags_of
from foldblend.runs.info import RatesInfo
from foldblend.words import plural
from folds.data.demo import DEMO_NOTE
from folds.data.manifest import Manifest
from folds.split import SPLITTERS
from pipeline.config.labels import LabelsConfig
from pipeline.config.resolved import ResolvedConfig
from pipeline.config.run import RunConfig
from pipeline.config.train import FIND, TrainConfig

__all__ = ["describe_run"]


def _weights(train: TrainConfig, groups: str) -> str:
    if train.soup:
        of = _weights(dataclasses.replace(train, soup=False), groups)
        return f"mean weights of up to {train.seeds} seeds (a soup), each after {of}"
    if train.select != "last":
        rows = (
            f"a fifth of the training {groups}"
            if train.select == "inner"
            else "the scored rows themselves"
        )
        return (
            f"the best epoch of {train.epochs} on"
            f" {rows}{', EMA weights' if train.model_ema else ''}"
        )
    what = (
        "EMA"
        if train.model_ema
        else f"mean of the last {train.average_last} epochs'"
        if train.average_last
        else "last"
    )
    return f"{train.epochs} epoch{'s' * (train.epochs != 1)} (fixed), {what} weights"


def _rate(train: TrainConfig, folds: Sequence[dict[str, Any]], rates: RatesInfo) -> str:
    """Return the peak learning rate of the folds, and how it was decided."""
    if train.lr == FIND:
        found = [f"{fold['lr']:g}{'' if fold['lr_found'] else ' (auto)'}" for fold in folds]
        return f"{', '.join(found)} (--lr find)"
    return f"{train.peak_lr:g}" + (" (--lr auto)" if "lr" in rates.get("auto", []) else "")


def _how(
    config: ResolvedConfig, folds: Sequence[dict[str, Any]], groups: str, rates: RatesInfo
) -> str:
    train = config.train
    if not train.frozen:
        stages = "" if train.tuned.last_stages is None else f", the last {train.finetune} stages"
        decay = "" if train.layer_decay is None else f", layer decay {train.layer_decay:g}"
        depth = config.model.drop_path
        dropped = "" if depth is None else f", drop path {depth:g}"
        rate = _rate(train, folds, rates)
        return (
            f"{_weights(train, groups)}, {train.opt} {rate} {train.sched}{decay}{dropped}{stages}"
        )
    augmented = f", {train.feature_views} augmented copies" if train.feature_views else ""
    l2 = ", ".join(f"{fold['l2']:g}" for fold in folds)
    chosen = train.head_l2 == "auto" or "," in train.head_l2
    why = f" (chosen by log loss within each fold's training {groups})" if chosen else ""
    return f"frozen backbone, one linear head per fold{augmented}, L2 penalty {l2}{why}"


def _labels(config: LabelsConfig) -> list[str]:
    """Return whose labels a run has learned, if any."""
    if config.source is None:
        return []
    name = Path(config.source).name
    if config.teacher is not None:
        return [
            f"student of {name} (share {config.teacher_share:g}, temperature"
            f" {config.teacher_temperature:g})"
        ]
    return [f"pseudo-labels of {name} from {config.pseudo_threshold:g} on"]


def _processes(config: ResolvedConfig, folds: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return how many processes trained each fold together, if several did."""
    nums = sorted({fold.get("processes", 1) for fold in folds})
    if nums in ([], [1]):
        return []
    synced = ", synced batch norm" if config.machine.sync_bn else ""
    return [f"{listed(map(str, nums))} processes per fold{synced}"]


def _changed_options(config: ResolvedConfig) -> list[str]:
    """Return the options of training, loss and augmentation that differ from their default.

    Each is text such as "smoothing 0". Options that other words describe are left out.
    """
    changed = []
    known = flags_of(RunConfig)
    defaults = RunConfig()
    for group, default in (
        (config.train, defaults.train),
        (config.loss, defaults.loss),
        (config.augment, defaults.augment),
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
    rates: RatesInfo,
) -> tuple[str, list[str]]:
    """Return one sentence on how a run was made, and warnings for readers of its score.

    Parameters
    ----------
    config
        The run's settings.
    manifest
        The run's data.
    origin
        Where the initial weights come from.
    views
        Names of the views of test-time augmentation, identity included.
    folds
        The contents of each fold's done.json.
    rates
        What auto decided of the learning rate.

    Returns
    -------
    tuple[str, list[str]]
        `about` and `notes` of run.json.
    """
    model = config.model
    groups = plural(manifest.group_name)
    ordered = f" (ordered: {model.ordinal})" if model.ordinal else ""
    head = "" if model.head == "joint" else f" with one head per attribute{ordered}"
    parts = [f"{model.backbone}{head} at {model.img_size}", _how(config, folds, groups, rates)]
    if not config.train.frozen:
        parts += _changed_options(config)
    parts += _labels(config.labels)
    parts += _processes(config, folds)
    augmented = [view for view in views if view != "identity"]
    tta = f"TTA {' + '.join(views)}" if augmented else "no TTA"
    parts += [f"initial weights: {origin}", tta, f"data {manifest.name}"]
    parts += [f"seed {config.train.seed}", f"split seed {config.split.split_seed}"]
    notes = list(manifest.notes)
    if manifest.is_demo:
        notes.append(DEMO_NOTE)
    if SPLITTERS[config.split.split].leaks:
        notes.append(
            f"--split {config.split.split} leaks {groups} between folds: this score is probably too"
            " high"
        )
    if config.train.select == "best":
        notes.append(
            "OPTIMISTIC: each fold's epoch was chosen on the scored rows themselves (--select best)"
        )
    return ", ".join(parts), notes
