"""Makers of hostile files: devices, pipes, bombs and headers that promise too much."""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.jobs import PREDICTED
from tests.faults.judge import Case

__all__ = [
    "HEAD",
    "Prepare",
    "fifo",
    "gzip_bomb",
    "input_case",
    "link",
    "parquet_bomb",
    "png",
    "put",
    "sparse",
    "train",
]

Prepare = Callable[[Path], Any]
HEAD = "image,label,group\n"


def put(name: str, data: bytes | str) -> Prepare:
    raw = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
    return lambda stage: (stage / name).write_bytes(raw)


def sparse(name: str, size: int, head: bytes = b"") -> Prepare:
    def prepare(stage: Path) -> None:
        with (stage / name).open("wb") as file:
            file.write(head)
            file.truncate(size)

    return prepare


def fifo(name: str) -> Prepare:
    def prepare(stage: Path) -> None:
        (stage / name).unlink(missing_ok=True)
        os.mkfifo(stage / name)

    return prepare


def link(name: str, target: str) -> Prepare:
    def prepare(stage: Path) -> None:
        (stage / name).unlink(missing_ok=True)
        (stage / name).symlink_to(target)

    return prepare


def parquet_bomb(name: str, rows: int) -> Prepare:
    """Write a Parquet file of many equal rows, which takes little room."""

    def prepare(stage: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        one = pyarrow.array(["image_00.jpg"]).dictionary_encode()
        block = pyarrow.DictionaryArray.from_arrays(
            pyarrow.array([0], pyarrow.int32()).take(pyarrow.array([0] * 1_000_000)), one.dictionary
        )
        table = pyarrow.table({"image": block, "label": block, "group": block})
        with pyarrow.parquet.ParquetWriter(stage / name, table.schema, compression="zstd") as file:
            for _ in range(rows // 1_000_000):
                file.write_table(table, row_group_size=1_000_000)

    return prepare


def gzip_bomb(name: str, size: int) -> Prepare:
    def prepare(stage: Path) -> None:
        rows = "image_00.jpg,cat,g\n" * 2_500_000
        # A gzip file may have many members, so one is compressed and repeated.
        member = gzip.compress(rows.encode(), compresslevel=1)
        with (stage / name).open("wb") as file:
            file.write(gzip.compress(HEAD.encode()))
            for _ in range(size // len(rows)):
                file.write(member)

    return prepare


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """Return a PNG whose header claims a size, with any data."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def input_case(
    what: str, prepare: Prepare, command: str, *argv: str, names: tuple[str, ...] = ()
) -> Case:
    known = {
        "run_cv": ("outputs/u", "cache"),
        "run_audit": ("audit_t.html", "audit_train.html", "audit_named.html"),
    }
    return Case(
        id=f"{what}, {command}",
        kind="inputs",
        command=command,
        argv=argv,
        prepare=prepare,
        names=names,
        writes=known.get(command, (*PREDICTED, "x.zip", "outputs/u", "board.json")),
        is_free=True,
    )


def train(table: str, *more: str) -> tuple[str, ...]:
    small = [
        "--backbone",
        "test_resnet",
        "--pretrained",
        "none",
        "--img-size",
        "32",
        "--epochs",
        "1",
    ]
    small += ["--folds", "2", "--workers", "0", "--threads", "1", "--no-page", "--device", "cpu"]
    return (table, *small, "--output", "outputs", "--name", "u", "--no-log-pictures", *more)
