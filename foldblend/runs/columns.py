"""Columns of the tables of run folders: their kinds and ranges, and what is wrong in a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow
import pyarrow.compute

from foldblend.errors import listed, shown
from foldblend.limits import MAX_ROWS
from foldblend.runs.info import MOST_MODELS

__all__ = [
    "OOF",
    "ROW_COLUMNS",
    "TABLES",
    "Column",
    "Table",
    "most_rows",
    "problem_of_schema",
    "problems",
    "quoted",
]

# Most rows of any table, whatever run.json says: it comes from the folder that is read.
MOST_ROWS = 10 * MAX_ROWS
# Most bytes of the cells of a table, as its footer tells, once they are unpacked.
MOST_CELLS = 2**36
# Tables of views have a row per image and view.
MOST_VIEWS = 100
ROW_NUMBERS = ("label", "label_raw", "repeat", "fold")
ROW_COLUMNS = ("image_id", "group", *ROW_NUMBERS)
Info = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """Kind of a column's values; only columns of boxes and of hashes may have none."""

    kind: Literal["text", "name", "whole", "logit", "number", "box"]
    """A name is a text that is not empty."""
    most: Callable[[Info], int] | None = None
    """Largest value of whole numbers from 0 on."""
    is_optional: bool = False
    """Whether the table may lack it, as those of earlier versions do."""


def most_rows(info: Info) -> int:
    """Return how many rows of a table are read: those of any run, or what run.json accounts for.

    So a run that was made with a larger --max-rows can be read, up to MOST_ROWS.
    """
    data = info.get("data", {})
    num_images = sum(data.get(f"num_{part}", 0) for part in ("images", "test", "training_only"))
    accounted = num_images * (info.get("num_repeats", 1) + MOST_VIEWS)
    return max(MAX_ROWS, min(accounted, MOST_ROWS))


def _label(info: Info) -> int:
    return len(info["classes"]) - 1


def _repeat(info: Info) -> int:
    return int(info["num_repeats"]) - 1


def _fold(info: Info) -> int:
    # A blend of different folds numbers their combinations.
    is_numbered = info.get("kind") in ("cv", "import")
    return int(info["num_folds"]) - 1 if is_numbered else MOST_MODELS - 1


NAME = Column("name")
ROWS: Mapping[str, Column] = {
    "image_id": NAME,
    "group": Column("text"),
    "label": Column("whole", _label),
    "label_raw": Column("whole", _label),
    "repeat": Column("whole", _repeat),
    "fold": Column("whole", _fold),
}


@dataclass(frozen=True, slots=True)
class Table:
    """Columns of a table."""

    columns: Mapping[str, Column]
    has_logits: bool = True
    key: tuple[str, ...] = ("image_id",)
    """Columns that identify a row."""
    further: Mapping[str, Column] = field(default_factory=dict)
    """Kinds of further columns, by the start of their names."""

    def further_in(self, names: Sequence[str]) -> dict[str, Column]:
        """Return the further columns among these names, in their order."""
        return {
            name: column
            for name in names
            for start, column in self.further.items()
            if name.startswith(start) and name != start
        }


OOF = Table(ROWS, key=("repeat", "image_id"))
TEST = Table({"image_id": NAME})
VIEWS = Table({"image_id": NAME, "view": NAME}, key=("view", "image_id"))
FURTHER = Table({"image_id": NAME, "view": NAME, "of": NAME}, key=("of", "view", "image_id"))
PICTURES = Table(
    {
        "part": NAME,
        "image_id": NAME,
        "path": NAME,
        "box": Column("box", is_optional=True),
        "content": Column("text", is_optional=True),
    },
    has_logits=False,
    key=("part", "image_id"),
)
LABELLED = Table({"image_id": NAME, "part": NAME}, key=("part", "image_id"))
# Cells may be empty.
COLUMNS = Table(
    {"part": NAME, "image_id": NAME},
    has_logits=False,
    key=("part", "image_id"),
    further={
        "number:": Column("number", is_optional=True),
        "category:": Column("text", is_optional=True),
    },
)
# Each parquet table of a run folder, by the pattern of its path without the suffix.
TABLES = {
    r"(plain_)?oof|fold_\d+/oof": OOF,
    r"(plain_)?test|test_(fold|refit)_\d+": TEST,
    r"tta/(oof|test)_fold_\d+|tta/test_refit_\d+": VIEWS,
    r"tta/further_(oof|test)_fold_\d+|tta/further_test_refit_\d+": FURTHER,
    r"pictures": PICTURES,
    r"labels/fold_\d+": LABELLED,
    r"columns": COLUMNS,
}


