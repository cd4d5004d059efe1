"""Reading of tables of predictions: images, and numbers matched to classes by name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from foldblend.delimited import read_text
from foldblend.errors import UserError, counted, did_you_mean, listed, shown
from foldblend.files import home, is_file
from foldblend.tables import TextTable, cell_text, read_text_table
from foldblend.words import tidy
from folds.config import DataConfig
from folds.data.generic import IMAGE_COLUMNS, LABEL_COLUMNS
from folds.data.imported.known import KnownData

__all__ = ["PredictionTable", "Table", "frame_table", "named_columns", "read_predictions"]

Table = str | Path | pd.DataFrame
"""A table as it is given: a file, or a DataFrame."""
IMAGE_ID = "image_id"
FOLD = "fold"
REPEAT = "repeat"
# Columns of numbers that are no predictions of a class.
OTHERS = ("", "unnamed: 0", "index", "group", "prediction", "predicted", "pred", *LABEL_COLUMNS)
# Names that number the classes, as pandas, the run folders and others have them.
NUMBERED = re.compile(r"[^\d]*\d+")


@dataclass(frozen=True, kw_only=True)
class PredictionTable:
    """Predictions of images as they are in a table, not yet compared with the data."""

    table: TextTable
    ids: pd.Series
    """Image of each row; the index has the lines."""
    values_NC: np.ndarray
    """One number per class of the data, float64."""
    fold: pd.Series | None
    """Text of the column of folds, where the table has one."""
    repeat_N: np.ndarray
    """Repeat of each row, from 0 on without gaps."""
    column: str
    """Name of the column of images."""
    single: int | None = None
    """The class, if there is one column for one of two classes; the other one has zeros then."""

    @property
    def name(self) -> str:
        return str(self.table.file)

    def at(self, rows_N: np.ndarray) -> str:
        """Return the place of rows, given as a mask, such as "line 3, 7"."""
        return self.table.at(self.ids.index[rows_N])


def frame_table(frame: pd.DataFrame, name: str) -> TextTable:
    """Return a DataFrame as a table whose cells are texts; an index of names becomes a column."""
    if not isinstance(frame.index, pd.RangeIndex):
        kind = IMAGE_ID if frame.index.name is None else frame.index.name
        frame = frame.reset_index(names=kind)
    if isinstance(frame.columns, pd.MultiIndex):
        raise UserError(f"{name}: has several levels of columns; pass a table with one")
    cells = pd.DataFrame(
        {
            place: frame.iloc[:, place].astype(object).map(cell_text).to_numpy()
            for place in range(frame.shape[1])
        },
        dtype=object,
    )
    names = [tidy(str(one)) for one in frame.columns]
    cells.columns = pd.Index(names)
    twice = frozenset(one for one in names if names.count(one) > 1)
    if twice:
        raise UserError(f"{name}: several columns are named {listed(sorted(twice))}; rename them")
    return TextTable(file=Path(name), cells=cells, unit="row")


def named_columns(given: Sequence[str] | None) -> list[str] | None:
    """Return the classes of --columns: names, one text with commas, or a file of lines."""
    if given is None:
        return None
    if len(given) != 1:
        return [tidy(one) for one in given]
    file = home(given[0])
    parts = read_text(file).splitlines() if is_file(file) else given[0].split(",")
    return [word for part in parts if (word := tidy(part))]


def read_predictions(
    source: Table, name: str, known: KnownData, config: DataConfig, **about: object
) -> PredictionTable:
    """Read a table of predictions of any images.

    Parameters
    ----------
    source
        A file, or a DataFrame.
    name
        What it is, such as "--test", for messages.
    known
        The data, whose classes name the columns.
    config
        Settings of the data, with --sep, --encoding and --max-rows.
    about
        `id_col` and `columns` as the settings have them.

    Raises
    ------
    UserError
        With the file and line, for columns that are not the classes, or cells that are no numbers.
    """
    if isinstance(source, pd.DataFrame):
        table = frame_table(source, name)
    else:
        table = read_text_table(
            source,
            sep=config.sep,
            encoding=config.encoding,
            max_rows=config.max_rows,
            cure="pass --encoding, such as cp949 or cp1252, or save it as UTF-8",
        )
    if table.cells.empty:
        raise UserError(f"{table.file} ({name}): has no rows; pass predictions of all images")
    column = _id_column(table, about.get("id_col"), known, config)
    table.check_columns([("--id-col", column)])
    given = about.get("columns")
    columns = _class_columns(table, column, known, given if isinstance(given, list) else None)
    values_NC = _numbers(table, columns)
    single = None
    if len(columns) == 1:
        name_of_class = given[0] if isinstance(given, list) else tidy(columns[0])
        single = known.classes.index(name_of_class)
        values_NC = np.where(np.arange(2) == single, values_NC, 0.0)
    fold = table.cells.get(FOLD)
    if FOLD in table.twice or REPEAT in table.twice:
        raise UserError(f"{table.file}: two columns are named fold or repeat; rename one")
    return PredictionTable(
        table=table,
        ids=table.cells[column],
        values_NC=values_NC,
        fold=None if FOLD in known.classes else fold,
        repeat_N=_repeats(table),
        column=column,
        single=single,
    )


def _repeats(table: TextTable) -> np.ndarray:
    if REPEAT not in table.cells:
        return np.zeros(len(table.cells), np.int64)
    return np.unique(table.whole_numbers(REPEAT), return_inverse=True)[1]


def _id_column(table: TextTable, asked: object, known: KnownData, config: DataConfig) -> str:
    """Return the column of images."""
    if asked is not None:
        return str(asked)
    names = [one for one in table.cells.columns if tidy(one) not in known.classes]
    for name in (IMAGE_ID, known.id_column, config.image_col):
        if name in names:
            return name
    fits = [one for one in names if one.lower() in IMAGE_COLUMNS]
    if len(fits) == 1:
        return fits[0]
    cure = "pass --id-col with the column of the images"
    if fits:
        raise UserError(f"{table.file}: {listed(map(repr, fits))} could all be the image; {cure}")
    raise UserError(
        f"{table.file}: no column {IMAGE_ID!r}; it has {listed(table.cells.columns, most=9)};"
        f" {cure}"
    )


def _is_number(cells: pd.Series) -> bool:
    return bool(pd.to_numeric(cells, errors="coerce").notna().all())


def _class_columns(
    table: TextTable, id_column: str, known: KnownData, given: list[str] | None
) -> list[str]:
    """Return the column of each class, or one column for one of two classes.

    Raises UserError unless the columns have the names of the classes, or --columns gives them.
    """
    classes = known.classes
    ignored = {id_column, FOLD, REPEAT, *known.further}
    left = [one for one in table.cells.columns if one not in ignored and one.lower() not in OTHERS]
    if given is not None:
        return _given_columns(
            table, [one for one in left if _is_number(table.cells[one])], known, given
        )
    named: dict[str, str] = {}
    for one in table.cells.columns:
        if tidy(one) in classes and one not in (id_column, FOLD, REPEAT):
            if tidy(one) in named or one in table.twice:
                raise UserError(f"{table.file}: two columns are named {tidy(one)!r}; rename one")
            named[tidy(one)] = one
    others = [one for one in left if one not in named.values() and _is_number(table.cells[one])]
    if len(classes) == 2 and len(named) == 1 and not others:
        return [*named.values()]
    absent = [name for name in classes if name not in named]
    if not absent and not others:
        return [named[name] for name in classes]
    expected = f"the classes are {listed(map(repr, classes), most=9)}"
    if not absent:
        raise UserError(
            f"{table.file}: {listed(map(repr, others))} holds numbers but is no class; {expected};"
            " remove the column, or pass labels that have this class"
        )
    if not named and others and all(NUMBERED.fullmatch(one) for one in others):
        raise UserError(
            f"{table.file}: columns {listed(map(repr, others))} are numbered, and {expected};"
            " columns are matched by name, so rename them, or pass --columns with the class of each"
            " in their order"
        )
    near = did_you_mean(absent[0], others)
    has = f"it has {listed(map(repr, [*named.values(), *others]), most=9)}" if others else "it has"
    has = has if others or named else "it has no columns of numbers"
    raise UserError(
        f"{table.file}: no column {listed(map(repr, absent))}, and {expected}; {has}"
        f"{near or '; name the columns as the classes, or pass --columns'}"
    )


def _given_columns(
    table: TextTable, numbers: list[str], known: KnownData, given: list[str]
) -> list[str]:
    """Return the columns of numbers in the order of the classes, as --columns names them."""
    classes = known.classes
    where = f"{table.file}: --columns {listed(given, most=9)}"
    unknown = [one for one in given if one not in classes]
    if unknown:
        raise UserError(
            f"{where}: {unknown[0]!r} is no class; the classes are"
            f" {listed(map(repr, classes), most=9)}{did_you_mean(unknown[0], classes)}"
        )
    if len(given) != len(numbers) or len({*given}) < len(given):
        raise UserError(
            f"{where}: {counted(len({*given}), 'class')} for {len(numbers)} columns of numbers"
            f" ({listed(map(repr, numbers), most=9)}); name the class of each once"
        )
    # Names of classes in another order are not overruled: one of the two is an error.
    other = [one for one, name in zip(numbers, given, strict=True) if tidy(one) != name]
    if other and {*map(tidy, numbers)} <= {*classes}:
        raise UserError(
            f"{where}: column {other[0]!r} has the name of another class than the one given for it"
            f" ({given[numbers.index(other[0])]!r}); leave --columns out, or rename the columns"
        )
    if len(given) == 1 and len(classes) == 2:
        return numbers
    absent = [one for one in classes if one not in given]
    if absent:
        raise UserError(f"{where}: lacks {listed(absent)}; each class needs a column")
    return [numbers[given.index(name)] for name in classes]


def _numbers(table: TextTable, columns: Sequence[str]) -> np.ndarray:
    """Return columns as finite numbers, N x C float64.

    Raises UserError with the line of a cell that is none.
    """
    values_NC = np.stack(
        [pd.to_numeric(table.cells[one], errors="coerce").to_numpy(np.float64) for one in columns],
        axis=1,
    )
    with np.errstate(over="ignore"):
        bad_NC = ~np.isfinite(values_NC.astype(np.float32))
    if bad_NC.any():
        row, place = np.argwhere(bad_NC)[0]
        cell = shown(table.cells[columns[place]].iloc[row], most=40)
        num = int(bad_NC.any(axis=1).sum())
        more = f" ({num - 1:,} more rows like it)" if num > 1 else ""
        raise UserError(
            f"{table.file}: column {columns[place]!r} is {cell!r} in"
            f" {table.at(table.cells.index[[row]])}, not a finite number{more}; correct it"
        )
    return values_NC
