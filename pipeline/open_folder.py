"""The run folder before the first fold: checks of an existing one, and config.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from foldblend.errors import UserError
from foldblend.files import write_bytes
from foldblend.runs.derived import KINDS
from foldblend.runs.folder import check_there, clear_folder, is_empty
from foldblend.runs.run import Run
from foldblend.runs.schema import read_info
from folds.data.manifest import Manifest
from pipeline.config.identity import changed_keys, keep_defaults
from pipeline.config.resolved import ResolvedConfig
from pipeline.config.run import RunConfig
from pipeline.config.settings import flatten
from pipeline.data.changes import changed_data
from pipeline.training.checkpoint import CHECKPOINT

__all__ = ["check_still_there", "is_obsolete", "open_folder", "write_config"]

# Parts of the run key, as error messages call them.
PARTS = {
    "configuration": "a different configuration",
    "own modules": "different custom modules",
    "labels": "another --teacher or --pseudo-from, or other --unlabelled images",
    "pixel values": "another --pixel-range, --dicom-window or --alpha-background",
}


def _free_name(folder: Path) -> str:
    return next(
        name for i in range(2, 10**6) if not folder.with_name(name := f"{folder.name}-{i}").exists()
    )


def _differences(
    folder: Path, old: Mapping[str, Any], new: Mapping[str, Any], config: Any, data: Manifest
) -> str:
    """Return which parts of the run key differ, each with details where they are known."""
    old_key = old.get("run_key", {})
    new_key = new["run_key"]
    found = []
    for part in dict.fromkeys([*new_key, *old_key]):
        if old_key.get(part) == new_key.get(part):
            continue
        details = ""
        file = folder / "config.yaml"
        if part == "configuration" and file.is_file():
            details = changed_keys(Run(folder).settings, config)
        if part == "data":
            details = changed_data(folder, old, new, data)
        found.append(PARTS.get(part, f"different {part}") + (f" ({details})" if details else ""))
    return " and ".join(found)


def open_folder(
    folder: Path,
    config: ResolvedConfig,
    info: Mapping[str, Any],
    *,
    data: Manifest,
    resume: bool,
) -> None:
    """Check that a run may use its folder, and empty it if `is_obsolete` says so."""
    if is_obsolete(folder, config, info, data=data, resume=resume):
        clear_folder(folder)


def is_obsolete(
    folder: Path,
    config: ResolvedConfig,
    info: Mapping[str, Any],
    *,
    data: Manifest,
    resume: bool,
) -> bool:
    """Return whether a run folder is to be emptied before a run may use it; write nothing.

    Parameters
    ----------
    folder
        The run folder, which need not exist.
    config
        Settings of the new run.
    info
        The new run.json, with the run key and the data record.
    data
        The data of the new run.
    resume
        Whether finished folds of an equal run are kept.

    Raises
    ------
    UserError
        If the folder holds something else, or finished folds of a run with different settings,
        data or weights. The message says what differs.
    """
    if not (folder / "run.json").is_file():
        if not is_empty(folder):
            raise UserError(
                f"{folder}: exists and is not a run folder; pass another --name, or remove"
                " it if it is what is left of a run"
            )
        return False
    free = _free_name(folder)
    old = read_info(folder)
    if old.get("kind") != "cv":
        raise UserError(
            f"{folder}: is {KINDS.get(old.get('kind', ''), 'of another kind')}, not a"
            f" cross-validated run; pass --name {free}"
        )
    if old.get("run_key") == info["run_key"] and resume:
        return False
    names = ("done.json", CHECKPOINT)
    places = ("fold_*", "fold_*/seed_*")
    kept = [file for place in places for name in names for file in folder.glob(f"{place}/{name}")]
    # A run without a finished fold or checkpoint may be replaced, since nothing is lost.
    if not resume or not kept:
        return True
    raise UserError(
        f"{folder}: was made with {_differences(folder, old, info, config, data)};"
        f" pass --name {free}, or --no-resume to start it again"
    )


def check_still_there(folder: Path, info: Mapping[str, Any]) -> None:
    """Raise UserError if a run folder was removed or replaced while its folds were trained."""
    check_there(folder)
    if read_info(folder).get("run_key") != info["run_key"]:
        raise UserError(
            f"{folder}: was made again with other settings while its folds were trained; pass"
            " another --name"
        )


def write_config(folder: Path, config: ResolvedConfig) -> None:
    """Write config.yaml, unless the present file means the same.

    The file of an earlier version lacks newer settings. As long as these have the values that its
    version had, the file stays as it is, so that repeating a finished run changes nothing.
    """
    file = folder / "config.yaml"
    text = yaml.safe_dump(flatten(config), sort_keys=False)
    if file.is_file():
        old = Run(folder).settings
        if old and flatten(keep_defaults(RunConfig(), old)) | old == yaml.safe_load(text):
            return
    write_bytes(file, text)