def quoted(names: Sequence[object]) -> str:
    """Return names of columns that a file has, which may be anything, for a message."""
    return listed(shown(str(one), most=40) for one in names)


def problem_of_schema(
    schema: pyarrow.Schema, wanted: Mapping[str, Column], about: Any, info: Info
) -> str | None:
    """Return what is wrong with a file before any column is read, or None; `about` is its footer.

    Columns of the file that are not wanted may be anything.
    """
    num_classes = len(info.get("classes", ()))
    most = most_rows(info)
    parts = [about.row_group(one) for one in range(about.num_row_groups)]
    # Both numbers are in the file, and either may be wrong.
    num_rows = max(about.num_rows, sum(part.num_rows for part in parts))
    if num_rows > most:
        return f"has {num_rows:,} rows, and at most {most:,} are read"
    if num_rows < 0:
        return f"has {num_rows:,} rows"
    size = sum(part.total_byte_size for part in parts)
    if size > MOST_CELLS:
        return f"has {size:,} bytes of cells, and at most {MOST_CELLS:,} are read"
    twice = [name for name, count in Counter(schema.names).items() if count > 1]
    if twice:
        return f"has several columns named {quoted(twice)}"
    extra = f"logit_{num_classes}"
    if extra in schema.names and "logit_0" in wanted:
        return f"has the column {extra}, and run.json has {num_classes} classes"
    absent = [
        name for name, one in wanted.items() if not one.is_optional and name not in schema.names
    ]
    if absent:
        return f"lacks {listed(absent)}"
    odd: dict[str, list[str]] = {}
    for name, one in wanted.items():
        what, is_kind = KINDS[one.kind]
        if name in schema.names and not is_kind(schema.field(name).type):
            kind = shown(str(schema.field(name).type), most=40)
            odd.setdefault(f"must be {what} in all rows, not {kind}", []).append(name)
    return next((f"{listed(names)} {why}" for why, names in odd.items()), None)


def _is_text(kind: pyarrow.DataType) -> bool:
    types = pyarrow.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind))


def _is_logit(kind: pyarrow.DataType) -> bool:
    return bool(pyarrow.types.is_float32(kind) or pyarrow.types.is_float64(kind))


def _is_box(kind: pyarrow.DataType) -> bool:
    types = pyarrow.types
    if types.is_null(kind):
        return True
    if not (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)):
        return False
    return bool(types.is_integer(kind.value_type) or types.is_floating(kind.value_type))


KINDS: dict[str, tuple[str, Callable[[pyarrow.DataType], bool]]] = {
    "text": ("texts", _is_text),
    "name": ("texts", _is_text),
    "whole": ("whole numbers", pyarrow.types.is_integer),
    "logit": ("numbers of 32 or 64 bits", _is_logit),
    "number": ("numbers", lambda kind: _is_logit(kind) or bool(pyarrow.types.is_integer(kind))),
    "box": ("lists of 4 numbers", _is_box),
}


def problems(values: pyarrow.ChunkedArray, column: Column, info: Info) -> Iterator[str]:
    """Yield what is wrong with the values of a column of the right type."""
    compute = pyarrow.compute
    if column.is_optional:
        if column.kind == "box" and not pyarrow.types.is_null(values.type):
            sizes = compute.unique(compute.list_value_length(values.drop_null())).to_pylist()
            if any(size != 4 for size in sizes):
                yield "must be lists of 4 numbers"
        return
    # Missing logits become NaN, which is refused by image.
    if values.null_count and column.kind != "logit":
        yield f"is absent in {values.null_count:,} rows"
    if column.kind == "name" and len(values):
        texts = values.cast("string") if pyarrow.types.is_dictionary(values.type) else values
        num = compute.sum(compute.equal(compute.binary_length(texts), 0)).as_py()
        if num:
            yield f"is empty in {num:,} rows"
    if column.kind == "whole" and column.most is not None and len(values):
        ends = compute.min_max(values).as_py()
        most = column.most(info)
        if ends["min"] is not None and (ends["min"] < 0 or ends["max"] > most):
            odd = ends["min"] if ends["min"] < 0 else ends["max"]
            yield f"must be from 0 to {most}, not {odd}"
