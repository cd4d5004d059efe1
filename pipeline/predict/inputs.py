"""Images to predict: files, folders, tables and patterns, or paths and arrays from Python."""

from __future__ import annotations

import dataclasses
import os
import secrets
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import PIL.Image

from foldblend.errors import UserError, listed
from foldblend.files import home
from foldblend.image_columns import ImageColumns, as_kind
from foldblend.images import Box
from foldblend.limits import MAX_PIXELS
from foldblend.tables import is_table
from foldblend.words import tidy
from folds.config import DataConfig
from folds.data.generic import column_in, read_user_table
from folds.data.groups import groups_by_regex
from folds.data.test_set import TestSet, Training, metadata_in, read_test_set

__all__ = ["Images", "Inputs", "each_once", "read_inputs"]

Images = str | os.PathLike[str] | np.ndarray | PIL.Image.Image | Sequence[Any] | pd.DataFrame


@dataclass(frozen=True)
class Inputs:
    """Images to predict, in their order."""

    ids: list[str]
    sources: Sequence[Any]
    """Path, array H x W [x 3] uint8 or uint16 (RGB) or PIL image of each."""
    boxes: Sequence[Box | None] | None = None
    groups: Sequence[str] | None = None
    labels: Sequence[int] | None = None
    """Class of each image, -1 where it is unknown."""
    found: tuple[str, ...] = ()
    """Sentences on what was recognised, for the log."""
    max_pixels: int = MAX_PIXELS
    """Most pixels of an image."""
    columns: ImageColumns | None = None
    """Columns that a blend needs beside the images; None if it needs none."""

    def __len__(self) -> int:
        return len(self.ids)

    def key(self) -> list[Any]:
        """Return what identifies the images.

        These are names, boxes, columns, and paths, sizes and times of files.
        """
        parts: list[Any] = []
        for place, (name, source) in enumerate(zip(self.ids, self.sources, strict=True)):
            box = None if self.boxes is None else self.boxes[place]
            parts.append((name, None if box is None else [*map(float, box)], *_stamp(source)))
        if self.columns is not None:
            parts += [[name, *map(str, one)] for name, one in self.columns.values.items()]
        return parts


def _stamp(source: Any) -> tuple[Any, ...]:
    """Return what changes with a file; of an image in memory, which has no such thing, a token."""
    if not isinstance(source, (str, os.PathLike)):
        return (secrets.token_hex(8),)
    try:
        about = Path(source).stat()
    except (OSError, ValueError):  # ValueError: the name has a NUL byte
        return (str(source),)
    return str(source), about.st_size, about.st_mtime_ns


def _table_in(place: str) -> Path | None:
    """Return the table that a place is or holds, or None."""
    path = home(place)
    try:
        if path.is_dir():
            return metadata_in(path)
        return path if path.is_file() and is_table(path) else None
    except OSError:
        return None


def _groups(found: TestSet, place: str, config: DataConfig) -> list[str] | None:
    """Return the group of each image, or None where groups are not asked for."""
    ids = list(found.image_id)
    file = _table_in(place)
    if config.group_col is None or file is None:
        return _groups_of_paths(ids, found.path, config)
    table = read_user_table(file, config)
    column = column_in(table, config.group_col, "", ())
    if column not in table.cells.columns:
        return None
    words = table.cells[column].tolist()
    return [word or name for word, name in zip(words, ids, strict=True)]


def _groups_of_paths(
    ids: Sequence[str], sources: Sequence[Any], config: DataConfig
) -> list[str] | None:
    """Return the group in the path of each image, or None where groups are not asked for."""
    if config.group_regex is not None:
        return groups_by_regex(config.group_regex, ids)
    if config.group_from == "parent":
        return [
            Path(source).absolute().parent.name if isinstance(source, (str, os.PathLike)) else name
            for name, source in zip(ids, sources, strict=True)
        ]
    return None


def _columns(place: str, config: DataConfig, needs: Mapping[str, str]) -> ImageColumns | None:
    """Return the columns of a table that a blend needs; raise UserError if it lacks one."""
    if not needs:
        return None
    file = _table_in(place)
    names = listed(needs, most=9)
    if file is None:
        raise UserError(_needed(needs))
    table = read_user_table(file, config)
    known = {tidy(str(name)): str(name) for name in table.cells}
    absent = [name for name in needs if name not in known]
    if absent:
        raise UserError(
            f"{file}: the blend needs the columns {names}, and it lacks {listed(absent, most=9)}"
            f"; it has {listed(known, most=9)}"
        )
    return ImageColumns(
        {
            name: as_kind(table.cells[known[name]].tolist(), kind, where=f"{file}: column {name!r}")
            for name, kind in needs.items()
        }
    )


def _needed(needs: Mapping[str, str]) -> str:
    """Return the message for images without the columns that a blend needs."""
    return (
        f"IMAGES: the blend needs the columns {listed(needs, most=9)}; pass a table of images that"
        " has them"
    )


def _one_place(
    place: str, config: DataConfig, classes: Sequence[str], needs: Mapping[str, str]
) -> Inputs:
    """Return the images of a file, folder, table or pattern."""
    training = Training(classes=classes, label_column=config.label_col)
    found = read_test_set(place, config, training, flag="IMAGES")
    boxes = found.extra.get("box")
    return Inputs(
        list(found.image_id),
        [str(path) for path in found.path],
        None if boxes is None else list(boxes),
        _groups(found, place, config),
        None if "label" not in found.extra else list(found.extra["label"]),
        tuple(found.found),
        columns=_columns(place, config, needs),
    )


