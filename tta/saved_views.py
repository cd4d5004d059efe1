"""Logits of a run's views in its folder: views of training, and views added later.

Files that the folds wrote stay unchanged, since done.json holds their hashes. Views added later are
kept in further files. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from foldblend.errors import UserError, listed
from foldblend.runs.check import finished_run
from foldblend.runs.costs import num_models
from foldblend.runs.folder import file_hash, read_json, read_table, write_json, write_table
from foldblend.runs.run import Run
from tta.views.names import VIEWS_VERSION, draw_of, is_device_view

__all__ = [
    "add_rows",
    "can_see",
    "check_pipelines",
    "kept_views",
    "note_pipelines",
    "note_seconds",
    "open_models",
    "parts_of",
    "saved_rows",
    "view_seconds",
]

TIMES = "tta/times.json"
PIPELINES = "tta/pipelines.json"


def open_models(folder: Path) -> Run:
    """Return a finished run after checking that all of its models are present and unchanged.

    Raises UserError.
    """
    run = finished_run(folder)
    if run.info["kind"] != "cv":
        whose = listed(
            [run.info["of"]["name"]]
            if "of" in run.info
            else [one["name"] for one in run.info["members"]]
        )
        raise UserError(
            f"{folder}: is a {run.info['kind']} and has no models; pass the run it was made from:"
            f" {whose}"
        )
    for index in range(num_models(run)):
        done = folder / f"fold_{index}" / "done.json"
        if not done.is_file():
            raise UserError(
                f"{folder}: fold {index} is not finished; run the same run_cv.py command again"
            )
        name = f"fold_{index}/best.safetensors"
        if not (folder / name).is_file():
            raise UserError(
                f"{folder}/{name}: the checkpoint is missing; run the same run_cv.py command again"
            )
        if file_hash(folder / name) != read_json(done)["files"].get(name):
            raise UserError(
                f"{folder}/{name}: has changed since training; run the same run_cv.py command again"
            )
    return run


def can_see(run: Run) -> bool:
    """Return whether a run's models can predict further views, for which settings are needed."""
    return bool(run.settings)


def parts_of(run: Run) -> tuple[str, ...]:
    """Return the parts that a fold's model predicts: oof, and test if there is a test set."""
    return ("oof", "test") if run.info["has_test"] else ("oof",)


def _further(run: Run, index: int, part: str) -> Path:
    return run.path / "tta" / f"further_{part}_fold_{index}.parquet"


def _origin(run: Run, index: int) -> str:
    """Return what views added later depend on: the model's hash and the version of views."""
    files = read_json(run.path / f"fold_{index}" / "done.json")["files"]
    return f"{files[f'fold_{index}/best.safetensors']}, views {VIEWS_VERSION}"


def _of_training(run: Run, index: int, part: str) -> pd.DataFrame:
    if len(run.info["views"]) > 1:
        return read_table(run.path / "tta" / f"{part}_fold_{index}.parquet")
    name = f"fold_{index}/oof.parquet" if part == "oof" else f"test_fold_{index}.parquet"
    table = read_table(run.path / name)
    table = table[["image_id", *(name for name in table if str(name).startswith("logit_"))]]
    table.insert(1, "view", "identity")
    return table


def _added(run: Run, index: int, part: str) -> pd.DataFrame | None:
    """Return the views added to a fold later, or None.

    Rows of another model, or of another version of views, are left out.
    """
    try:
        table = (
            read_table(_further(run, index, part)) if _further(run, index, part).is_file() else None
        )
    except UserError:
        # The file is broken; its views are computed again.
        return None
    return None if table is None else table[table["of"] == _origin(run, index)].drop(columns="of")


def saved_rows(run: Run, index: int, part: str) -> pd.DataFrame:
    """Return image_id, view and logits of a fold's rows, for all of its views.

    `part` is oof or test.
    """
    tables = [_of_training(run, index, part), _added(run, index, part)]
    return pd.concat([one for one in tables if one is not None and len(one)], ignore_index=True)


def add_rows(run: Run, index: int, part: str, fresh: pd.DataFrame) -> None:
    """Add rows of further views to those that a fold has."""
    tables = [one for one in (_added(run, index, part), fresh) if one is not None and len(one)]
    _further(run, index, part).parent.mkdir(exist_ok=True)
    table = pd.concat(tables, ignore_index=True).assign(of=_origin(run, index))
    write_table(_further(run, index, part), table)


def kept_views(run: Run) -> tuple[str, ...]:
    """Return the views whose logits every fold has, in the order of the first fold."""
    tables = [
        saved_rows(run, index, part) for index in range(num_models(run)) for part in parts_of(run)
    ]
    views = [dict.fromkeys(table["view"]) for table in tables]
    return tuple(name for name in views[0] if all(name in one for one in views))


def _pipelines(names: Sequence[str]) -> dict[str, str]:
    """Return the hashes of the albumentations files that these views use."""
    files = {draw_of(name).file for name in names if not is_device_view(name)} - {None}
    return {file: file_hash(Path(file)) for file in sorted(map(str, files)) if Path(file).is_file()}


def check_pipelines(run: Run, names: Sequence[str]) -> None:
    """Raise UserError if an albumentations file has changed since its views were saved."""
    file = run.path / PIPELINES
    before = read_json(file) if file.is_file() else {}
    changed = [
        name for name, digest in _pipelines(names).items() if before.get(name, digest) != digest
    ]
    if changed:
        raise UserError(
            f"--views albu:{changed[0]}: the file has changed since its views were saved; save the"
            " changed pipeline under another name"
        )


def note_pipelines(run: Run, names: Sequence[str]) -> None:
    """Record the hashes of the albumentations files of views that are about to be saved."""
    file = run.path / PIPELINES
    now = _pipelines(names)
    if now:
        file.parent.mkdir(exist_ok=True)
        write_json(file, (read_json(file) if file.is_file() else {}) | now)


def view_seconds(run: Run) -> dict[str, float]:
    """Return the seconds per image of each view that was timed; views of training are not."""
    file = run.path / TIMES
    return (
        {name: one["seconds"] / one["pictures"] for name, one in read_json(file).items()}
        if file.is_file()
        else {}
    )


def note_seconds(run: Run, times: Mapping[str, tuple[int, float]]) -> None:
    """Record numbers of images and seconds of views.

    Earlier times of the same views are replaced: they may be from another machine.
    """
    file = run.path / TIMES
    now = {name: {"pictures": num, "seconds": seconds} for name, (num, seconds) in times.items()}
    write_json(file, (read_json(file) if file.is_file() else {}) | now)
