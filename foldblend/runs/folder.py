"""Files of a run folder: atomic writing, reading, hashes and locks, without torch."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.csv
import pyarrow.parquet
from filelock import Timeout

from foldblend.blocks import block_starts
from foldblend.drafts import DRAFT, sweep_drafts
from foldblend.errors import UserError
from foldblend.files import (
    check_no_link,
    remove,
    write_bytes,
    write_with,
)
from foldblend.locks import hold, is_held
from foldblend.reading import read_json_file

__all__ = [
    "COLUMNS",
    "FORMAT",
    "PICTURES",
    "SECTIONS",
    "check_there",
    "clear_folder",
    "csv_bytes",
    "drop_fold_locks",
    "file_hash",
    "ids_hash",
    "is_empty",
    "is_fold_locked",
    "is_in_use",
    "lock_fold",
    "lock_folder",
    "logit_columns",
    "read_json",
    "rows_like",
    "sweep",
    "table_hashes",
    "with_logits",
    "write_blocks",
    "write_json",
    "write_section",
    "write_table",
]

FORMAT = 1
PICTURES = "pictures.parquet"
COLUMNS = "columns.parquet"
# Files whose hashes run.json records if they are there. report.json and sections may be written
# again at any time, and other files have hashes of their own.
HASHED = (
    "config.yaml",
    "oof.parquet",
    "test.parquet",
    "plain_oof.parquet",
    "plain_test.parquet",
    PICTURES,
    COLUMNS,
    "submission.csv",
    "submission_ids.csv",
    "test_labels.csv",
    "test_groups.csv",
)
LOCK = ".lock"
# A fold has a lock of its own, so that several processes can train folds of one run.
FOLD_LOCK = ".lock-fold-"
# So ends the name of the second lock of a fold, of the process on a node of a cluster.
ON_NODE = "-node"
# Seconds in which another process that only looks at a lock has looked (see `is_held`).
PATIENCE = 0.1
SECTIONS = "sections"


def ids_hash(ids: Iterable[str]) -> str:
    """Return a hash of image names that does not depend on their order."""
    return hashlib.blake2b(json.dumps(sorted(ids)).encode(), digest_size=16).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; raise ValueError for NaN, which JSON does not have."""
    write_bytes(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path, *, cure: str = "") -> Any:
    """Read a JSON file; raise UserError, with the cure, if it is absent or not valid JSON."""
    cure = cure or "remove the run folder and run again"
    return read_json_file(path, cure=cure, absent="is this a run folder?")


Blocks = Callable[[], Iterable[pd.DataFrame]]
"""Function that makes the blocks of a table, one after the other, each time it is called."""


def write_table(path: Path, table: pd.DataFrame, logits_NC: np.ndarray | None = None) -> None:
    """Write a table atomically, as CSV if the suffix is .csv and as parquet otherwise.

    Its columns are followed by those of the logits, if there are any. It is written block by
    block, each of which is a row group of a parquet file.
    """
    # About as many bytes as in memory, where texts count as their references only.
    needed = int(table.memory_usage(index=False).sum())
    if logits_NC is not None:
        needed += 4 * logits_NC.size

    def block(rows: slice) -> pd.DataFrame:
        part = table.iloc[rows]
        return part if logits_NC is None else with_logits(part, logits_NC[rows])

    def blocks() -> Iterator[pd.DataFrame]:
        return map(block, block_starts(len(table)))

    empty = block(slice(0))
    wider = None if logits_NC is None else empty
    _write_blocks(path, blocks, empty, lambda: _schema_of(table, wider), needed)


def write_blocks(path: Path, blocks: Blocks) -> None:
    """Write a table of which no more than a block is in memory; see `write_table`."""
    first = next(iter(blocks()))
    _write_blocks(path, blocks, first, lambda: _schema_of(first), None)


def _schema_of(table: pd.DataFrame, wider: pd.DataFrame | None = None) -> pyarrow.Schema:
    """Return the schema of a table, or of a `wider` one that begins with its columns.

    The type of a column of objects, as texts are before pandas 3, is seen from all of its rows.
    """
    own = pyarrow.Schema.from_pandas(table, preserve_index=False)
    if wider is None:
        return own
    schema = pyarrow.Schema.from_pandas(wider, preserve_index=False)
    for place, one in enumerate(own):
        schema = schema.set(place, one)
    return schema


