"""The job that predicts further views of a finished run, with its data and folds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from foldblend.cli import Say
from foldblend.errors import UserError
from foldblend.runs.broken import BrokenRun
from foldblend.runs.folder import file_hash
from foldblend.runs.run import Run
from pipeline.config.run import RunConfig
from pipeline.config.settings import read_config_file, replace
from pipeline.config.trust import Trust, is_known, own_parts, trusted_config
from pipeline.job import FoldJob, job_of
from pipeline.prepare import prepare
from tta.views.names import draw_of, is_device_view

__all__ = ["view_job"]


def _trusted(run: Run, names: Sequence[str], trust: Trust) -> RunConfig:
    """Return the settings of a run, after a check of the own parts that its views need.

    Losses and schedules are not needed, and an augmentation only by views that draw from it.
    """
    draws = any(not is_device_view(name) and draw_of(name).file is None for name in names)
    needed = ("dataset", "backbone", *(["augment"] if draws else []))
    file = run.path / "config.yaml"
    config = trusted_config(file, trust, needed)
    run.check_unchanged(file.name)
    # The hash of the data says whether they are read as they were.
    for setting, name in own_parts(config, needed[1:]):
        if is_known(file, name) is False:
            raise UserError(
                f"{run.path}: the source of --{setting} {name} changed since the run was made;"
                " restore the earlier state"
            )
    return config


def view_job(
    run: Run, names: Sequence[str], trust: Trust, say: Say, machine: Mapping[str, Any]
) -> FoldJob:
    """Return a job with the run's data, preprocessing and folds; raise UserError if changed."""
    folder = run.path
    folds = folder / "folds.csv"
    if file_hash(folds) != run.hashes.get(folds.name, file_hash(folds)):
        raise BrokenRun(
            f"{folds}: has changed since the run was made; restore the file, or make the run again",
            folder,
        )
    # The models and folds of the run exist, so settings that would make them are left out.
    trusted = _trusted(run, names, trust)
    # Nobody has asked for a cache now, so that the command goes without where none can be written.
    cache = "auto" if trusted.machine.cache == "disk" else trusted.machine.cache
    config = replace(
        trusted,
        **{
            "cache": cache,
            "pretrained": "none",
            "weights": None,
            "compile": "off",
            "wandb": False,
        },
        fold_file=str(folder / "folds.csv"),
        **machine,
    )
    prepared = prepare(config, say, is_made=True)
    same = ["data", "corrected labels", "images for training only", "pixel values", "crop"]
    if own_parts(config) == own_parts(read_config_file(folder / "config.yaml")):
        # The hash is of all parts together.
        same.append("own modules")
    for what in same:
        if prepared.run_key.get(what) != run.info["run_key"].get(what):
            raise UserError(
                f"{folder}: the {what} changed since the run was made; restore the earlier state"
            )
    # Runs of earlier versions recorded the settings only, and not what follows from them.
    settings = json.loads(json.dumps(prepared.preprocess.to_dict()))
    if any(run.info["preprocess"].get(key) != value for key, value in settings.items()):
        raise UserError(
            f"{folder}: this version would preprocess images differently from training; make the"
            " run again"
        )
    return job_of(prepared, folder, say=say)