def _from_frame(
    table: pd.DataFrame, classes: Sequence[str], config: DataConfig, needs: Mapping[str, str]
) -> Inputs:
    """Return the images of a data frame, which a user has read already."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "images.csv"
        table.to_csv(file, index=False)
        rooted = dataclasses.replace(config, image_root=config.image_root or str(Path.cwd()))
        return _one_place(str(file), rooted, classes, needs)


def _joined(parts: Sequence[Inputs]) -> Inputs:
    """Return the images of several places; raise UserError for a name that two of them have."""
    if len(parts) == 1:
        return parts[0]
    ids = [name for part in parts for name in part.ids]
    twice = pd.Series(ids)
    if not twice.is_unique:
        # Equal names in two folders: the paths tell them apart.
        ids = [str(source) for part in parts for source in part.sources]
        again = pd.Series(ids)
        if not again.is_unique:
            names = listed(again[again.duplicated()])
            raise UserError(f"{names}: given twice; pass each image once")

    def every(name: str, default: Any) -> list[Any] | None:
        if all(getattr(part, name) is None for part in parts):
            return None
        return [
            value
            for part in parts
            for value in (
                getattr(part, name) if getattr(part, name) is not None else [default] * len(part)
            )
        ]

    groups = every("groups", None)
    return Inputs(
        ids,
        [source for part in parts for source in part.sources],
        every("boxes", None),
        None if groups is None else [one or name for one, name in zip(groups, ids, strict=True)],
        every("labels", -1),
        tuple(line for part in parts for line in part.found),
        columns=_joined_columns([part.columns for part in parts]),
    )


def _joined_columns(parts: Sequence[ImageColumns | None]) -> ImageColumns | None:
    """Return the columns of several tables, which all have them if one needs them."""
    known = [part for part in parts if part is not None]
    if not known:
        return None
    names = known[0].values
    return ImageColumns(
        {name: np.concatenate([part.values[name] for part in known]) for name in names}
    )


def _in_memory(images: Sequence[Any], config: DataConfig) -> Inputs:
    """Return paths, arrays and PIL images as they were given, one after the other."""
    ids = []
    for index, one in enumerate(images):
        is_path = isinstance(one, (str, os.PathLike))
        ids.append(os.fspath(one) if is_path else f"image {index}")
    if len({*ids}) < len(ids):
        again = pd.Series(ids)
        raise UserError(f"{listed(again[again.duplicated()])}: given twice; pass each image once")
    return Inputs(ids, [*images], groups=_groups_of_paths(ids, images, config))


def _is_pixels(images: Any) -> bool:
    """Return whether an array has pixels, not paths."""
    return isinstance(images, np.ndarray) and images.dtype.kind not in "OUS"


def each_once(images: Images) -> tuple[Images, list[str] | None]:
    """Return images to predict, and their names if paths are repeated among them.

    Resampling, as scikit-learn does it, repeats paths. Each is predicted once.

    Parameters
    ----------
    images
        As for `read_inputs`.

    Returns
    -------
    Images
        The images, each path once.
    list of str or None
        The names of all images, with repeats; None if nothing is repeated, or it is not a
        sequence of paths of images.
    """
    if isinstance(images, (str, os.PathLike, pd.DataFrame, PIL.Image.Image, Mapping)):
        return images, None
    if not isinstance(images, Iterable) or _is_pixels(images):
        return images, None
    # A generator gives its paths only once.
    given = [*images]
    if not all(isinstance(one, (str, os.PathLike)) for one in given):
        return given, None
    names = [os.fspath(one) for one in given]
    once = [*dict.fromkeys(names)]
    if len(once) == len(names) or any(map(_is_place, once)):
        return given, None
    return once, names


def read_inputs(
    images: Images,
    config: DataConfig,
    classes: Sequence[str],
    needs: Mapping[str, str] | None = None,
) -> Inputs:
    """Return the images to predict, in their order.

    Parameters
    ----------
    images
        A file, folder, table or pattern (as --test takes it); a data frame with the columns that
        `config` names; an array or PIL image; or a sequence of paths of images, arrays and PIL
        images. A sequence of places that are not all images is read as several of these.
    config
        Settings of the data: columns, root, suffix and groups.
    classes
        Classes of the run, for labels.
    needs
        Columns that a blend needs beside the images: their kinds by their names.

    Raises
    ------
    UserError
        If nothing can be read there, or a column that is needed is not there.
    """
    found = _read_inputs(images, config, classes, needs or {})
    if needs and found.columns is None:
        raise UserError(_needed(needs))
    return dataclasses.replace(found, max_pixels=config.max_pixels)


def _read_inputs(
    images: Images, config: DataConfig, classes: Sequence[str], needs: Mapping[str, str]
) -> Inputs:
    if isinstance(images, pd.DataFrame):
        return _from_frame(images, classes, config, needs)
    if isinstance(images, (str, os.PathLike)):
        return _one_place(os.fspath(images), config, classes, needs)
    if isinstance(images, PIL.Image.Image) or _is_pixels(images):
        stack = images if isinstance(images, np.ndarray) and images.ndim == 4 else [images]
        return _in_memory([*stack], config)
    if isinstance(images, Mapping) or not isinstance(images, Iterable):
        raise UserError(f"images: {type(images).__name__} cannot be read; pass paths or arrays")
    given = [*images]
    if not given:
        raise UserError("images: none are given; pass at least one")
    places = [os.fspath(one) for one in given if isinstance(one, (str, os.PathLike))]
    if len(places) == len(given) and any(_is_place(one) for one in places):
        return _joined([_one_place(one, config, classes, needs) for one in places])
    return _in_memory(given, config)


def _is_place(text: str) -> bool:
    """Return whether a path is a folder, a table or a pattern, not a single image."""
    path = home(text)
    try:
        if path.is_dir() or (path.is_file() and is_table(path)):
            return True
        return not path.exists() and any(one in text for one in "*?[")
    except OSError:
        return False
