"""Files of a fold: weights, logits and the record done.json that marks it as finished."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors.torch
import torch

from foldblend.cli import Say
from foldblend.errors import listed
from foldblend.files import is_file, remove, write_bytes
from foldblend.runs.folder import check_there, file_hash, with_logits, write_table
from foldblend.runs.schema import read_done
from foldblend.runs.tables import TableReader
from pipeline.job import Prepared, TrainingJob
from pipeline.training.checkpoint import CHECKPOINT
from tta.merge import mean_logit

__all__ = [
    "SEED_WEIGHTS",
    "finished_fold",
    "finished_folds",
    "fold_key",
    "fold_record",
    "fold_tables",
    "least_room",
    "model_record",
    "start_fold",
    "view_tables",
    "write_fold",
]

# Least bytes of a logit in a parquet file, which compresses.
LOGIT_BYTES = 3
# Weights of a seed of a soup, which are removed when the soup is there.
SEED_WEIGHTS = "weights.safetensors"


def finished_fold(
    folder: Path, model: int | str, run_key: dict[str, str], say: Say | None = None
) -> dict[str, Any] | None:
    """Return the done.json of a fold (by number) or model (by name), or None if it is not kept.

    It is kept if it is finished, its hashes equal `run_key`, and its files are unchanged. `say`
    gets a line on a finished one that is not kept.
    """
    name = model if isinstance(model, str) else f"fold_{model}"
    if not (folder / name / "done.json").is_file():
        return None
    done = read_done(folder, name)
    why = _why_not_kept(folder, name, done, run_key)
    if why is not None and say is not None:
        say(f"{folder}/{why}, so {name} is not kept and must be trained again")
    return None if why is not None else dict(done)


def _why_not_kept(
    folder: Path, name: str, done: Mapping[str, Any], run_key: Mapping[str, str]
) -> str | None:
    """Return the file of a finished model that is not as it should be, and why, or None."""
    before = done["run_key"]
    differ = [name for name in {**run_key, **before} if run_key.get(name) != before.get(name)]
    if differ:
        return f"{name}/done.json: is of another run (different {listed(differ)})"
    for file, digest in done["files"].items():
        if not is_file(folder / file):
            return f"{file}: is missing"
        if file_hash(folder / file) != digest:
            return f"{file}: is damaged (its hash is not the recorded one)"
    return None


def fold_key(run: Prepared, info: Mapping[str, Any]) -> dict[str, str]:
    """Return the hashes of a run and its folds; a finished fold is kept only if its are equal."""
    return run.run_key | {"folds": info["folds_hash"]}


def finished_folds(
    run: Prepared,
    folder: Path,
    info: Mapping[str, Any],
    *,
    among: Sequence[int] | None = None,
    say: Say | None = None,
) -> dict[int, dict[str, Any] | None]:
    """Return the done.json of each fold, or None for each that is not finished, by its number.

    `among` names the folds to look at (default: all). `say` gets a line for each finished fold that
    is not kept.
    """
    key = fold_key(run, info)
    numbers = range(run.num_models) if among is None else among
    done = {index: finished_fold(folder, index, key, say) for index in numbers}
    # A process that was killed just after a fold's last file leaves these behind.
    for index in [index for index, fold in done.items() if fold is not None]:
        (folder / f"fold_{index}" / CHECKPOINT).unlink(missing_ok=True)
        for weights in folder.glob(f"fold_{index}/seed_*/{SEED_WEIGHTS}"):
            weights.unlink(missing_ok=True)
    return done


def fold_tables(folder: Path, info: Mapping[str, Any]) -> TableReader:
    """Return the reader of the tables of finished folds, from a run.json with its folds."""
    models = [*info["folds"], *info.get("refit", {}).get("models", ())]
    hashes = {name: one for model in models for name, one in model["files"].items()}
    return TableReader(folder, info, hashes)


def view_tables(ids: pd.Series, logits_of: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Return a table of image_id, view and logits, one view after the other."""
    parts = [
        with_logits(pd.DataFrame({"image_id": ids.to_numpy(), "view": name}), logits)
        for name, logits in logits_of.items()
    ]
    return pd.concat(parts, ignore_index=True)


