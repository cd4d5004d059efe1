"""Damage to the tables of a run: every column, rows, and bits of the file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from tests.faults.hashes import with_hash
from tests.faults.jobs import reads
from tests.faults.judge import Case

__all__ = ["bytes_cases", "flip", "table_cases"]

TABLES = {
    "outputs/full/oof.parquet": (
        "full",
        ("blend", "board", "report", "resume", "predict", "export", "tta"),
    ),
    "outputs/full/test.parquet": ("full", ("blend", "board", "report", "predict")),
    "outputs/full/test_fold_0.parquet": ("full", ("resume", "tta", "blend", "report")),
    "outputs/full/fold_0/oof.parquet": ("full", ("resume",)),
    "outputs/full/tta/oof_fold_0.parquet": ("full", ("tta", "resume")),
    "outputs/full/tta/test_fold_1.parquet": ("full", ("tta", "resume")),
    "outputs/full/pictures.parquet": ("full", ("report", "predict", "board", "tta")),
    "outputs/full/columns.parquet": ("full", ("columns", "resume", "tta")),
    "outputs/full/folds.csv": ("full", ("resume", "tta", "audit folds", "blend")),
    "outputs/full/test_labels.csv": ("full", ("report", "board", "blend", "tta")),
    "outputs/full/test_groups.csv": ("full", ("report", "board", "blend", "tta")),
    "outputs/full/fold_0/log.csv": ("full", ("report", "resume")),
    "outputs/frozen/oof.parquet": ("frozen", ("blend", "board", "resume", "predict", "tta")),
    "outputs/frozen/test_fold_1.parquet": ("frozen", ("resume", "tta", "blend")),
    "outputs/frozen/test_refit_0.parquet": ("frozen", ("resume", "tta", "blend")),
    "outputs/frozen/tta/further_test_refit_0.parquet": ("frozen", ("tta",)),
    "outputs/frozen/tta/further_oof_fold_0.parquet": ("frozen", ("tta",)),
    "outputs/frozen/tta/further_test_fold_1.parquet": ("frozen", ("tta",)),
    "outputs/frozen_tta/oof.parquet": ("frozen_tta", ("blend", "board", "report", "predict")),
    "outputs/frozen_tta/effects.csv": ("frozen_tta", ("report",)),
    "outputs/both/oof.parquet": ("both", ("board", "report", "predict", "export")),
    "outputs/half/fold_0/oof.parquet": ("half", ("resume",)),
    "outputs/half/test_fold_0.parquet": ("half", ("resume",)),
    "outputs/half/folds.csv": ("half", ("resume",)),
}
Change = Callable[[pd.DataFrame, str], pd.DataFrame]


def _put(value: object, *, rows: int | None = 1) -> Change:
    """Return a change of the first rows of a column (None: of all)."""

    def change(table: pd.DataFrame, column: str) -> pd.DataFrame:
        cells = table[column].astype(object)
        cells.iloc[:rows] = value
        try:
            return table.assign(**{column: cells.infer_objects()})
        except (TypeError, ValueError):
            return table.assign(**{column: cells.astype(str)})

    return change


def _times(table: pd.DataFrame, column: str) -> pd.DataFrame:
    stamps = pd.to_datetime(np.arange(len(table)), unit="s")
    return table.assign(**{column: stamps})


COLUMN_CHANGES: dict[str, Change] = {
    "removed": lambda table, column: table.drop(columns=column),
    "timestamps": _times,
    "text": lambda table, column: table.assign(**{column: "word"}),
    "booleans": lambda table, column: table.assign(**{column: True}),
    "lists": lambda table, column: table.assign(**{column: [[1, 2]] * len(table)}),
    "missing": _put(None),
    "all missing": _put(None, rows=None),
    "NaN": _put(float("nan")),
    "infinite": _put(float("inf")),
    "huge": _put(1e300),
    "negative": _put(-5),
    "out of range": _put(10**12),
    "escapes": _put("\x1b[31m\u202e\nx"),
    "twice": lambda table, column: pd.concat([table, table[[column]].add_suffix("")], axis=1),
}
ROW_CHANGES: dict[str, Change] = {
    "first row doubled": lambda table, _: pd.concat([table.iloc[:1], table]),
    "first row removed": lambda table, _: table.iloc[1:],
    "no rows": lambda table, _: table.iloc[:0],
    "all rows doubled": lambda table, _: pd.concat([table, table]),
    "no columns": lambda table, _: table[[]],
}


def _write(file: Path, table: pd.DataFrame) -> None:
    if file.suffix == ".csv":
        table.to_csv(file, index=False)
        return
    if table.columns.duplicated().any():
        import pyarrow
        import pyarrow.parquet

        arrays = [pyarrow.array(table.iloc[:, index]) for index in range(table.shape[1])]
        made = pyarrow.Table.from_arrays(arrays, names=[str(name) for name in table.columns])
        pyarrow.parquet.write_table(made, file)
        return
    try:
        table.to_parquet(file, index=False)
    except Exception:
        # Columns of mixed types are none that Parquet can have.
        table.astype(str).to_parquet(file, index=False)


def _changer(file: str, column: str, change: Change) -> Callable[[Path], None]:
    def prepare(stage: Path) -> None:
        target = stage / file
        reader = pd.read_csv if target.suffix == ".csv" else pd.read_parquet
        _write(target, change(reader(target), column))

    return prepare


def _names(file: str, run: str) -> tuple[str, ...]:
    return (Path(file).name, run)


def table_cases(base: Path) -> Iterator[Case]:
    """Yield a case per column and change, and per change of rows."""
    number = 0
    for file, (run, only) in TABLES.items():
        if not (base / file).is_file():
            continue
        jobs = reads(run, only=only)
        reader = pd.read_csv if file.endswith(".csv") else pd.read_parquet
        columns = list(reader(base / file).columns)
        todo = [
            (column, what, change) for column in columns for what, change in COLUMN_CHANGES.items()
        ]
        todo += [("", what, change) for what, change in ROW_CHANGES.items()]
        for column, what, change in todo:
            number += 1
            job = jobs[number % len(jobs)]
            prepare = _changer(file, column, change)
            case = Case(
                id=f"{file}: {column or 'table'} {what}, {job}",
                kind="tables",
                job=job,
                prepare=prepare,
                names=_names(file, run),
                bad_run=run,
            )
            yield case
            # A table of right types and ranges is a result like any other if its hash fits. Then it
            # may be of another data set than other runs, which is an error and leaves nothing out.
            yield dataclasses.replace(
                case,
                id=f"{case.id}, its hash fits",
                prepare=with_hash(file, prepare),
                bad_run="",
                is_free=True,
            )


def flip(file: Path, share: float, bit: int = 0) -> None:
    """Flip one bit at a place of a file, given as a share of its length."""
    data = bytearray(file.read_bytes())
    data[min(int(share * len(data)), len(data) - 1)] ^= 1 << bit
    file.write_bytes(data)


# Places as shares of the length, and the bit.
FLIPS = [
    (0.0005, 1),
    (0.03, 6),
    (0.11, 3),
    (0.25, 0),
    (0.4, 5),
    (0.55, 2),
    (0.7, 7),
    (0.85, 4),
    (0.97, 1),
]


def bytes_cases(
    files: dict[str, tuple[str, tuple[str, ...]]], kind: str, base: Path
) -> Iterator[Case]:
    """Yield cases of files with one flipped bit, cut short, lengthened or filled by zeros."""
    for file, (run, only) in files.items():
        if not (base / file).is_file() or not (base / file).stat().st_size:
            continue
        jobs = reads(run, only=only) or list(only)
        names = (*_names(file, run), Path(file).parent.name)
        common = {"kind": kind, "names": names, "bad_run": run}
        number = 0
        for share, bit in FLIPS:
            number += 1
            yield Case(
                id=f"{file}: bit {bit} flipped at {share:g}, {jobs[number % len(jobs)]}",
                job=jobs[number % len(jobs)],
                prepare=lambda stage, file=file, share=share, bit=bit: flip(
                    stage / file, share, bit
                ),
                **common,
            )
        for what, cut in (
            ("empty", 0.0),
            ("half", 0.5),
            ("last byte missing", -1.0),
            ("zeros", 2.0),
            ("longer", 3.0),
        ):
            number += 1
            yield Case(
                id=f"{file}: {what}, {jobs[number % len(jobs)]}",
                job=jobs[number % len(jobs)],
                prepare=lambda stage, file=file, cut=cut: _cut(stage / file, cut),
                **common,
            )


def _cut(file: Path, share: float) -> None:
    data = file.read_bytes()
    if share == 3:
        file.write_bytes(data + b"more")
    elif share == 2:
        file.write_bytes(bytes(len(data)))
    else:
        file.write_bytes(data[:-1] if share < 0 else data[: int(share * len(data))])


def table_bytes_cases(base: Path) -> Iterator[Case]:
    """Yield damaged bytes of tables."""
    yield from bytes_cases(TABLES, "bytes of tables", base)
