"""Refits: models of all rows that join a finished run, beside the models of its folds."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foldblend.cli import Say
from foldblend.cluster.cluster import Cluster
from foldblend.errors import counted
from foldblend.runs.refit import model_name
from pipeline.cluster.folds import Train, train_models
from pipeline.config.resolved import ResolvedTrain
from pipeline.config.train import AUTO
from pipeline.fold_files import finished_fold, fold_key
from pipeline.frozen.full_head import run_full_heads
from pipeline.job import Prepared, TrainingJob
from pipeline.training.full_training import run_full
from pipeline.training.parallel_folds import run_folds
from pipeline.training.soup_of_folds import run_soup
from pipeline.training.weight_means import check_starts
from pipeline.watch.progress import Progress

__all__ = ["check_refit", "kept_refit", "train_refits"]

Done = dict[int, dict[str, Any]]


def _trained(job: TrainingJob, todo: Sequence[int]) -> Done:
    return run_folds(job, todo, run=run_full)


def _souped(job: TrainingJob, todo: Sequence[int]) -> Done:
    return {index: run_soup(job, index) for index in todo}


# By kind of refit, and whether the run has linear heads on a frozen backbone.
KINDS: dict[tuple[str, bool], Train] = {
    ("full", False): _trained,
    ("full", True): run_full_heads,
    ("soup", False): _souped,
    ("soup", True): _souped,
}


def _share(train: ResolvedTrain, num_folds: int) -> float:
    """Return the share of the refits in the test logits.

    By default each refit counts as one more model, and a soup replaces the models of the folds.
    """
    if isinstance(train.refit_share, float):
        return train.refit_share
    assert train.refit_share == AUTO
    num = train.num_refits
    return 1.0 if train.refit == "soup" else num / (num_folds + num)


def _key(run: Prepared, info: Mapping[str, Any], folds: Sequence[Mapping[str, Any]]) -> Any:
    """Return the hashes by which a finished refit is kept."""
    kind = run.config.train.refit
    key = fold_key(run, info) | {"refit": str(kind)}
    if kind == "soup" or run.config.train.select != "last":
        # They depend on the models of the folds.
        key["models of folds"] = "-".join(
            fold["files"][f"fold_{index}/best.safetensors"][:8] for index, fold in enumerate(folds)
        )
    return key


def check_refit(run: Prepared) -> None:
    """Raise UserError for a refit that the run cannot have, before anything is trained."""
    train = run.config.train
    if train.refit == "soup" and not train.frozen:
        check_starts(run, "--refit soup")


def kept_refit(run: Prepared, folder: Path, info: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the key `refit` of run.json with the refits that are finished, or None.

    None: not all that the settings ask for are there. `info` has the finished folds.
    """
    num = run.config.train.num_refits
    if not num:
        return None
    key = _key(run, info, info["folds"])
    names = [model_name(run.num_models + one, run.num_models) for one in range(num)]
    found = [finished_fold(folder, name, key) for name in names]
    if any(one is None for one in found):
        return None
    return {
        "kind": run.config.train.refit,
        "share": _share(run.config.train, run.num_models),
        "models": found,
    }


def train_refits(
    run: Prepared, folder: Path, info: Mapping[str, Any], cluster: Cluster | None, say: Say
) -> None:
    """Train the refits that are not finished; the folder is locked by the caller.

    Each one is written to its own folder, with a checkpoint while it is trained.
    """
    num = run.config.train.num_refits
    key = _key(run, info, info["folds"])
    indices = range(run.num_models, run.num_models + num)
    todo = [one for one in indices if finished_fold(folder, run.name_of(one), key, say) is None]
    rows = counted(len(run.manifest.train), "image")
    kind = run.config.train.refit
    is_frozen = run.config.train.frozen
    say(f"{folder}: complete, with its report; --refit {kind} follows, of all {rows}")
    with contextlib.closing(Progress(len(todo))) as progress:
        train_models(
            run,
            folder,
            info,
            key=key,
            todo=todo,
            train=KINDS[str(kind), is_frozen],
            # The models of the folds are read once.
            together=is_frozen or kind == "soup",
            cluster=cluster,
            progress=progress,
            say=say,
        )
