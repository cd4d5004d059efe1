"""All folds of a run: from settings to a run folder with out-of-fold and test logits."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from tqdm import tqdm

from folds.errors import BadImage, UserError, did_you_mean, listed
from folds.images import check_images
from folds.manifest import Manifest
from folds.source import load_manifest
from folds.split import SPLITTERS, assign_folds, rare_classes
from pipeline.config import RunConfig
from pipeline.device import compute_of, resolve_machine
from pipeline.environment import describe_environment
from pipeline.fold import FoldJob, finished_fold, run_fold
from pipeline.model import build_model, check_backbone, model_kwargs, preprocess_of
from pipeline.optim import check_optimizer
from pipeline.reporting import check_rows_once, mean_over_folds, write_report, write_submission
from pipeline.settings import changed_keys, flatten, identity_hash, replace
from pipeline.store import (
    FORMAT,
    Run,
    file_hash,
    lock_folder,
    logit_columns,
    read_json,
    read_table,
    sweep,
    write_bytes,
    write_json,
    write_table,
)
from pipeline.weights import HubUnreachableError, Weights, load_file, load_pretrained
from reports.metrics import METRICS
from tta.views import parse_views

__all__ = ["cross_validate"]

EPOCHS = 10
# A newcomer's first run must end while they watch; its score proves plumbing, not quality.
DEMO_PROFILE = {"img_size": "96x128", "epochs": 4}
Say = Callable[[str], None]


def _load_data(config: RunConfig, say: Say) -> tuple[Manifest, str]:
    """Return the manifest, its unreadable pictures dealt with, and the hash of labels and pixels."""
    source = dataclasses.asdict(config.data)
    skip = source.pop("on_bad_image") == "skip"
    manifest = load_manifest(**source, skip_missing=skip)
    for warning in manifest.warnings:
        say(f"warning: {warning}")
    results = check_images(manifest.train["path"])
    bad = [result for result in results if isinstance(result, BadImage)]
    if bad and not skip:
        more = f" ({len(bad) - 1} more like it)" if len(bad) > 1 else ""
        raise UserError(f"{bad[0]}{more}")
    if bad:
        say(f"warning: skipped {len(bad)} unreadable pictures: {listed(bad)}")
        good = [not isinstance(result, BadImage) for result in results]
        manifest = dataclasses.replace(manifest, train=manifest.train[good].reset_index(drop=True))
    test_results = [] if manifest.test is None else check_images(manifest.test["path"])
    for result in test_results:
        if isinstance(result, BadImage):  # never skipped: a submission needs every row
            raise UserError(str(result).replace(" or pass --on-bad-image skip", ""))
    digest = hashlib.blake2b(manifest.labels_hash().encode(), digest_size=16)
    for result in [*results, *test_results]:
        digest.update(str(result).encode() if not isinstance(result, BadImage) else b"")
    return manifest, digest.hexdigest()


def _load_weights(config: RunConfig, manifest: Manifest, kwargs: dict[str, Any], say: Say) -> Weights | None:
    if config.model.weights is not None:
        return load_file(config.model.weights)
    if config.model.pretrained == "none":
        return None
    try:
        return load_pretrained(config.model.backbone, **{k: v for k, v in kwargs.items() if k == "img_size"})
    except HubUnreachableError as error:
        if not manifest.is_demo:
            raise
        say(f"WARNING: {error}. This is the demo set, so the run goes on with RANDOM WEIGHTS: expect a poor score.")
        return None


def _resolve(config: RunConfig, manifest: Manifest, size: str) -> RunConfig:
    """Return the settings with everything decided, as config.yaml keeps them."""
    profile = DEMO_PROFILE if manifest.is_demo else {}
    name = config.output.name or f"{manifest.name}_{config.model.backbone}".replace("/", "-").replace(":", "-")
    return replace(
        config,
        data="demo" if manifest.is_demo else config.data.data and str(manifest.root),
        epochs=config.train.epochs or profile.get("epochs", EPOCHS),
        img_size=size,
        name=name,
        config=None,
        **resolve_machine(config.machine),
    )


def _free_name(folder: Path) -> str:
    return next(name for i in range(2, 10**6) if not folder.with_name(name := f"{folder.name}-{i}").exists())


def _open_folder(folder: Path, config: RunConfig, run_key: dict[str, str]) -> None:
    """Make the run folder fit for this run, or raise UserError saying what of it differs."""
    if not (folder / "run.json").is_file():
        if [item for item in folder.iterdir() if item.name != ".lock"]:
            raise UserError(f"{folder}: exists and is no run; pass another --name")
        return
    free = _free_name(folder)
    info = read_json(folder / "run.json")
    if info.get("kind") != "cv":
        raise UserError(f"{folder}: is a {info.get('kind')}, not a cross-validated run; pass --name {free}")
    if not config.output.resume:
        for item in folder.iterdir():
            if item.name != ".lock":
                shutil.rmtree(item) if item.is_dir() else item.unlink()
        return
    if info.get("run_key") != run_key:
        before = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        what = changed_keys(before, config)
        parts = [key for key, digest in run_key.items() if info.get("run_key", {}).get(key) != digest]
        raise UserError(
            f"{folder}: was made with another {' and '.join(parts)}{f' ({what})' if what else ''}; "
            f"pass --name {free}, or --no-resume to start it afresh"
        )


def _folds(folder: Path, manifest: Manifest, config: RunConfig, say: Say) -> np.ndarray:
    """Return the fold of each row, from folds.csv where the run has one, else made and written there."""
    train, file = manifest.train, folder / "folds.csv"
    if file.is_file():
        table = read_table(file)
        check_rows_once(table["image_id"], train["image_id"], str(file))
        return table.set_index("image_id").loc[train["image_id"], "fold"].to_numpy()
    split = config.split
    label_N, group_N = train["label_raw"].to_numpy(), train["group"].to_numpy()
    if SPLITTERS[split.split].leaks:
        say(f"WARNING: --split {split.split} puts pictures of one group into several folds; its score is not honest.")
    rare = rare_classes(label_N, group_N, num_folds=split.folds)
    if rare:
        named = listed(f"{manifest.classes[label]!r} ({count})" for label, count in rare.items())
        say(
            f"warning: {len(rare)} classes have fewer groups than the {split.folds} folds, "
            f"so some folds lack them: {named}"
        )
    fold_N = assign_folds(label_N, group_N, num_folds=split.folds, seed=split.split_seed, split=split.split)
    write_table(file, train[["image_id", "group", "label"]].assign(fold=fold_N))
    return fold_N


def _assemble(folder: Path, manifest: Manifest, num_folds: int) -> None:
    """Join the folds' tables into oof.parquet, test.parquet and submission.csv."""
    columns = logit_columns(manifest.num_classes)
    oof = pd.concat([read_table(folder / f"fold_{fold}" / "oof.parquet") for fold in range(num_folds)])
    check_rows_once(oof["image_id"], manifest.train["image_id"], f"{folder}/oof.parquet")
    oof = oof.set_index("image_id").loc[manifest.train["image_id"]].reset_index()
    write_table(folder / "oof.parquet", oof)
    if manifest.test is None:
        return
    tables = [read_table(folder / f"test_fold_{fold}.parquet") for fold in range(num_folds)]
    for fold, table in enumerate(tables):
        check_rows_once(table["image_id"], manifest.test["image_id"], f"{folder}/test_fold_{fold}.parquet")
    test = mean_over_folds(tables, columns)
    write_table(folder / "test.parquet", test)
    write_submission(folder, test, manifest.answers)


