"""Reader of tables of labelled images with any classes and groups."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from foldblend.errors import UserError, counted, listed, shown
from foldblend.files import exists, home
from foldblend.images import Box
from foldblend.tables import TextTable, read_text_table
from foldblend.words import tidy
from folds.config import DataConfig
from folds.data.finder import Found, find_images, is_image
from folds.data.labelled import Labelled
from folds.data.single_label import one_hot_columns
from folds.data.unpack import unpack_images

__all__ = [
    "checked_table",
    "images_of",
    "join_labelled",
    "names_in",
    "read_labelled_table",
    "read_user_table",
]

# Columns that can have the image or the class, where the table lacks the default name.
IMAGE_COLUMNS = ("image", "file_name", "filename", "file", "path", "filepath", "image_path", "img",
                 "image_id", "id")  # fmt: skip
LABEL_COLUMNS = ("label", "labels", "class", "target", "category")


def names_in(text: str | None) -> tuple[str, ...]:
    """Return the names in a comma-separated text."""
    return () if text is None else tuple(name.strip() for name in text.split(","))


def read_user_table(file: Path, config: DataConfig) -> TextTable:
    """Read a table of images with the user's --sep and --encoding."""
    return read_text_table(
        file,
        sep=config.sep,
        encoding=config.encoding,
        max_rows=config.max_rows,
        cure="pass --encoding, such as cp949 or cp1252, or save it as UTF-8",
    )


def column_in(table: TextTable, name: str, default: str, known: Sequence[str]) -> str:
    """Return the column to use: `name`, or the only known one if the default is not there.

    Raises UserError if several known columns could be meant.
    """
    columns = list(table.cells.columns)
    if name in columns or name != default:
        return name
    fits = [one for one in columns if one.lower() in known]
    if default == "image" and len(columns) == 1 and not is_image(columns[0]):
        fits = columns
    if len(fits) > 1:
        flag = "--image-col" if default == "image" else "--label-col"
        raise UserError(
            f"{table.file}: columns {' and '.join(map(repr, fits))} could both be the {default};"
            f" pass {flag}"
        )
    return fits[0] if fits else name


def box_columns(config: DataConfig) -> tuple[str, ...]:
    """Return the four columns of --box-cols, or none; raise UserError for another number."""
    names = names_in(config.box_cols)
    if names and (len(names) != 4 or len(set(names)) != 4):
        what = "four columns" if len(names) != 4 else "four different columns"
        raise UserError(f"--box-cols {shown(config.box_cols)}: pass {what}, as x1,y1,x2,y2")
    return names


def boxes_in(table: TextTable, config: DataConfig) -> dict[str, list[Box]]:
    """Return {"box": one tuple of pixels per row}, or {} without box columns."""
    names = box_columns(config)
    if not names:
        return {}
    numbers = table.cells[list(names)].apply(pd.to_numeric, errors="coerce")
    x1, y1, x2, y2 = (numbers[column] for column in names)
    bad = table.cells.index[~(np.isfinite(numbers).all(axis=1) & (x1 < x2) & (y1 < y2))]
    if len(bad):
        raise UserError(
            f"{table.file}: no box in {table.at(bad)} (--box-cols {','.join(names)}): "
            "write four numbers of pixels with x1 < x2 and y1 < y2"
        )
    return {"box": list(zip(*(numbers[column].astype(float) for column in names), strict=True))}


def images_of(
    table: TextTable, column: str, roots: Sequence[Path], config: DataConfig, *, cure: str
) -> Found:
    """Return the image files that a column names, or holds."""
    if column in table.images:
        return unpack_images(table, column)
    return find_images(
        table.cells[column].tolist(),
        roots,
        where=str(table.file),
        cure=cure,
        suffix=config.image_suffix,
    )


def given_root(folder: str | None, flag: str) -> list[Path]:
    """Return the folder of a flag as a list, empty without one; raise UserError if it is absent."""
    if folder is None:
        return []
    root = home(folder)
    if not (exists(root) and root.is_dir()):
        raise UserError(f"{folder}: no such folder; check {flag}")
    return [root]


def _check_label_column(table: TextTable, column: str) -> None:
    """Raise UserError if the labels are in one column per class instead."""
    if column in table.cells.columns:
        return
    flags = one_hot_columns(table.cells)
    if flags:
        raise UserError(
            f"{table.file}: no column {column!r} (--label-col), but columns"
            f" {listed(flags, most=9)} have a 0 or 1 for each class; write the name of the class"
            " into one column (a classifier needs one class per image)"
        )


def checked_table(
    file: Path, config: DataConfig, table: TextTable | None = None
) -> tuple[TextTable, str, str]:
    """Read a table of labelled images and return it with its image and its label column.

    `table` is its content where it has been read.

    Raises UserError for a file that cannot be read, or columns that are missing or have blanks.
    """
    table = read_user_table(file, config) if table is None else table
    image_col = column_in(table, config.image_col, "image", IMAGE_COLUMNS)
    label_col = column_in(table, config.label_col, "label", LABEL_COLUMNS)
    _check_label_column(table, label_col)
    wanted = [("--image-col", image_col), ("--label-col", label_col)]
    wanted += [("--group-col", config.group_col)] if config.group_col is not None else []
    wanted += [("--attribute-cols", name) for name in names_in(config.attribute_cols)]
    wanted += [("--box-cols", name) for name in box_columns(config)]
    table.check_columns(wanted)
    _check_line_breaks(table, [name for _, name in wanted])
    return table, image_col, label_col


