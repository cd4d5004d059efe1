"""Recognition of a data set's layout by its files."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pandas as pd

from foldblend.errors import UserError, listed
from foldblend.files import exists, home, is_file
from foldblend.tables import SUFFIXES, is_table, read_text_table
from folds.config import DataConfig
from folds.data.class_folders import TEST, TRAIN, VALIDATION, images_below, split_folders, tree_of
from folds.data.generic import IMAGE_COLUMNS, LABEL_COLUMNS
from folds.data.layout import find_layout_root
from folds.data.test_set import metadata_in

__all__ = ["layout_of", "metadata_files"]


# Rows of a table by which it is told whether it names the images of a folder.
MOST_TRIED = 100


def metadata_files(folder: Path) -> dict[str, Path]:
    """Return the metadata files of a folder: {"": file}, or one for each of train/, val/, test/."""
    file = metadata_in(folder)
    if file is not None:
        return {"": file}
    names = {*TRAIN, *VALIDATION, *TEST}
    parts = [one for one in sorted(folder.iterdir()) if one.is_dir() and one.name.lower() in names]
    found = {part.name: metadata_in(part) for part in parts}
    return {name: file for name, file in found.items() if file is not None}


def _is_class_folders(folder: Path, config: DataConfig) -> bool:
    """Return whether a folder can be read as a folder per class.

    Raises UserError for folders that can be read in two ways.
    """
    tree = tree_of(folder, config.image_suffix)
    tops = [top for top in tree.tops() if top]
    return len(tops) > 1 or (bool(tops) and split_folders(tree) is not None)


def _wrong_folder(folder: Path, text: str, flag: str) -> UserError:
    """Return the error for a folder that fits no layout, with the likely cure."""
    if is_file(folder / "run.json"):
        return UserError(
            f"{text} ({flag}): is the folder of a run, not of images; pass the data set that the"
            " run was made from"
        )
    tables = [one for one in sorted(folder.iterdir()) if one.is_file() and is_table(one)]
    images = tree_of(folder).images
    what = f"{text} ({flag}): holds no folder per class, no metadata.csv and no train/train.csv"
    if tables:
        first = tables[0] if len(tables) == 1 else f"one of them, such as {tables[0]}"
        return UserError(f"{what}, but {listed(one.name for one in tables)}; pass --data {first}")
    if images:
        return UserError(
            f"{what}, only {listed(images)}; put the images of each class in a folder, or pass a"
            " table of images with --data"
        )
    return UserError(f"{what}, and no image; pass the folder or table of your images")


def layout_of(path: Path, text: str, flag: str, config: DataConfig) -> str:
    """Return the layout of a data set: "table", "mask", "metadata" or "class-folders".

    Parameters
    ----------
    path
        The file or folder.
    text, flag
        The path as it was given, and the flag that gave it, for messages.
    config
        Settings of the data; with a --layout other than auto, the path is only checked.

    Raises
    ------
    UserError
        If no layout fits, or several do.
    """
    if not exists(path):
        raise UserError(f"{text} ({flag}): no such file or folder; check the path")
    if config.layout != "auto":
        needs_file = config.layout == "table"
        if needs_file != path.is_file():
            what = "a file" if needs_file else "a folder"
            raise UserError(f"{text} ({flag}): --layout {config.layout} needs {what}")
        return config.layout
    if not text.strip() or not (path.is_file() or path.is_dir()):
        raise UserError(f"{text!r} ({flag}): neither a file nor a folder; check the path")
    if path.is_file():
        if flag != "--csv" and not is_table(path):
            raise UserError(
                f"{text} ({flag}): not a table ({', '.join(SUFFIXES)}) or a folder; pass one, or"
                " --csv for a CSV of another name"
            )
        return "table"
    # train/train.csv with ages and genders is the mark of one competition, so it decides.
    if find_layout_root(path) is not None:
        return "mask"
    metadata = metadata_files(path)
    folders = _is_class_folders(path, config)
    if metadata and folders and _has_classes(path, metadata, config):
        first = next(iter(metadata.values()))
        raise UserError(
            f"{text} ({flag}): two readings fit, {first} and a folder per class; pass --layout"
            " metadata or --layout class-folders"
        )
    if metadata:
        return "metadata"
    if folders:
        _check_no_table(path, text, flag, config)
        return "class-folders"
    raise _wrong_folder(path, text, flag)


def _names_images(cells: pd.DataFrame, folder: Path) -> bool:
    """Return whether most cells of a column are names of images below a folder."""
    images = [PurePosixPath(name) for name in images_below(folder).images]
    names = (
        {str(one) for one in images} | {one.name for one in images} | {one.stem for one in images}
    )
    shown = cells.head(MOST_TRIED)
    return any(shown[column].isin(names).mean() > 0.5 for column in shown) and cells.shape[1] > 1


def _check_no_table(folder: Path, text: str, flag: str, config: DataConfig) -> None:
    """Raise UserError if a table of labelled images lies beside folders that look like classes."""
    others = (config.test, config.test_csv, config.sample_submission, config.corrections)
    named = {home(one).resolve() for one in others if one is not None}
    for file in sorted(folder.iterdir()):
        if not is_file(file) or not is_table(file) or file.resolve() in named:
            continue
        try:
            cells = read_text_table(file).cells
        except UserError:
            # What cannot be read as a table is no second reading.
            continue
        columns = {str(name).lower() for name in cells.columns}
        if (columns & {*IMAGE_COLUMNS} and columns & {*LABEL_COLUMNS}) or _names_images(
            cells, folder
        ):
            raise UserError(
                f"{text} ({flag}): two readings fit, the table {file.name} and a folder per class;"
                f" pass --data {file} or --layout class-folders"
            )


def _has_classes(folder: Path, metadata: dict[str, Path], config: DataConfig) -> bool:
    """Return whether folders below a folder with metadata look like classes, too."""
    part = folder / next(iter(metadata))
    return len([top for top in tree_of(part, config.image_suffix).tops() if top]) > 1