def _about(
    config: RunConfig, manifest: Manifest, origin: dict[str, str], views: tuple[str, ...]
) -> tuple[str, list[str]]:
    train, notes = config.train, []
    about = (
        f"{config.model.backbone} at {config.model.img_size}, {train.epochs} epochs (fixed), "
        f"{'EMA' if train.model_ema else 'last'} weights, {train.opt} {train.lr:g} {train.sched}, "
        f"weights from {origin['source']}, views {' + '.join(views)}, data {manifest.name}, "
        f"seed {train.seed}, split seed {config.split.split_seed}"
    )
    if manifest.is_demo:
        notes.append("the embedded demo set of drawn faces: this score proves plumbing, not quality")
    if SPLITTERS[config.split.split].leaks:
        notes.append(f"--split {config.split.split} leaks groups between folds: this score is not honest")
    return about, notes


def cross_validate(config: RunConfig, *, say: Say = tqdm.write) -> Run:
    """Train all folds of a run and return it; finished folds of an equal run are kept.

    Writes `<output>/<name>/` as README.md describes. Raises UserError for what the user can mend.
    """
    started = time.time()
    views = parse_views(config.infer.tta)
    if config.output.metric not in METRICS:
        raise UserError(
            f"--metric {config.output.metric}: unknown{did_you_mean(config.output.metric, METRICS)}; "
            f"there are {', '.join(METRICS)}"
        )
    record = check_backbone(config.model.backbone)
    check_optimizer(config.train.opt)
    manifest, data_hash = _load_data(config, say)
    if manifest.is_demo:
        say(f"data: the embedded demo set ({manifest.root}); its scores prove plumbing, not quality")
        if config.model.img_size is None or config.train.epochs is None:
            say(
                f"demo profile: --img-size {DEMO_PROFILE['img_size']} --epochs {DEMO_PROFILE['epochs']} "
                "unless flags say otherwise"
            )
            if config.model.img_size is None:
                config = replace(config, img_size=DEMO_PROFILE["img_size"])
    preprocess = preprocess_of(config.model, record)
    config = _resolve(config, manifest, f"{preprocess.width}x{preprocess.height}")
    kwargs = model_kwargs(config.model, record, preprocess)
    weights = _load_weights(config, manifest, kwargs, say)
    origin = weights.origin if weights else {"source": "random", "licence": "none"}
    build_model(
        config.model.backbone, num_classes=manifest.num_classes, kwargs=kwargs, weights=weights
    )  # fails now, not later
    assert config.output.name is not None
    folder = Path(config.output.output) / config.output.name
    run_key = {"configuration": identity_hash(config), "data": data_hash, "weights": origin["source"]}
    compute = compute_of(config.machine)
    with lock_folder(folder):
        _open_folder(folder, config, run_key)
        sweep(folder)
        info: dict[str, Any] = {
            "format": FORMAT,
            "kind": "cv",
            "status": "running",
            "name": folder.name,
            "run_key": run_key,
            "data": {
                "name": manifest.name,
                "hash": data_hash,
                "ids_hash": manifest.ids_hash(),
                "num_images": len(manifest.train),
                "num_groups": int(manifest.train["group"].nunique()),
                "num_test": 0 if manifest.test is None else len(manifest.test),
                "is_demo": manifest.is_demo,
            },
            "classes": list(manifest.classes),
            "answers": list(manifest.answers),
            "attributes": [dataclasses.asdict(attribute) for attribute in manifest.attributes],
            "num_folds": config.split.folds,
            "has_test": manifest.test is not None,
            "leaks": SPLITTERS[config.split.split].leaks,
            "views": list(views),
            "preprocess": preprocess.to_dict(),
            "metric": config.output.metric,
        }
        say(
            f"{folder}: {len(manifest.train):,} pictures of {info['data']['num_groups']:,} groups, "
            f"{manifest.num_classes} classes, {info['data']['num_test']:,} test pictures; "
            f"{config.machine.device}, {config.machine.amp_dtype if config.machine.amp else 'float32'}, "
            f"{config.machine.threads} threads, {config.machine.workers} workers"
        )
        write_bytes(folder / "config.yaml", yaml.safe_dump(flatten(config), sort_keys=False))
        write_json(folder / "run.json", info)
        fold_N = _folds(folder, manifest, config, say)
        info["folds_hash"] = file_hash(folder / "folds.csv")
        write_json(folder / "env.json", describe_environment(weights=origin))
        job = FoldJob(
            folder=folder,
            manifest=manifest,
            fold_N=fold_N,
            config=config,
            model_kwargs=kwargs,
            weights=weights,
            preprocess=preprocess,
            compute=compute,
            views=views,
            run_key=run_key | {"folds": info["folds_hash"]},
            say=say,
        )
        info["folds"] = []
        for fold in range(config.split.folds):
            done = finished_fold(folder, fold, job.run_key)
            if done is not None:
                say(f"fold {fold}: finished before, kept")
            info["folds"].append(done or run_fold(job, fold))
        _assemble(folder, manifest, config.split.folds)
        files = ["oof.parquet", *(["test.parquet", "submission.csv"] if manifest.test is not None else [])]
        info["files"] = {name: file_hash(folder / name) for name in files}
        info |= {"status": "done", "finished": round(time.time()), "seconds": round(time.time() - started, 1)}
        write_json(folder / "run.json", info)
        about, notes = _about(config, manifest, origin, views)
        say(write_report(Run(folder), metric=config.output.metric, about=about, notes=notes))
        say(f"report: {folder / 'report.txt'}")
    return Run(folder)