def start_fold(job: TrainingJob, index: int) -> None:
    """Make an empty folder for a fold, without the files of a process that was killed."""
    check_there(job.folder)
    folder = job.folder / job.run.name_of(index)
    remove(folder)
    folder.mkdir()


def least_room(job: TrainingJob, weights: Iterable[torch.Tensor], num_held_out: int) -> int:
    """Return the bytes that the files of a fold need at least: a checkpoint, weights and logits.

    Parameters
    ----------
    job
        The job.
    weights
        Weights of the model and of their average.
    num_held_out
        Number of held-out rows.
    """
    size = sum(one.numel() * one.element_size() for one in weights)
    run = job.run
    rows = num_held_out + (0 if run.manifest.test is None else len(run.manifest.test))
    views = 1 + (len(run.views) if len(run.views) > 1 else 0)
    # The last checkpoint is removed when the weights and logits are there.
    return 2 * size + rows * views * run.manifest.num_classes * LOGIT_BYTES


def write_fold(
    job: TrainingJob,
    index: int,
    *,
    state: dict[str, torch.Tensor],
    held_VNC: np.ndarray | None,
    test_VNC: np.ndarray | None,
    shared: Sequence[str] = (),
) -> dict[str, str]:
    """Write the weights and logits of a model, and return {file name: hash}.

    Parameters
    ----------
    job
        The job that all folds share.
    index
        Number of the model.
    state
        Weights by name.
    held_VNC, test_VNC
        Logits of the held-out rows (None: there are none, as for a refit) and of the test set, for
        each view of the run.
    shared
        Further files in the run folder that the fold depends on.

    Raises
    ------
    UserError
        If a logit is not finite.
    """
    check_there(job.folder)
    for logits_VNC in (held_VNC, test_VNC):
        if logits_VNC is not None:
            job.check_finite(index, logits_VNC)
    name = job.run.name_of(index)
    tables = {} if held_VNC is None else _held_out_tables(job, index, held_VNC)
    if test_VNC is not None and job.run.manifest.test is not None:
        ids = job.run.manifest.test["image_id"]
        tables[f"test_{name}.parquet"] = with_logits(ids.to_frame(), mean_logit(test_VNC))
        if len(job.run.views) > 1:
            tables[f"tta/test_{name}.parquet"] = view_tables(
                ids, dict(zip(job.run.views, test_VNC, strict=True))
            )
    weights = f"{name}/best.safetensors"
    check_there(job.folder)
    write_bytes(job.folder / weights, safetensors.torch.save(state))
    for file, table in tables.items():
        check_there(job.folder)
        write_table(job.folder / file, table)
    return {file: file_hash(job.folder / file) for file in (*tables, weights, *shared)}


def _held_out_tables(job: TrainingJob, index: int, held_VNC: np.ndarray) -> dict[str, pd.DataFrame]:
    """Return the tables of a fold's held-out rows, by file name."""
    repeat, fold = job.run.place(index)
    held_out = job.run.manifest.train[job.run.is_held_out(index)]
    columns = held_out[["image_id", "group", "label", "label_raw"]].assign(repeat=repeat, fold=fold)
    tables = {f"fold_{index}/oof.parquet": with_logits(columns, mean_logit(held_VNC))}
    if len(job.run.views) > 1:
        tables[f"tta/oof_fold_{index}.parquet"] = view_tables(
            held_out["image_id"], dict(zip(job.run.views, held_VNC, strict=True))
        )
    return tables


def fold_record(
    job: TrainingJob, index: int, files: dict[str, str], score: float
) -> dict[str, Any]:
    """Return the entries that every done.json of a fold has."""
    repeat, fold = job.run.place(index)
    return {
        "repeat": repeat,
        "fold": fold,
        **model_record(job, files),
        "score": score if np.isfinite(score) else None,
    }


def model_record(job: TrainingJob, files: dict[str, str]) -> dict[str, Any]:
    """Return the entries that the done.json of every model has."""
    return {
        "run_key": job.fold_key,
        "environment": job.environment,
        "padded": job.padded or job.run.config.train.frozen,
        "files": files,
    }
