"""The run folder: the contract between the stages. Files appear whole or not at all. No torch here."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.csv
import yaml

from foldblend.attributes import Attribute
from foldblend.errors import UserError, listed
from foldblend.files import DRAFT, write_bytes, write_with

__all__ = [
    "FORMAT",
    "PICTURES",
    "SECTIONS",
    "Run",
    "clear_folder",
    "file_hash",
    "ids_hash",
    "is_empty",
    "lock_folder",
    "logit_columns",
    "read_json",
    "read_table",
    "rows_like",
    "sweep",
    "with_logits",
    "write_json",
    "write_section",
    "write_table",
]

FORMAT = 1
PICTURES = "pictures.parquet"
LOCK = ".lock"
SECTIONS = "sections"


def ids_hash(ids: Iterable[str]) -> str:
    """Hash of picture names, whatever their order."""
    return hashlib.blake2b(json.dumps(sorted(ids)).encode(), digest_size=16).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically. NaN is refused: it is not JSON."""
    write_bytes(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON. Raises UserError for a file that is absent or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; is this a run folder?") from None
    except ValueError:
        raise UserError(f"{path}: not valid JSON; remove the run folder and run again") from None


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table atomically, as parquet or CSV by the file's suffix."""
    if path.suffix == ".csv":
        write_with(path, lambda draft: _write_csv(table, draft))
    else:
        write_with(path, lambda draft: table.to_parquet(draft, index=False))


def _write_csv(table: pd.DataFrame, draft: Path) -> None:
    """Write a CSV that reads as one of pandas, ten times as fast where no column holds truth values or mixed types."""
    if not any(pd.api.types.is_bool_dtype(kind) for kind in table.dtypes):
        for quotes in ("none", "needed"):  # where one text needs quotes, all are quoted
            try:
                with draft.open("wb") as file:
                    file.write(table.iloc[:0].to_csv(index=False).encode())
                    options = pyarrow.csv.WriteOptions(include_header=False, quoting_style=quotes)
                    pyarrow.csv.write_csv(pyarrow.Table.from_pandas(table, preserve_index=False), file, options)
                return
            except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, pyarrow.ArrowNotImplementedError):
                continue  # a text needs quotes, or a column is of several types: what comes next writes the file anew
    table.to_csv(draft, index=False)


def write_section(folder: Path, name: str, one: Mapping[str, Any]) -> None:
    """Add a section (see reports.blocks) to every report of a run folder, or replace the one of that name.

    Sections stand in the order of their names.
    """
    write_json(folder / SECTIONS / f"{name}.json", dict(one))


def read_table(path: Path, *, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read a parquet or CSV table, or some columns of a parquet. Raises UserError where it is absent or broken."""
    try:
        if path.suffix == ".csv":
            return pd.read_csv(path, dtype={"image_id": str, "group": str})
        return pd.read_parquet(path, columns=None if columns is None else list(columns))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run the fold or run again") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split())[:80]}); run it again") from None


def file_hash(path: Path) -> str:
    """Return the blake2b hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def sweep(folder: Path) -> None:
    """Remove drafts that a killed process left in a run folder."""
    for draft in folder.rglob(f"{DRAFT}*"):
        draft.unlink(missing_ok=True)


def is_empty(folder: Path) -> bool:
    """Return whether a folder holds nothing but locks and what a killed process left."""
    return all(item.name == LOCK or item.name.startswith(DRAFT) for item in folder.iterdir())


def clear_folder(folder: Path) -> None:
    """Empty a run folder; run.json, by which it is known as a run, goes last in case of a kill."""
    for item in sorted(folder.iterdir(), key=lambda item: item.name == "run.json"):
        if item.name != LOCK:
            shutil.rmtree(item) if item.is_dir() else item.unlink()


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold a run folder against a second process. Raises UserError if it is held; a kill frees it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("w")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); pass another --output") from None
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(
                f"{folder}: another process is writing this run; wait for it or pass another --name"
            ) from None
        yield


def logit_columns(num_classes: int) -> list[str]:
    """Return the names of the logit columns, in class order."""
    return [f"logit_{index}" for index in range(num_classes)]


