"""Logits of a run's views in its folder: views of training, and views added later.

Files that the folds wrote stay unchanged, since done.json holds their hashes. Views added later are
kept in further files. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, TypedDict

import pandas as pd

from foldblend.errors import UserError, listed
from foldblend.runs.broken import BrokenRun
from foldblend.runs.check import NEEDED_TO_BUILD_ON, finished_run
from foldblend.runs.checked import between
from foldblend.runs.costs import num_models
from foldblend.runs.folder import check_there, file_hash, write_json, write_table
from foldblend.runs.info import MOST_IMAGES, MOST_SECONDS
from foldblend.runs.refit import model_name, num_refits
from foldblend.runs.run import Run
from foldblend.runs.schema import read_checked, read_done
from foldblend.runs.tables import check_rows_once
from foldblend.runs.unchecked import note_unchecked
from tta.views.names import VIEWS_VERSION, draw_of, is_device_view

__all__ = [
    "add_rows",
    "can_see",
    "check_pipelines",
    "kept_views",
    "models_of",
    "name_of",
    "note_pipelines",
    "note_seconds",
    "open_models",
    "parts_of",
    "saved_rows",
    "view_seconds",
]

TIMES = "tta/times.json"
PIPELINES = "tta/pipelines.json"
HASHES = "tta/hashes.json"
AGAIN = "remove it, and it is written again"


class _Time(TypedDict):
    """Time of a view."""

    pictures: Annotated[int, between(1, MOST_IMAGES)]
    seconds: Annotated[float, between(0, MOST_SECONDS)]


def open_models(folder: Path) -> Run:
    """Return a finished run after checking that all of its models are present.

    Raises UserError.
    """
    run = finished_run(folder, needed=NEEDED_TO_BUILD_ON)
    if run.info["kind"] == "import":
        raise UserError(
            f"{folder}: was imported and has no models, so it cannot be augmented; pass a run of"
            " run_cv.py"
        )
    if run.info["kind"] != "cv":
        whose = listed(
            [run.info["of"]["name"]]
            if "of" in run.info
            else [one["name"] for one in run.info.get("members", ())]
        )
        raise UserError(
            f"{folder}: is a {run.info['kind']} and has no models; pass the run it was made from:"
            f" {whose}"
        )
    for index in models_of(run):
        model = name_of(run, index)
        done = folder / model / "done.json"
        if not done.is_file():
            what = model.replace("_", " ")
            raise UserError(
                f"{folder}: {what} is not finished; run the same run_cv.py command again"
            )
        name = f"{model}/best.safetensors"
        if not (folder / name).is_file():
            raise UserError(
                f"{folder}/{name}: the checkpoint is missing; run the same run_cv.py command again"
            )
        # The hash is compared when the weights are read.
        if name not in read_done(folder, model)["files"]:
            raise BrokenRun(f"{done}: lacks the hash of {name}; make the run again", folder)
    return run


def can_see(run: Run) -> bool:
    """Return whether a run's models can predict further views, for which settings are needed."""
    return bool(run.settings)


def parts_of(run: Run, index: int = 0) -> tuple[str, ...]:
    """Return the parts that a model predicts: oof for a fold's, and test if there is a test set."""
    held = ("oof",) if index < num_models(run) else ()
    return (*held, "test") if run.info["has_test"] else held


def models_of(run: Run) -> range:
    """Return the numbers of all models: those of the folds, then the refits."""
    return range(num_models(run) + num_refits(run.info))


def name_of(run: Run, index: int) -> str:
    """Return the name of a model in file names."""
    return model_name(index, num_models(run))


def _further(run: Run, index: int, part: str) -> Path:
    return run.path / "tta" / f"further_{part}_{name_of(run, index)}.parquet"


def _origin(run: Run, index: int) -> str:
    """Return what views added later depend on: the model's hash and the version of views."""
    name = name_of(run, index)
    files = read_done(run.path, name)["files"]
    return f"{files.get(f'{name}/best.safetensors')}, views {VIEWS_VERSION}"


def _of_training(run: Run, index: int, part: str) -> pd.DataFrame:
    if len(run.info["views"]) > 1:
        return run.table(f"tta/{part}_{name_of(run, index)}")
    table = run.table(f"fold_{index}/oof" if part == "oof" else f"test_{name_of(run, index)}")
    table = table[["image_id", *(name for name in table if str(name).startswith("logit_"))]]
    table.insert(1, "view", "identity")
    return table