def _write_blocks(
    path: Path,
    blocks: Blocks,
    typical: pd.DataFrame,
    schema: Callable[[], pyarrow.Schema],
    needed: int | None,
) -> None:
    """Write blocks with the columns and types of a `typical` one; parquet files need a schema."""

    def write(draft: Path) -> None:
        # Of a path, pandas would replace ~, and pyarrow takes none that is no UTF-8.
        with draft.open("wb") as file:
            if path.suffix == ".csv":
                _write_csv(blocks, typical, file)
            else:
                _write_parquet(blocks(), schema(), file)

    write_with(path, write, needed=needed)


def csv_bytes(table: pd.DataFrame) -> bytes:
    """Return the content that `write_table` gives a CSV."""
    file = io.BytesIO()
    _write_csv(lambda: [table], table, file)
    return file.getvalue()


def _write_parquet(blocks: Iterable[pd.DataFrame], schema: pyarrow.Schema, file: BinaryIO) -> None:
    """Write each block as a row group; one block gives the bytes that pandas would write."""
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        for block in blocks:
            writer.write_table(
                pyarrow.Table.from_pandas(block, schema=schema, preserve_index=False)
            )


def _write_csv(blocks: Blocks, typical: pd.DataFrame, file: BinaryIO) -> None:
    """Write a CSV that reads the same as one written by pandas, using pyarrow if possible.

    pyarrow is ten times as fast, but it writes booleans differently and rejects mixed types.
    """
    if not any(pd.api.types.is_bool_dtype(kind) for kind in typical.dtypes):
        # With "needed", pyarrow quotes every text of the table, so "none" is tried first.
        for quotes in ("none", "needed"):
            try:
                file.write(typical.iloc[:0].to_csv(index=False).encode())
                options = pyarrow.csv.WriteOptions(include_header=False, quoting_style=quotes)
                for block in blocks():
                    pyarrow.csv.write_csv(
                        pyarrow.Table.from_pandas(block, preserve_index=False), file, options
                    )
                return
            except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, pyarrow.ArrowNotImplementedError):
                # A text needs quotes, or a column has mixed types: the next attempt starts again.
                file.seek(0)
                file.truncate()
    for number, block in enumerate(blocks()):
        block.to_csv(file, index=False, header=not number, mode="wb")


def write_section(folder: Path, name: str, one: Mapping[str, Any]) -> None:
    """Add a section (see reports.blocks) to the reports of a run, or replace it.

    Reports show sections in the order of their names.
    """
    write_json(folder / SECTIONS / f"{name}.json", dict(one))


