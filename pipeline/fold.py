"""One fold: train on the other folds' people, take logits of its own and of the test set, write them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from torch.utils.tensorboard import SummaryWriter

from folds.errors import UserError
from folds.files import write_with
from folds.manifest import Manifest
from pipeline.config import RunConfig
from pipeline.device import Compute
from pipeline.feeding import Feeder
from pipeline.fit import train_epochs
from pipeline.infer import predict
from pipeline.model import build_model
from pipeline.preprocess import Preprocess
from pipeline.seeding import derive_seed
from pipeline.store import file_hash, read_json, with_logits, write_json, write_table
from pipeline.weights import Weights
from reports.metrics import METRICS, softmax
from tta.merge import mean_logit
from tta.views import VIEWS

__all__ = ["FoldJob", "finished_fold", "fold_record", "run_fold", "start_fold", "write_fold"]


@dataclass(frozen=True, kw_only=True)
class FoldJob:
    """All that a fold needs; the same object serves every fold of a run."""

    folder: Path
    manifest: Manifest
    fold_RN: np.ndarray
    config: RunConfig
    model_kwargs: dict[str, Any]
    weights: Weights | None
    preprocess: Preprocess
    compute: Compute
    feeder: Feeder
    views: tuple[str, ...]
    run_key: dict[str, str]
    """Hashes that a finished fold must share to be kept."""
    environment: dict[str, Any]
    """What it runs on, kept with each fold: a run may be finished elsewhere."""
    say: Callable[[str], None]

    def place(self, index: int) -> tuple[int, int]:
        """Return (repeat, fold) of the model of that number; models are numbered through the repeats."""
        return divmod(index, int(self.fold_RN.max()) + 1)

    def title(self, index: int) -> str:
        """Return what the log calls the model of that number."""
        repeat, fold = self.place(index)
        return f"fold {fold}" if len(self.fold_RN) == 1 else f"repeat {repeat} fold {fold}"


def finished_fold(folder: Path, index: int, run_key: dict[str, str]) -> dict[str, Any] | None:
    """Return a fold's done.json if it is finished, of this very run, and its files are what it wrote."""
    done_file = folder / f"fold_{index}" / "done.json"
    if not done_file.is_file():
        return None
    done = read_json(done_file)
    files = {folder / name: digest for name, digest in done["files"].items()}
    intact = all(file.is_file() and file_hash(file) == digest for file, digest in files.items())
    return dict(done) if intact and done["run_key"] == run_key else None


def _predict(
    job: FoldJob, model: torch.nn.Module, table: pd.DataFrame, *, index: int, views: tuple[str, ...]
) -> np.ndarray:
    loader = job.feeder.rows(table)
    logits_VNC = predict(model, loader, job.preprocess, job.compute, [VIEWS[name] for name in views])
    if not np.isfinite(logits_VNC).all():
        raise UserError(f"{job.title(index)}: the logits are not finite; lower --lr or pass --clip-grad 1")
    return logits_VNC


def _per_view(ids: pd.Series, views: tuple[str, ...], logits_VNC: np.ndarray) -> pd.DataFrame:
    parts = [
        with_logits(pd.DataFrame({"image_id": ids.to_numpy(), "view": name}), logits)
        for name, logits in zip(views, logits_VNC, strict=True)
    ]
    return pd.concat(parts, ignore_index=True)


def start_fold(job: FoldJob, index: int) -> None:
    """Make an empty folder for a fold: what a killed process left there is no use."""
    folder = job.folder / f"fold_{index}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def write_fold(
    job: FoldJob,
    index: int,
    *,
    state: dict[str, torch.Tensor],
    held_VNC: np.ndarray,
    test_VNC: np.ndarray | None,
    shared: Sequence[str] = (),
) -> dict[str, str]:
    """Write a fold's weights and logits (its held-out rows', the test set's) and return {file name: hash}.

    `shared` are files in the run folder that belong to the fold as well. Raises UserError for logits
    that are not finite.
    """
    for logits_VNC in (held_VNC, test_VNC):
        if logits_VNC is not None and not np.isfinite(logits_VNC).all():
            raise UserError(f"{job.title(index)}: the logits are not finite; lower --lr or pass --clip-grad 1")
    repeat, fold = job.place(index)
    held_out = job.manifest.train[job.fold_RN[repeat] == fold]
    columns = held_out[["image_id", "group", "label", "label_raw"]].assign(repeat=repeat, fold=fold)
    tables = {f"fold_{index}/oof.parquet": with_logits(columns, mean_logit(held_VNC))}
    if len(job.views) > 1:
        tables[f"tta/oof_fold_{index}.parquet"] = _per_view(held_out["image_id"], job.views, held_VNC)
    if test_VNC is not None and job.manifest.test is not None:
        ids = job.manifest.test["image_id"]
        tables[f"test_fold_{index}.parquet"] = with_logits(ids.to_frame(), mean_logit(test_VNC))
        if len(job.views) > 1:
            tables[f"tta/test_fold_{index}.parquet"] = _per_view(ids, job.views, test_VNC)
    weights = f"fold_{index}/best.safetensors"
    write_with(job.folder / weights, lambda draft: safetensors.torch.save_file(state, draft))
    for name, table in tables.items():
        write_table(job.folder / name, table)
    return {name: file_hash(job.folder / name) for name in (*tables, weights, *shared)}


