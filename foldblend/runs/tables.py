"""Tables of run folders: their columns, kinds and ranges, checked while they are read.

The bytes of a file are hashed, compared with the hash that the run recorded, and parsed from
memory. Large files are parsed from the file, which stays open in between: files of runs are
replaced, never changed in place.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.compute
import pyarrow.parquet

from foldblend.blocks import in_blocks
from foldblend.errors import UserError, listed, shown
from foldblend.files import is_file
from foldblend.reading import open_regular
from foldblend.runs.broken import BrokenRun
from foldblend.runs.columns import (
    OOF,
    ROW_COLUMNS,
    TABLES,
    Column,
    Table,
    most_rows,
    problem_of_schema,
    problems,
    quoted,
)
from foldblend.runs.folder import logit_columns, with_logits
from foldblend.runs.ids import is_increasing

__all__ = [
    "ROW_COLUMNS",
    "TableReader",
    "check_rows_once",
    "read_hashed",
    "read_log",
]

# Most bytes of a table that is read.
MOST_BYTES = 2**36
MOST_LOG = 2**28
LARGEST_LOGGED = 1e30  # larger numbers are of no use, and their differences may overflow
MANY_BYTES = 2**24  # of a table that is read by several threads, and not from memory
AT_ONCE = 2**25  # bytes of logits that are read at once, so that memory holds them once
AGAIN = "run it again"


def read_hashed(file: Path, *, most: int = MOST_BYTES, cure: str = AGAIN) -> tuple[bytes, str]:
    """Return the content of a regular file and its hash (see `foldblend.runs.folder.file_hash`).

    The bytes that are hashed are the ones that are returned. Raises UserError if the file cannot
    be read or has more than `most` bytes.
    """
    digest = hashlib.blake2b(digest_size=16)
    with open_regular(file, cure=cure) as source:
        size = os.fstat(source.fileno()).st_size
        if size > most:
            raise UserError(f"{file}: has {size:,} bytes, and at most {most:,} are read; {cure}")
        parts = []
        left = size
        try:
            # One call reads at most 2 GiB. A file that another process cuts ends earlier.
            while left and (part := source.read(left)):
                digest.update(part)
                parts.append(part)
                left -= len(part)
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({error.strerror}); {cure}") from None
    return parts[0] if len(parts) == 1 else b"".join(parts), digest.hexdigest()


def _table_of(name: str) -> Table:
    return next(one for pattern, one in TABLES.items() if re.fullmatch(pattern, name))


def _one_chunk(found: pyarrow.Table) -> pd.DataFrame:
    """Return a table whose texts are one piece of memory each.

    Of texts in several pieces, as row groups are read, all are copied whenever a row is taken.
    """
    rows: pd.DataFrame = found.combine_chunks().to_pandas()
    return rows


@dataclass(frozen=True)
class TableReader:
    """Reads the tables of a run folder."""

    folder: Path
    info: Mapping[str, Any]
    """Checked content of run.json."""
    hashes: Mapping[str, str]
    """Recorded hashes by file name."""

    def data(self, name: str, *, cure: str = AGAIN) -> bytes:
        """Return the content of a file of the run, after a comparison with its recorded hash.

        Raises BrokenRun if the file cannot be read, or has changed.
        """
        file = self.folder / name
        if not file.exists():
            raise self.broken(name, f"no such file; {cure}")
        try:
            data, digest = read_hashed(file, cure=cure)
        except UserError as error:
            raise BrokenRun(error, self.folder) from None
        self._check_hash(name, digest)
        return data

    def _check_hash(self, name: str, digest: str) -> None:
        """Raise BrokenRun if this is not the recorded hash of a file."""
        if self.hashes.get(name, digest) != digest:
            cure = (
                "repeat the run's command, which trains nothing and writes it again"
                if name == "config.yaml"
                else "make the run again"
            )
            raise self.broken(
                name,
                f"has changed since the run was made (its hash is not the recorded one); {cure}, or"
                " restore the file",
            )

    def broken(self, name: str, why: str) -> BrokenRun:
        """Return the error for a file of the run."""
        return BrokenRun(f"{self.folder / name}: {why}", self.folder)

    def read(
        self, name: str, columns: Sequence[str] | None = None, *, unique: bool = True
    ) -> pd.DataFrame:
        """Return a table of the run.

        Parameters
        ----------
        name
            Path of the table in the folder, without its suffix, such as "test_fold_0".
        columns
            Columns to read; default: all that such a table has.
        unique
            Whether to check that no row occurs twice, where the columns that tell are read.

        Raises
        ------
        BrokenRun
            If the file is absent, has changed or is no such table.
        """
        if columns is None and _table_of(name).has_logits:
            columns = [*_table_of(name).columns]
            return with_logits(*self.read_logits(name, columns, unique=unique, order="F"))
        with self._source(name, columns) as (source, wanted):
            rows = _one_chunk(self._found(name, source, wanted))
        if unique:
            self._check_rows(name, rows)
        return rows

    def read_logits(
        self,
        name: str,
        columns: Sequence[str],
        *,
        unique: bool = True,
        order: Literal["C", "F"] = "C",
    ) -> tuple[pd.DataFrame, np.ndarray]:
        """Return columns of a table and its logits, N x C float32, in this order of memory.

        See `read` for the parameters.
        """
        of_class = logit_columns(len(self.info["classes"]))
        with self._source(name, [*columns, *of_class]) as (source, wanted):
            found = self._found(name, source, {one: wanted[one] for one in columns})
            rows = _one_chunk(found)
            logits_NC = np.empty((0, len(of_class)), np.float32)
            step = max(1, AT_ONCE // (4 * max(1, source.metadata.num_rows)))
            for start in range(0, len(of_class), step):
                names = of_class[start : start + step]
                part = self._found(name, source, {one: wanted[one] for one in names})
                # The number of rows in the footer may be wrong.
                if not start:
                    logits_NC = np.empty((len(part), len(of_class)), np.float32, order)
                with np.errstate(over="ignore"):
                    for place, values in enumerate(part.columns, start):
                        logits_NC[:, place] = values.to_numpy()
        finite_N = in_blocks(lambda part_NC: np.isfinite(part_NC).all(axis=1), logits_NC)
        if not finite_N.all():
            raise self._not_finite(name, finite_N)
        if unique:
            self._check_rows(name, rows)
        return rows, logits_NC

    def _check_rows(self, name: str, rows: pd.DataFrame) -> None:
        """Raise BrokenRun if a row occurs twice, where the columns that tell were read."""
        table = _table_of(name)
        if {*table.key} <= {*rows}:
            self._check_unique(f"{name}.parquet", rows, table.key)
            if table is OOF and "/" not in name:
                self._check_repeats(f"{name}.parquet", rows)

    def _not_finite(self, name: str, finite_N: np.ndarray) -> BrokenRun:
        """Return the error for logits that are not finite, with their images."""
        bad = listed(self.read(name, ["image_id"]).loc[~finite_N, "image_id"])
        return self.broken(
            f"{name}.parquet",
            f"logits of {bad} are not finite; leave the run out, or make it again with a lower"
            " --lr",
        )

    @contextmanager
    def _opened(self, file: str) -> Iterator[pyarrow.NativeFile]:
        """Open a file of the run, after a comparison with its recorded hash (see `data`)."""
        path = self.folder / file
        if not is_file(path) or path.stat().st_size <= MANY_BYTES:
            yield pyarrow.BufferReader(self.data(file))
            return
        try:
            opened = cast("io.FileIO", open_regular(path, cure=AGAIN))
        except UserError as error:
            raise BrokenRun(error, self.folder) from None
        with opened:
            try:
                digest = hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=16))
                opened.seek(0)
            except OSError as error:
                raise self.broken(file, f"cannot be read ({error.strerror}); {AGAIN}") from None
            self._check_hash(file, digest.hexdigest())
            yield pyarrow.PythonFile(io.BufferedReader(opened), mode="r")
        # Arrow would keep what it has used for the columns.
        pyarrow.default_memory_pool().release_unused()

    @contextmanager
    def _source(
        self, name: str, columns: Sequence[str] | None
    ) -> Iterator[tuple[pyarrow.parquet.ParquetFile, dict[str, Column]]]:
        """Open a table whose schema is checked, with the columns that it has of these (or of all).

        Raises BrokenRun if it is absent, has changed, or is no such table.
        """
        table = _table_of(name)
        file = f"{name}.parquet"
        wanted = {**table.columns}
        if table.has_logits:
            wanted |= dict.fromkeys(logit_columns(len(self.info["classes"])), Column("logit"))
        if columns is not None:
            wanted = {one: wanted[one] for one in columns}
        with self._opened(file) as opened:
            try:
                with pyarrow.parquet.ParquetFile(opened) as source:
                    names = source.schema_arrow.names
                    wanted = {**wanted, **table.further_in(names)}
                    wrong = problem_of_schema(
                        source.schema_arrow, wanted, source.metadata, self.info
                    )
                    if wrong is not None:
                        raise self.broken(file, f"{wrong}; {AGAIN}")
                    yield source, {one: kind for one, kind in wanted.items() if one in names}
            except UserError:
                raise
            except (
                OSError,
                ValueError,
                LookupError,
                TypeError,
                OverflowError,
                pyarrow.ArrowException,
            ) as error:
                why = shown(" ".join(str(error).split()), most=80)
                raise self.broken(file, f"cannot be read ({why}); {AGAIN}") from None

    def _found(
        self, name: str, source: pyarrow.parquet.ParquetFile, wanted: Mapping[str, Column]
    ) -> pyarrow.Table:
        """Return these columns of a table that is open, of the right kinds and in their ranges."""
        # Small tables are read by one thread each, which takes half of the processor time of
        # several; callers read two tables at once.
        size = sum(
            source.metadata.row_group(one).total_byte_size
            for one in range(source.metadata.num_row_groups)
        )
        found = source.read([*wanted], use_threads=size > MANY_BYTES)
        each = (
            f"{one} {problem}"
            for one, kind in wanted.items()
            for problem in problems(found[one], kind, self.info)
        )
        wrong = next(each, None)
        if wrong is not None:
            raise self.broken(f"{name}.parquet", f"{wrong}; {AGAIN}")
        # What pandas wrote about its types is not needed, and may be damaged.
        return found.replace_schema_metadata(None)

    def _check_unique(self, file: str, rows: pd.DataFrame, key: Sequence[str]) -> None:
        *within, last = key
        # Most tables have one repeat or view, and need no groups.
        values_of = {one: rows[one].to_numpy() for one in within}
        within = [one for one, each in values_of.items() if (each != each[:1]).any()]
        parts = rows.groupby(within, sort=False) if within else [((), rows)]
        for values, part in parts:
            # Most tables are sorted, which is seen much faster.
            if not is_increasing(part[last]) and not part[last].is_unique:
                twice = part.loc[part[last].duplicated(), last].unique()
                at = "".join(f", {one} {value}" for one, value in zip(within, values, strict=True))
                raise self.broken(
                    f"{file}{at}",
                    f"each image must have exactly one row, but {len(twice)} doubled"
                    f" ({listed(twice)}); {AGAIN} from the start",
                )

    def _check_repeats(self, file: str, rows: pd.DataFrame) -> None:
        """Raise BrokenRun unless each repeat has each image; none has one twice."""
        num_repeats = int(self.info["num_repeats"])
        # Their range is checked already.
        count_R = np.bincount(rows["repeat"].to_numpy(np.int64), minlength=num_repeats)
        if not count_R.all():
            raise self.broken(file, f"repeats are not numbered 0 to {num_repeats - 1}; {AGAIN}")
        num_ids = len(rows) if num_repeats == 1 else rows["image_id"].nunique()
        num = self.info.get("data", {}).get("num_images", num_ids)
        if num_ids != num:
            raise self.broken(file, f"has {num_ids:,} images, and run.json {num:,}; {AGAIN}")
        odd = np.flatnonzero(count_R != num_ids)
        if len(odd):
            found = rows.loc[rows["repeat"] == odd[0], "image_id"]
            try:
                where = f"{self.folder / file}, repeat {odd[0]}"
                check_rows_once(found, rows["image_id"].drop_duplicates(), where)
            except UserError as error:
                raise BrokenRun(error, self.folder) from None

    def text_table(self, name: str, columns: Sequence[str]) -> pd.DataFrame:
        """Return a CSV of the run with all cells as text, so that 007 and NA stay what they are.

        Raises BrokenRun if it is absent, has changed, or lacks one of the columns.
        """
        data = self.data(name)
        most = most_rows(self.info)
        if data.count(b"\n") > most + 1:
            raise self.broken(name, f"has over {most:,} rows; {AGAIN}")
        try:
            table = pd.read_csv(io.BytesIO(data), dtype=str, keep_default_na=False)
        except (OSError, ValueError, LookupError, OverflowError) as error:
            why = shown(" ".join(str(error).split()), most=80)
            raise self.broken(name, f"cannot be read ({why}); {AGAIN}") from None
        absent = [one for one in columns if one not in table]
        if absent:
            raise self.broken(name, f"lacks {listed(absent)}; {AGAIN}")
        # Rows with fewer cells than the header.
        blank = [one for one in columns if table[one].isna().any()]
        if blank:
            raise self.broken(name, f"has rows without {listed(blank)}; {AGAIN}")
        return table


def read_log(file: Path) -> pd.DataFrame:
    """Return the log of a fold, one row per epoch, as finite numbers or NaN.

    Numbers beyond 1e30 become NaN too. Raises BrokenRun if it is no table of numbers.
    """
    folder = file.parent.parent
    cure = "remove it to go without its curves"
    data, _ = read_hashed(file, most=MOST_LOG, cure=cure)
    try:
        table = pd.read_csv(io.BytesIO(data))
    except (OSError, ValueError, LookupError, OverflowError) as error:
        why = shown(" ".join(str(error).split()), most=80)
        raise BrokenRun(f"{file}: cannot be read ({why}); {cure}", folder) from None
    # A column of texts, and numbers that float has not.
    odd = [name for name in table if table[name].dtype.kind not in "iuf"]
    if not odd and "epoch" in table:
        epoch = table["epoch"]
        odd = [] if epoch.between(0, 10**9).all() and (epoch % 1 == 0).all() else ["epoch"]
    if odd:
        raise BrokenRun(f"{file}: {quoted(odd)} must be numbers in all rows; {cure}", folder)
    return table.where(table.abs() <= LARGEST_LOGGED)


def check_rows_once(found: pd.Series, wanted: pd.Series, what: str) -> None:
    """Raise UserError unless `found` has each id of `wanted` exactly once and no others.

    `what` names the file in the message.
    """
    twice = found[found.duplicated()].unique()
    absent = wanted[~wanted.isin(found)]
    foreign = found[~found.isin(wanted)]
    if len(twice) or len(absent) or len(foreign):
        raise UserError(
            f"{what}: each image must have exactly one row, but {len(absent)} are missing"
            f" ({listed(absent)}), {len(twice)} doubled ({listed(twice)}), {len(foreign)} unknown"
            f" ({listed(foreign)}); run it again from the start"
        )
