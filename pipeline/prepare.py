"""Preparation of a run: read and check the data, load weights, decide all settings."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from foldblend.cli import Say
from foldblend.flags import flags_of
from foldblend.images import Values
from foldblend.plugins import is_downloaded, load_custom, source_hash
from foldblend.sources import source_hashes
from folds.data.load import load_data
from folds.data.manifest import Manifest, slug
from folds.data.pixel_range import levels_asked
from folds.plan import plan_folds
from pipeline.as_started import as_started
from pipeline.checks import (
    check_flags,
    check_orders,
    check_recipe,
    check_score_by,
    explain,
)
from pipeline.config.identity import identity_hash
from pipeline.config.resolved import ResolvedConfig, resolved
from pipeline.config.run import RunConfig
from pipeline.config.settings import flatten, replace
from pipeline.config.trust import check_typed, own_parts
from pipeline.data.cache import MEMORY_ONLY
from pipeline.data.checked import checked_keys, keep_checked, keep_values, kept_values
from pipeline.data.crop import with_crop
from pipeline.engines.registry import TORCH
from pipeline.inference_engine import decide_engine
from pipeline.job import Prepared
from pipeline.labels.plan import plan_labels, with_folds_of
from pipeline.labels.source import check_images, find_source
from pipeline.levels import has_pixels_by_levels, levels_differ, levels_key, once
from pipeline.machine import decide_compile
from pipeline.models.backbones import (
    check_backbone,
    check_forward,
    freeze,
    preprocess_of,
)
from pipeline.models.elsewhere import description_hash
from pipeline.rates_of_run import Before, Rates, auto_again, keep_rates, with_rate
from pipeline.settings_of_run import settings_of_run
from pipeline.training.optim import check_optimizer, check_schedule
from pipeline.trial_model import build_trial
from pipeline.watch.tracking import require_wandb
from tta.views.names import check_views, parse_views

__all__ = ["prepare"]

PROFILE: dict[str, Any] = {"epochs": 10, "batch_size": 32}
# A first run should end within a minute or two. It only shows that everything runs; its scores mean
# nothing.
DEMO_PROFILE: dict[str, Any] = {"img_size": "96x128", "epochs": 4, "batch_size": 16}


def _apply_profile(config: RunConfig, manifest: Manifest, say: Say) -> RunConfig:
    """Return the settings, with defaults of the data set for those that no flag sets."""
    given = flatten(config)
    chosen = {
        key: value
        for key, value in (DEMO_PROFILE if manifest.is_demo else PROFILE).items()
        if given[key] is None
    }
    if not manifest.is_demo and not manifest.found:
        say(f"data: {manifest.root}")
    if manifest.is_demo:
        say(
            f"data: demo set with synthetic faces ({manifest.root}); it only shows that everything"
            " runs, its scores mean nothing"
        )
        flags = " ".join(f"--{key.replace('_', '-')} {value}" for key, value in chosen.items())
        say(f"demo settings: {flags or 'all set by flags'}")
    return replace(config, **chosen)


def _run_folder(config: RunConfig, manifest: Manifest) -> Path:
    """Return the run folder, which need not exist."""
    name = config.output.name or slug(f"{manifest.name}_{config.model.backbone}")
    return Path(config.output.output) / (
        f"{name}-seed{config.train.seed}" if config.train.num_runs > 1 else name
    )


def _resolved(
    config: RunConfig, manifest: Manifest, fold_RN: np.ndarray, rates: Rates
) -> ResolvedConfig:
    """Return the settings, with all decided, also those that depend on the folds and the model."""
    num_folds = int(fold_RN.max()) + 1
    config = resolved(config, folds=num_folds, repeats=len(fold_RN), **rates.settings)
    epoch_steps = manifest.num_training_rows(num_folds) // config.train.batch_size
    # All folds count, in whichever processes: later ones use what the first one has compiled.
    num_steps = epoch_steps * config.train.epochs * num_folds * len(fold_RN)
    return resolved(config, compile=decide_compile(config.machine, num_steps))


def _continued(config: RunConfig, before: Before, say: Say) -> RunConfig:
    """Return the settings with which an existing run is continued; those given for a new one."""
    return keep_rates(as_started(auto_again(config, before, say), before.written), before)


def _sources(config: RunConfig) -> dict[str, dict[str, str]]:
    """Return the hashes of the source of each part that is not built in, for run.json."""
    return {
        name: (
            {"config.json": description_hash(name)}
            if is_downloaded(name)
            else source_hashes(name, load_custom(name, name))
        )
        for _, name in own_parts(config)
    }


def prepare(config: RunConfig, say: Say, *, is_made: bool = False) -> Prepared:
    """Check names and data, and decide all settings, without writing to the run folder.

    A run that `is_made` by an earlier version may have settings that a new run may not have.
    Raises UserError for the first problem that the user must fix.
    """
    check_typed(config)
    record = check_backbone(config.model.backbone)
    check_optimizer(config.train.opt)
    check_flags(config)
    # Models that are there predict further views, for which nothing is learned.
    giver = None if is_made else find_source(config.labels)
    if giver is not None:
        config = with_folds_of(giver, config, say)
    if config.output.wandb:
        require_wandb()
    cache_dir = config.machine.cache_dir
    known = frozenset[bytes]()
    remembered: dict[bytes, Values] = {}
    if config.machine.cache != "off":
        known = checked_keys(cache_dir)
        remembered = kept_values(cache_dir)
    told = once(say)
    if config.output.resume and config.output.name is not None and config.train.num_runs == 1:
        before = Before.of(Path(config.output.output) / config.output.name)
        config = _continued(config, before, told)
    load = functools.partial(
        load_data,
        known=known,
        fold_file=config.split.fold_file,
        remembered=remembered,
        unlabelled=None if giver is None else config.labels.images,
    )
    manifest, data_hash = load(config.data, told)
    keep = config.machine.cache not in MEMORY_ONLY
    if keep:
        keep_checked(manifest.tables, cache_dir)
        keep_values(remembered, cache_dir)
    folder = _run_folder(config, manifest)
    # Without --name, the name of the run follows from data and backbone and is known only now.
    before = Before.of(folder) if config.output.resume else Before()
    written = before.written
    asked_data = config.data
    config = _continued(config, before, told)
    if levels_differ(asked_data, config.data):
        if has_pixels_by_levels(manifest):
            say("The run keeps its treatment of values of more than 8 bits and of transparency.")
            manifest, data_hash = load(config.data, told)
        else:
            manifest = dataclasses.replace(manifest, levels=levels_asked(config.data))
    if not is_made:
        check_orders(config, manifest, written)
        check_score_by(config, manifest)
    model = config.model
    manifest, crop = with_crop(
        manifest, model.crop, share=model.crop_share, cache_dir=cache_dir, say=say, keep=keep
    )
    config = _apply_profile(config, manifest, say)
    preprocess = preprocess_of(config.model, record, manifest.levels)
    views = parse_views(config.infer.tta)
    check_views(views, width=preprocess.width, height=preprocess.height)
    undecided = settings_of_run(
        config, manifest, f"{preprocess.width}x{preprocess.height}", folder.name
    )
    if giver is not None:
        check_images(giver, manifest, config.labels.source_flag)
    fold_RN = plan_folds(undecided.split, manifest, say)
    num_rows = manifest.num_training_rows(int(fold_RN.max()) + 1)
    trial = build_trial(
        undecided, manifest, record, preprocess, num_rows=num_rows, before=before, say=say
    )
    decided = _resolved(undecided, manifest, fold_RN, trial.rates)
    for line in explain(decided):
        say(line)
    backbone = decided.model.backbone
    num_classes = manifest.num_classes
    check_forward(trial.model, backbone, preprocess, num_classes=num_classes)
    check_recipe(decided, preprocess, num_classes=num_classes)
    freeze(trial.model, decided.train.tuned)
    check_schedule(trial.model, with_rate(decided, trial.rates.record).train, say)
    made = Prepared(
        config=decided,
        manifest=manifest,
        views=views,
        preprocess=preprocess,
        model_kwargs=trial.kwargs,
        weights=trial.weights,
        join=trial.join,
        fold_RN=fold_RN,
        run_key={},
        rates=trial.rates.record,
    )
    asked = decided.infer.infer_engine
    # A run whose engine was not to be had is made by torch; the same command goes on with it.
    is_by_torch = written.get("infer_engine") == TORCH and asked not in ("auto", TORCH)
    if not (is_made or config.output.dry_run) and (not written or is_by_torch):
        decided = decide_engine(made, trial.model, say)
    run_key = {
        "configuration": identity_hash(decided),
        "data": data_hash,
        "weights": trial.weights.origin["source"] if trial.weights else "random",
    }
    overlay = manifest.overlay_hash()
    if overlay is not None:
        run_key["corrected labels"] = overlay
    train_only = manifest.train_only_hash()
    if train_only is not None:
        run_key["images for training only"] = train_only
    run_key |= levels_key(manifest)
    if crop is not None:
        run_key["crop"] = manifest.labels_hash()  # includes the boxes
        manifest = dataclasses.replace(manifest, notes=(*manifest.notes, crop))
    # The data have a hash of their own.
    flags = flags_of(RunConfig)
    own = source_hash(name for setting, name in own_parts(decided) if flags[setting].identity)
    if own is not None:
        run_key["own modules"] = own
    if is_downloaded(backbone):
        run_key["backbone"] = description_hash(backbone)
    if decided.train.soup:
        run_key["seeds of the soup"] = str(decided.train.num_ingredients)
    labels = None
    if giver is not None:
        labels = plan_labels(giver, decided, manifest, fold_RN, folder, say)
        run_key["labels"] = labels.key
    # The fold file counts by its content, not by its path.
    if decided.split.fold_file is not None:
        run_key["fold file"] = hashlib.blake2b(fold_RN.tobytes(), digest_size=16).hexdigest()
    return dataclasses.replace(
        made,
        config=decided,
        manifest=manifest,
        run_key=run_key,
        labels=labels,
        engine_is_new=asked == "auto" and not config.output.dry_run,
        sources=_sources(decided),
    )