def _added(run: Run, index: int, part: str) -> pd.DataFrame | None:
    """Return the views added to a fold later, or None.

    Rows of another model, or of another version of views, are left out.
    """
    try:
        file = _further(run, index, part)
        if not file.is_file():
            return None
        known = _hashes(run)
        if f"tta/{file.name}" not in known:
            note_unchecked(run.path)
        table = run.with_hashes(known).read(f"tta/{file.stem}")
    except UserError:
        # The file is broken or has changed; its views are computed again.
        return None
    return table[table["of"] == _origin(run, index)].drop(columns="of")


def _hashes(run: Run) -> dict[str, str]:
    """Return the hashes of tables of views added later, by file name in the run folder."""
    file = run.path / HASHES
    cure = "remove it, and the views are computed again"
    found: dict[str, str] = (
        read_checked(file, dict[str, str], folder=run.path, cure=cure) if file.is_file() else {}
    )
    return found


def saved_rows(run: Run, index: int, part: str) -> pd.DataFrame:
    """Return image_id, view and logits of a fold's rows, for all of its views.

    `part` is oof or test.
    """
    tables = [_of_training(run, index, part), _added(run, index, part)]
    rows = pd.concat([one for one in tables if one is not None and len(one)], ignore_index=True)
    _check_ids(run, index, part, rows)
    return rows


def _check_ids(run: Run, index: int, part: str, rows: pd.DataFrame) -> None:
    """Raise BrokenRun unless each view of a fold has the fold's images."""
    if part == "oof":
        repeat, fold = divmod(index, run.info["num_folds"])
        wanted = run.oof.loc[(run.oof["repeat"] == repeat) & (run.oof["fold"] == fold), "image_id"]
    else:
        assert run.test is not None
        wanted = run.test["image_id"]
    images = {*wanted}
    for view, one in rows.groupby("view", sort=False):
        # This test is fast; only if it fails, the slower check lists the rows.
        if len(one) != len(images) or {*one["image_id"]} != images:
            try:
                what = f"{run.path}/tta: {part} of fold {index}, view {view}"
                check_rows_once(one["image_id"], wanted, what)
            except UserError as error:
                raise BrokenRun(error, run.path) from None


def add_rows(run: Run, index: int, part: str, fresh: pd.DataFrame) -> None:
    """Add rows of further views to those that a fold has."""
    tables = [one for one in (_added(run, index, part), fresh) if one is not None and len(one)]
    check_there(run.path)
    _further(run, index, part).parent.mkdir(exist_ok=True)
    table = pd.concat(tables, ignore_index=True).assign(of=_origin(run, index))
    file = _further(run, index, part)
    write_table(file, table)
    # A process that is killed here leaves a table with another hash, which is written again.
    name = f"tta/{file.name}"
    write_json(run.path / HASHES, _hashes(run) | {name: file_hash(file)})


def kept_views(run: Run) -> tuple[str, ...]:
    """Return the views whose logits every fold has, in the order of the first fold."""
    tables = [
        saved_rows(run, index, part) for index in models_of(run) for part in parts_of(run, index)
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
    before = _pipelines_before(file)
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
        check_there(run.path)
        file.parent.mkdir(exist_ok=True)
        write_json(file, _pipelines_before(file) | now)


def _pipelines_before(file: Path) -> dict[str, str]:
    found: dict[str, str] = read_checked(file, dict[str, str], cure=AGAIN) if file.is_file() else {}
    return found


def _times(file: Path) -> dict[str, _Time]:
    found: dict[str, _Time] = (
        read_checked(file, dict[str, _Time], cure=AGAIN) if file.is_file() else {}
    )
    return found


def view_seconds(run: Run) -> dict[str, float]:
    """Return the seconds per image of each view that was timed; views of training are not."""
    times = _times(run.path / TIMES)
    return {name: one["seconds"] / one["pictures"] for name, one in times.items()}


def note_seconds(run: Run, times: Mapping[str, tuple[int, float]]) -> None:
    """Record numbers of images and seconds of views.

    Earlier times of the same views are replaced: they may be from another machine.
    """
    file = run.path / TIMES
    now = {name: {"pictures": num, "seconds": seconds} for name, (num, seconds) in times.items()}
    check_there(run.path)
    write_json(file, {**_times(file), **now})