def file_hash(path: Path) -> str:
    """Return the blake2b hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def table_hashes(folder: Path, *, folds: bool = True) -> dict[str, str]:
    """Return the hashes of the files in a run folder that are read later, by file name.

    Parameters
    ----------
    folder
        The run folder.
    folds
        Whether to hash the test tables of the folds too, which a fold's done.json may have.
    """
    names = [*HASHED, *(sorted(one.name for one in folder.glob("test_fold_*")) if folds else [])]
    return {name: file_hash(folder / name) for name in names if (folder / name).is_file()}


def sweep(folder: Path) -> None:
    """Prepare a run folder for writing, after it was locked.

    Unfinished files that a killed process left are removed.

    Raises
    ------
    UserError
        If a folder below it is a link, through which files elsewhere would be written.
    """
    sweep_drafts(folder)
    for path, names, _ in os.walk(folder):
        check_no_link(*(Path(path, name) for name in names))


def check_there(folder: Path) -> None:
    """Raise UserError unless a run folder, which a process has begun, still has its run.json.

    Otherwise files that are written after the folder was removed would make a folder that no
    command takes for a run.
    """
    if not (folder / "run.json").is_file():
        raise UserError(
            f"{folder}: was removed or renamed while it was in use; run the same command again to"
            " start afresh"
        )


def is_empty(folder: Path) -> bool:
    """Return whether a folder has only lock files and unfinished files of a killed process."""
    return all(item.name.startswith((LOCK, DRAFT)) for item in folder.iterdir())


def clear_folder(folder: Path) -> None:
    """Remove everything in a run folder except its lock files.

    Raises UserError if another process trains a fold of it.
    """
    with contextlib.ExitStack() as folds:
        for file in folder.glob(f"{FOLD_LOCK}*"):
            folds.enter_context(lock_fold(folder, file.name.removeprefix(FOLD_LOCK)))
        # run.json goes last: if the process is killed, the folder is still recognised as a run.
        for item in sorted(folder.iterdir(), key=lambda item: item.name == "run.json"):
            if not item.name.startswith(LOCK):
                remove(item)


@contextlib.contextmanager
def lock_fold(folder: Path, fold: int | str, *, patience: float = PATIENCE) -> Iterator[None]:
    """Lock a fold of a run, by its number or a name, in which only its process writes then.

    Raises UserError if another process has locked it for longer than `patience` in seconds.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(hold(folder / f"{FOLD_LOCK}{fold}", patience=patience))
        except Timeout:
            name = str(fold).removesuffix(ON_NODE).replace("_", " ")
            title = f"fold {name}" if name.isdecimal() else name
            raise UserError(f"{folder}: another process is training {title}; wait for it") from None
        yield


def drop_fold_locks(folder: Path) -> None:
    """Remove the lock files of the folds of a run, all of which are finished.

    Folds are locked only while the folder is, so the caller must have locked it.
    """
    for file in folder.glob(f"{FOLD_LOCK}*"):
        remove(file)


def is_fold_locked(folder: Path, fold: int | str) -> bool:
    """Return whether a process has locked a fold of a run; nothing is written."""
    return is_held(folder / f"{FOLD_LOCK}{fold}")


def is_in_use(folder: Path) -> bool:
    """Return whether a process has locked a run folder or one of its folds; nothing is written."""
    return any(map(is_held, folder.glob(f"{LOCK}*")))


@contextlib.contextmanager
def lock_folder(
    folder: Path,
    *,
    wait: Callable[[], object] | None = None,
    flags: tuple[str | None, str | None] = ("--output", "--name"),
) -> Iterator[None]:
    """Lock a run folder, and remove temporary files of killed processes.

    The lock ends with the process, even if it is killed.

    Parameters
    ----------
    folder
        The run folder, which is made if it is absent.
    wait
        Called once if another process has locked the folder, before waiting for it.
    flags
        The command's flags for the folder of all runs and for the name of this one, for messages;
        None: it has no such flag.

    Raises
    ------
    UserError
        If the folder cannot be written, or another process has locked it and `wait` is None.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(hold(folder / LOCK, wait=wait, patience=PATIENCE))
        except Timeout:
            cure = f"wait for it or pass another {flags[1]}" if flags[1] else "wait for it"
            raise UserError(f"{folder}: another process is writing this run; {cure}") from None
        except OSError as error:
            cure = f"pass another {flags[0]}" if flags[0] else "change its permissions"
            raise UserError(f"{folder}: cannot be written ({error.strerror}); {cure}") from None
        sweep_drafts(folder)
        yield


def logit_columns(num_classes: int) -> list[str]:
    """Return the names of the logit columns, in class order."""
    return [f"logit_{index}" for index in range(num_classes)]


def with_logits(columns: pd.DataFrame, logits_NC: np.ndarray) -> pd.DataFrame:
    """Return a table of the given columns followed by float32 logit columns."""
    assert len(columns) == len(logits_NC), (len(columns), logits_NC.shape)
    logits = pd.DataFrame(
        logits_NC.astype(np.float32, copy=False), columns=logit_columns(logits_NC.shape[1])
    )
    return pd.concat([columns.reset_index(drop=True), logits], axis=1)


def rows_like(table: pd.DataFrame, keys: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a table in the order of `keys`, matched by repeat and image_id.

    Both columns become the index of the result.
    """
    on = ["repeat", "image_id"]
    return table.set_index(on).loc[pd.MultiIndex.from_frame(keys[on])]