def with_logits(columns: pd.DataFrame, logits_NC: np.ndarray) -> pd.DataFrame:
    """Return the columns with float32 logits beside them, row by row."""
    assert len(columns) == len(logits_NC), (len(columns), logits_NC.shape)
    logits = pd.DataFrame(logits_NC.astype(np.float32), columns=logit_columns(logits_NC.shape[1]))
    return pd.concat([columns.reset_index(drop=True), logits], axis=1)


def rows_like(table: pd.DataFrame, keys: pd.DataFrame) -> pd.DataFrame:
    """Return the table's rows in the order of `keys`, joined on image_id and repeat."""
    on = ["repeat", "image_id"]
    return table.set_index(on).loc[pd.MultiIndex.from_frame(keys[on])]


@dataclass(frozen=True)
class Run:
    """A finished run (or blend) on disk, read lazily; nothing here needs torch or the pictures."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @functools.cached_property
    def info(self) -> dict[str, Any]:
        """run.json: status, kind, data, classes, fold timings, file hashes."""
        info = read_json(self.path / "run.json")
        if not isinstance(info, dict) or info.get("format") != FORMAT:
            raise UserError(f"{self.path}/run.json: not of format {FORMAT}; run it again with this version")
        return info

    @functools.cached_property
    def settings(self) -> dict[Any, Any]:
        """The settings that the run (or blend) wrote down; nothing where it has none or they cannot be read."""
        file = next((file for name in ("config", "blend") if (file := self.path / f"{name}.yaml").is_file()), None)
        try:
            settings = {} if file is None else yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            settings = {}
        return settings if isinstance(settings, dict) else {}

    @property
    def frozen(self) -> bool:
        """Whether its folds are linear heads on one frozen backbone."""
        return self.settings.get("finetune") == "head"

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.info["classes"])

    @functools.cached_property
    def ids_hash(self) -> str:
        """Hash of the names of its pictures with labels, by which runs of one data set know each other."""
        known = self.info["data"].get("train_ids_hash")
        if known is None:  # a run of an earlier version, or of somebody else's making
            file = self.path / "oof.parquet"
            ids = read_table(file, columns=["image_id"])["image_id"]
            if ids.isna().any():
                raise UserError(f"{file}: {int(ids.isna().sum())} rows have no image_id; run it again")
            known = ids_hash(map(str, ids.unique()))
        return str(known)

    def table_hash(self, name: str) -> str:
        """Return the hash of a table's file, such as "test". Raises UserError where that is gone."""
        file = self.path / f"{name}.parquet"
        if not file.is_file():
            raise UserError(f"{file}: no such file; run it again, or leave the run out")
        return file_hash(file)

    @functools.cached_property
    def oof_hash(self) -> str:
        """Hash of oof.parquet, by which runs are known."""
        return self.table_hash("oof")

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        return tuple(
            Attribute(name=item["name"], values=tuple(item["values"]), of_class=tuple(item["of_class"]))
            for item in self.info["attributes"]
        )

    @functools.cached_property
    def oof(self) -> pd.DataFrame:
        """Out-of-fold rows: image_id, group, label, label_raw, repeat, fold, logit_0 .."""
        return read_table(self.path / "oof.parquet")

    @functools.cached_property
    def test(self) -> pd.DataFrame | None:
        """Test rows: image_id, logit_0 .. (mean over folds), or None where there was no test set."""
        return read_table(self.path / "test.parquet") if self.info["has_test"] else None

    def test_fold(self, fold: int) -> pd.DataFrame:
        """Return the test rows of one fold's model."""
        return read_table(self.path / f"test_fold_{fold}.parquet")

    @property
    def report(self) -> dict[str, Any]:
        """report.json as a mapping."""
        return dict(read_json(self.path / "report.json"))

    def logits(self, table: pd.DataFrame) -> np.ndarray:
        """Return the logits of a table of this run, N x C float32. Raises UserError if a column is missing."""
        absent = set(logit_columns(len(self.classes))) - set(table.columns)
        if absent:
            raise UserError(f"{self.path}: its tables lack {listed(sorted(absent))}; run it again")
        return table[logit_columns(len(self.classes))].to_numpy(np.float32)
