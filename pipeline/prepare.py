"""Before the first fold: data read and checked, names looked up, weights loaded, settings decided."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from foldblend.cli import Say
from foldblend.errors import listed, require
from foldblend.plugins import is_custom, source_hash
from foldblend.runs.rows import check_metric
from folds.data.load import load_data
from folds.data.manifest import Manifest, slug
from folds.plan import plan_folds
from pipeline.checks import check_flags, check_recipe, explain, own_parts
from pipeline.config.run import RunConfig
from pipeline.config.settings import flatten, identity_hash, replace
from pipeline.data.cache import MEMORY_ONLY, known_keys
from pipeline.data.crop import faces_folder, with_crop
from pipeline.data.pictures import pictures_folder
from pipeline.data.preprocess import Preprocess
from pipeline.device import compile_pays, resolve_machine
from pipeline.models.attribute_head import AttributeJoin, make_join
from pipeline.models.backbones import build_model, check_backbone, check_forward, freeze, model_kwargs, preprocess_of
from pipeline.models.pretrained import HubUnreachableError, Weights, load_file, load_pretrained
from pipeline.training.optim import check_optimizer, check_schedule
from pipeline.watch.tracking import require_wandb
from tta.views.names import check_views, is_device_view, parse_views

__all__ = ["Prepared", "prepare"]

PROFILE: dict[str, Any] = {"epochs": 10, "batch_size": 32}
# A newcomer's first run must end while they watch; its score proves plumbing, not quality.
DEMO_PROFILE: dict[str, Any] = {"img_size": "96x128", "epochs": 4, "batch_size": 16}


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A run whose every setting is decided and whose inputs are known to be usable."""

    config: RunConfig
    manifest: Manifest
    views: tuple[str, ...]
    preprocess: Preprocess
    model_kwargs: dict[str, Any]
    weights: Weights | None
    join: AttributeJoin | None
    fold_RN: np.ndarray
    """The fold in which each training row is held out, one line a repeat."""
    run_key: dict[str, str]
    """Hashes that decide whether a run of the same name is this run."""

    @property
    def num_folds(self) -> int:
        return int(self.fold_RN.max()) + 1

    @property
    def num_models(self) -> int:
        """One a fold and repeat."""
        return self.num_folds * len(self.fold_RN)

    @property
    def origin(self) -> dict[str, str]:
        """Where the weights come from, and their licence."""
        if self.weights is None and is_custom(self.config.model.backbone):
            return {"source": self.config.model.backbone, "licence": "unknown"}
        return self.weights.origin if self.weights else {"source": "random", "licence": "none"}


def _load_weights(config: RunConfig, manifest: Manifest, kwargs: dict[str, Any], say: Say) -> Weights | None:
    if config.model.weights is not None:
        return load_file(config.model.weights)
    if config.model.pretrained == "none" or is_custom(config.model.backbone):  # yours loads its own
        return None
    try:
        return load_pretrained(config.model.backbone, **{k: v for k, v in kwargs.items() if k == "img_size"})
    except HubUnreachableError as error:
        if not manifest.is_demo:
            raise
        say(f"WARNING: {error}. This is the demo set, so the run goes on with RANDOM WEIGHTS: expect a poor score.")
        return None


def _apply_profile(config: RunConfig, manifest: Manifest, say: Say) -> RunConfig:
    """Return the settings with those that no flag gave taken from the profile."""
    given = flatten(config)
    chosen = {
        key: value for key, value in (DEMO_PROFILE if manifest.is_demo else PROFILE).items() if given[key] is None
    }
    if not manifest.is_demo:
        say(f"data: {manifest.root}")
    else:
        say(f"data: the embedded demo set ({manifest.root}); its scores prove plumbing, not quality")
        flags = " ".join(f"--{key.replace('_', '-')} {value}" for key, value in chosen.items())
        say(f"demo profile: {flags or 'none of it, flags say otherwise'}")
    return replace(config, **chosen)


def _threads_before(folder: Path) -> int | None:
    """Return the threads of the run that is to be continued: part of its record, and by default of its flags."""
    try:
        written = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    threads = written.get("threads") if isinstance(written, dict) else None
    return threads if isinstance(threads, int) else None


