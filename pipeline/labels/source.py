"""The run whose models give labels, and whether it fits to the run that learns from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from foldblend.errors import UserError, listed
from foldblend.files import home
from foldblend.runs.check import NEEDED_TO_BUILD_ON, finished_run
from foldblend.runs.run import Run
from folds.data.manifest import Manifest
from pipeline.config.labels import LabelsConfig
from pipeline.predict.open import member_runs, origin_run

__all__ = ["check_folds", "check_images", "find_source", "is_itself", "leaf_runs"]

ROW = ["image_id", "repeat", "fold"]


def find_source(config: LabelsConfig) -> Run | None:
    """Return the finished run that gives labels, or None.

    Raises UserError if it is not finished, or has predictions of another library.
    """
    if config.source is None:
        return None
    flag = config.source_flag
    try:
        run = finished_run(home(config.source), needed=NEEDED_TO_BUILD_ON)
    except UserError as error:
        raise UserError(f"{flag} {error}") from None
    if run.info["kind"] == "import" or run.info.get("imported_runs"):
        names = listed(run.info.get("imported_runs", [run.name]))
        raise UserError(
            f"{flag} {config.source}: the models of {names} are not here, as it was imported; pass"
            " a run that was trained here, or a blend without it"
        )
    return run


def leaf_runs(run: Run) -> list[Run]:
    """Return the cross-validated runs that a run is made of, each once.

    Raises UserError if one is gone or was made again, or is a blend that needs columns of images.
    """
    if run.info["kind"] == "cv":
        return [run]
    if run.info["kind"] == "blend" and (names := run.settings.get("meta_cols")):
        raise UserError(
            f"{run.path}: learned from the columns {names} (--meta-cols), so it cannot label"
            " images; pass a blend without them"
        )
    parts = [origin_run(run)] if run.info["kind"] == "tta" else member_runs(run)
    found = {leaf.path.resolve(): leaf for part in parts for leaf in leaf_runs(part)}
    return [*found.values()]


def check_images(run: Run, manifest: Manifest, flag: str) -> None:
    """Raise UserError unless a run has the classes, images and groups of the data."""
    if run.classes != manifest.classes:
        odd = listed(sorted({*run.classes} ^ {*manifest.classes})) or "their order"
        raise UserError(
            f"{flag} {run.path}: has other classes than the data ({odd}); pass a run on the same"
            " data"
        )
    first = run.oof[run.oof["repeat"] == 0].set_index("image_id")["group"]
    own = manifest.train.set_index("image_id")["group"]
    odd_ids = sorted({*first.index} ^ {*own.index})
    if odd_ids:
        raise UserError(
            f"{flag} {run.path}: was made from other images than the data have ({len(odd_ids)}:"
            f" {listed(odd_ids)}); pass a run on the same data"
        )
    differs = own.index[(first.loc[own.index] != own).to_numpy()]
    if len(differs):
        raise UserError(
            f"{flag} {run.path}: has another {manifest.group_name} for {len(differs)} images"
            f" ({listed(differs)}); pass the flags of the data with which it was made"
        )


def check_folds(runs: Sequence[Run], manifest: Manifest, fold_RN: np.ndarray, flag: str) -> None:
    """Raise UserError unless runs have held out each image in the same fold as a new run will."""
    ids = manifest.train["image_id"]
    num = int(fold_RN.max()) + 1
    wanted = pd.concat(
        [
            pd.DataFrame({"image_id": ids, "repeat": repeat, "fold": fold_N})
            for repeat, fold_N in enumerate(fold_RN)
        ]
    ).set_index(["repeat", "image_id"])["fold"]
    for run in runs:
        found = run.oof[ROW].set_index(["repeat", "image_id"])["fold"]
        cure = f"pass --fold-file {runs[0].path}"
        size = (run.info["num_folds"], run.info["num_repeats"])
        if size != (num, len(fold_RN)) or len(found) != len(wanted):
            raise UserError(
                f"{flag} {run.path}: has {size[0]} folds x {size[1]}, and this run has {num} x"
                f" {len(fold_RN)}; {cure}"
            )
        odd = wanted.index[(found.loc[wanted.index] != wanted).to_numpy()]
        if len(odd):
            raise UserError(
                f"{flag} {run.path}: has other folds than this run ({len(odd)} images, such as"
                f" {odd[0][1]}), so its models of a fold have seen images that are held out here;"
                f" {cure}"
            )


def is_itself(run: Run, folder: Path) -> bool:
    """Return whether a run, or a part of it, is the run of a folder."""
    return folder.resolve() in {one.path.resolve() for one in (run, *leaf_runs(run))}