def fold_record(job: FoldJob, index: int, files: dict[str, str], score: float) -> dict[str, Any]:
    """Return what every done.json says of its fold."""
    repeat, fold = job.place(index)
    return {
        "repeat": repeat,
        "fold": fold,
        "run_key": job.run_key,
        "environment": job.environment,
        "files": files,
        "score": score if np.isfinite(score) else None,
    }


def run_fold(job: FoldJob, index: int) -> dict[str, Any]:
    """Train and score one fold and return its done.json, which is written last."""
    config, compute = job.config, job.compute
    folder = job.folder / f"fold_{index}"
    start_fold(job, index)
    repeat, fold = job.place(index)
    is_held_out = job.fold_RN[repeat] == fold
    train = job.manifest.training_rows(~is_held_out)
    held_out = job.manifest.train[is_held_out].reset_index(drop=True)
    # Dropout and the new head draw from torch's own generator; nothing else does (see dataset._loader).
    torch.manual_seed(derive_seed("torch", config.train.seed, index))
    model = build_model(
        config.model.backbone, num_classes=job.manifest.num_classes, kwargs=job.model_kwargs, weights=job.weights
    )
    model = model.to(device=compute.device, memory_format=compute.memory_format)  # type: ignore[call-overload]
    seed_parts = (config.train.seed, index)
    loader = job.feeder.train(train, seed_parts=seed_parts)
    epochs = train_epochs(
        model,
        loader,
        config.train,
        job.preprocess,
        compute,
        augment=job.feeder.device_augmentation,
        seed_parts=seed_parts,
    )
    start, log, train_seconds, train_images = time.perf_counter(), [], 0.0, 0
    metric, label_N = METRICS[config.output.metric], held_out["label"].to_numpy()
    num_epochs = config.train.epochs or 0
    held_VNC, infer_seconds = np.empty(0), 0.0
    with SummaryWriter(str(folder / "tb")) as board:
        for epoch in epochs:
            last = epoch.index == num_epochs - 1
            infer_start = time.perf_counter()
            held_VNC = _predict(job, epoch.model, held_out, index=index, views=job.views if last else job.views[:1])
            infer_seconds = time.perf_counter() - infer_start
            score = metric.score(label_N, softmax(mean_logit(held_VNC)))
            train_seconds, train_images = train_seconds + epoch.seconds, train_images + epoch.images
            row = {
                "epoch": epoch.index,
                "lr": epoch.lr,
                "train_loss": epoch.train_loss,
                f"val_{config.output.metric}": score,
                "images_per_s": epoch.images / epoch.seconds,
            }
            log.append(row)
            write_table(folder / "log.csv", pd.DataFrame(log))
            for tag, value in (
                ("train/loss", epoch.train_loss),
                (f"val/{config.output.metric}", score),
                ("train/lr", epoch.lr),
            ):
                board.add_scalar(tag, value, epoch.index)
            job.say(
                f"{job.title(index)} epoch {epoch.index + 1}/{num_epochs}: loss {epoch.train_loss:.3f}, "
                f"held-out {metric.title} {score:.4f}, {row['images_per_s']:.0f} images/s"
            )
            scored = epoch.model
    test_VNC = None
    if job.manifest.test is not None:
        test_VNC = _predict(job, scored, job.manifest.test, index=index, views=job.views)
    state = {name: value.detach().cpu().contiguous() for name, value in scored.state_dict().items()}
    files = write_fold(job, index, state=state, held_VNC=held_VNC, test_VNC=test_VNC)
    done = {
        **fold_record(job, index, files, score),
        "seconds": time.perf_counter() - start,
        "train_images_per_s": train_images / train_seconds,
        "infer_images_per_s": len(held_out) * len(job.views) / infer_seconds,
    }
    write_json(folder / "done.json", done)
    return done