def read_labelled_table(
    file: Path, config: DataConfig, *, prefix: str = "", table: TextTable | None = None
) -> Labelled:
    """Read a table of labelled images.

    Parameters
    ----------
    file
        CSV, TSV, JSON lines or Parquet with one row per image.
    config
        Settings of the data: columns, folders and what to do with missing images.
    prefix
        Start of the images' ids, for tables of several folders that are pooled.
    table
        Content of the file, where it has been read.

    Raises
    ------
    UserError
        With file, column and line, for anything that cannot be used.
    """
    table, image_col, label_col = checked_table(file, config, table)
    attributes = names_in(config.attribute_cols)
    group_col = config.group_col
    roots = [*given_root(config.image_root, "--image-root"), table.file.parent]
    found = images_of(
        table,
        image_col,
        roots,
        config,
        cure="remove one, or write paths that only one of the two folders has",
    )
    # Notes reach the report, which must tell what was left out.
    left_out = []
    kept = np.ones(len(table.cells), bool)
    if config.on_bad_image == "skip" and found.missing:
        gone = [found.ids[row] for row in found.missing]
        left_out.append(f"{file}: skipped {counted(len(gone), 'missing image')}: {listed(gone)}")
        kept[found.missing] = False
        words = table.cells[label_col].map(tidy)
        lost = sorted({*words} - {*words[kept]})
        if lost:
            left_out.append(f"{file}: no image is left of class {listed(lost)}, which is left out")
    if not kept.any():
        raise UserError(f"{file}: has no row with an image; add rows or check --image-root")
    rows = np.flatnonzero(kept)
    cells = table.cells[kept]
    boxes = boxes_in(table, config)
    notes = [
        f"{file}: column {one!r} taken as the {what}"
        for one, asked, what in (
            (image_col, config.image_col, "image"),
            (label_col, config.label_col, "label"),
        )
        if one != asked
    ]
    of_label = table.categories.get(label_col)
    roles = {image_col, label_col, group_col, *attributes, *box_columns(config), *table.twice}
    return Labelled(
        source=file,
        image_id=[prefix + found.ids[row] for row in rows],
        path=[found.paths[row] for row in rows],
        word=cells[label_col].tolist(),
        label_where=f"{file}: column {label_col!r}",
        at=lambda row: f"{table.unit} {cells.index[row]}",
        group=None if group_col is None else cells[group_col].tolist(),
        group_where=f"{file}: column {group_col!r} (--group-col)",
        attributes={name: cells[name].tolist() for name in attributes},
        categories={
            **({} if of_label is None else {"": of_label}),
            **{name: one for name, one in table.categories.items() if name in attributes},
        },
        extra={name: [values[row] for row in rows] for name, values in boxes.items()},
        columns={
            name: cells[name].to_numpy()
            for name in map(str, cells)
            if name not in roles and name not in table.images
        },
        id_column=image_col,
        label_column=label_col,
        notes=[*left_out, *found.notes],
        found=notes,
    )


def _check_line_breaks(table: TextTable, columns: Iterable[str]) -> None:
    """Raise UserError for a cell of several lines, which a lost quote makes."""
    for name in columns:
        broken = table.cells.index[table.cells[name].str.contains(r"[\r\n]", regex=True)]
        if len(broken):
            raise UserError(
                f"{table.file}: column {name!r} has a cell of several lines in {table.at(broken)};"
                " a double quote is probably missing there"
            )


def join_labelled(parts: Sequence[Labelled], source: Path) -> Labelled:
    """Return several tables or folders of labelled images as one."""
    if len(parts) == 1:
        return parts[0]
    starts = np.cumsum([0, *(len(part.image_id) for part in parts)])

    def at(row: int) -> str:
        number = int(np.searchsorted(starts, row, side="right")) - 1
        part = parts[number]
        place = part.at(row - int(starts[number]))
        # An image's id has the folder in it; a line number needs its table.
        return f"{part.source}: {place}" if part.source.is_file() else place

    def joined(name: str) -> list[object]:
        return list(itertools.chain.from_iterable(getattr(part, name) for part in parts))

    first = parts[0]
    groups = None if first.group is None else joined("group")
    return Labelled(
        source=source,
        image_id=joined("image_id"),  # type: ignore[arg-type]
        path=joined("path"),  # type: ignore[arg-type]
        word=joined("word"),  # type: ignore[arg-type]
        label_where=first.label_where,
        at=at,
        group=groups,  # type: ignore[arg-type]
        group_where=first.group_where,
        attributes={
            name: [*itertools.chain.from_iterable(part.attributes[name] for part in parts)]
            for name in first.attributes
        },
        categories=first.categories,
        extra={
            name: [*itertools.chain.from_iterable(part.extra[name] for part in parts)]
            for name in first.extra
        },
        columns={
            name: [*itertools.chain.from_iterable(part.columns[name] for part in parts)]
            for name in first.columns
            if all(name in part.columns for part in parts)
        },
        id_column=first.id_column,
        label_column=first.label_column,
        warnings=joined("warnings"),  # type: ignore[arg-type]
        notes=joined("notes"),  # type: ignore[arg-type]
        found=joined("found"),  # type: ignore[arg-type]
    )