def _resolve(config: RunConfig, manifest: Manifest, size: str) -> RunConfig:
    """Return the settings with everything decided, as config.yaml keeps them.

    They are usable from any folder, but for your own parts, whose modules must be importable there.
    """
    given = flatten(config)
    paths = {
        key: given[key] and str(Path(given[key]).expanduser().resolve())
        for key in ("csv", "image_root", "test_csv", "weights", "fold_file", "corrections", "cache_dir")
    }
    root = None if config.data.csv else str(manifest.root)
    if config.data.dataset and config.data.data:  # your own reader's to understand
        root = str(Path(config.data.data).resolve()) if Path(config.data.data).exists() else config.data.data
    name = config.output.name or slug(f"{manifest.name}_{config.model.backbone}")
    if config.train.seeds > 1:
        name = f"{name}-seed{config.train.seed}"
    chosen = config.machine
    if config.train.finetune == "head":
        chosen = dataclasses.replace(chosen, parallel_folds="1")  # all heads are fitted at once
    if is_custom(config.augment.augment):
        chosen = dataclasses.replace(chosen, augment_on="cpu")  # where your own runs
    if chosen.threads is None and config.output.resume:
        chosen = dataclasses.replace(chosen, threads=_threads_before(Path(config.output.output) / name))
    machine = resolve_machine(chosen)
    batch_size = config.infer.validation_batch_size or (256 if machine["device"].startswith("cuda") else 64)
    return replace(
        config,
        **paths,
        data="demo" if manifest.is_demo else root,
        img_size=size,
        name=name,
        seeds=1,
        config=None,
        only_folds=None,
        resume=True,
        validation_batch_size=batch_size,
        **machine,
    )


def prepare(config: RunConfig, say: Say) -> Prepared:
    """Check names and data and decide every setting; nothing is written.

    Raises UserError for the first thing that the user must mend.
    """
    views = parse_views(config.infer.tta)
    drawn = [name for name in views if not is_device_view(name)]
    require(not drawn, f"--tta {listed(drawn)}: drawn views are for a finished run: python -m tta outputs/RUN --views")
    check_metric(config.output.metric)
    record = check_backbone(config.model.backbone)
    check_optimizer(config.train.opt)
    check_flags(config)
    if config.output.wandb:
        require_wandb()
    cache_dir, known = config.machine.cache_dir, frozenset[bytes]()
    if config.machine.cache != "off":
        known = known_keys(pictures_folder(cache_dir)) | known_keys(faces_folder(cache_dir))
    manifest, data_hash = load_data(config.data, say, known)
    keep = config.machine.cache not in MEMORY_ONLY
    model = config.model
    manifest, crop = with_crop(manifest, model.crop, share=model.crop_share, cache_dir=cache_dir, say=say, keep=keep)
    config = _apply_profile(config, manifest, say)
    for line in explain(config):
        say(line)
    preprocess = preprocess_of(config.model, record)
    check_views(views, width=preprocess.width, height=preprocess.height)
    config = _resolve(config, manifest, f"{preprocess.width}x{preprocess.height}")
    kwargs = model_kwargs(config.model, record, preprocess)
    weights = _load_weights(config, manifest, kwargs, say)
    join = make_join(manifest.attributes, config.model.ordinal) if config.model.head == "attributes" else None
    # What does not fit fails now, not in fold 0.
    trial = build_model(
        config.model.backbone, num_classes=manifest.num_classes, kwargs=kwargs, weights=weights, join=join
    )
    check_forward(trial, config.model.backbone, preprocess, num_classes=manifest.num_classes)
    check_recipe(config, preprocess, num_classes=manifest.num_classes)
    freeze(trial, config.train.finetune)
    check_schedule(trial, config.train)
    fold_RN = plan_folds(config.split, manifest, say)
    num_folds = int(fold_RN.max()) + 1
    epoch_steps = len(manifest.train) * (num_folds - 1) // num_folds // (config.train.batch_size or 1)
    compiles = compile_pays(config.machine, epoch_steps * (config.train.epochs or 0))
    config = replace(config, folds=num_folds, repeats=len(fold_RN), compile=compiles)
    run_key = {
        "configuration": identity_hash(config),
        "data": data_hash,
        "weights": weights.origin["source"] if weights else "random",
    }
    overlay = manifest.overlay_hash()
    if overlay is not None:
        run_key["corrected labels"] = overlay
    if crop is not None:
        run_key["crop"] = manifest.labels_hash()  # of the boxes, too
        manifest = dataclasses.replace(manifest, notes=(*manifest.notes, crop))
    own = source_hash(own_parts(config))
    if own is not None:
        run_key["own modules"] = own
    if config.split.fold_file is not None:  # by its content, wherever it lies
        run_key["fold file"] = hashlib.blake2b(fold_RN.tobytes(), digest_size=16).hexdigest()
    return Prepared(
        config=config,
        manifest=manifest,
        views=views,
        preprocess=preprocess,
        model_kwargs=kwargs,
        weights=weights,
        join=join,
        fold_RN=fold_RN,
        run_key=run_key,
    )
