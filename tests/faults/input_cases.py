"""What users pass: tables, images, settings, names and flags, damaged or hostile."""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from tests.faults.base import DATA
from tests.faults.damage_text import YAML_TEXTS
from tests.faults.jobs import PREDICTED
from tests.faults.judge import Case

__all__ = ["input_cases"]

Prepare = Callable[[Path], Any]
HEAD = "image,label,group\n"
ROWS = pd.DataFrame({"image": ["image_00.jpg"], "label": ["cat"], "group": ["g"]})


def _put(name: str, data: bytes | str) -> Prepare:
    raw = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
    return lambda stage: (stage / name).write_bytes(raw)


def _sparse(name: str, size: int, head: bytes = b"") -> Prepare:
    def prepare(stage: Path) -> None:
        with (stage / name).open("wb") as file:
            file.write(head)
            file.truncate(size)

    return prepare


def _fifo(name: str) -> Prepare:
    def prepare(stage: Path) -> None:
        (stage / name).unlink(missing_ok=True)
        os.mkfifo(stage / name)

    return prepare


def _link(name: str, target: str) -> Prepare:
    def prepare(stage: Path) -> None:
        (stage / name).unlink(missing_ok=True)
        (stage / name).symlink_to(target)

    return prepare


def _bomb(name: str, rows: int) -> Prepare:
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


def _gzip_bomb(name: str, size: int) -> Prepare:
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


def _image(index: int) -> str:
    return f"image_{index:02d}.{'png' if index % 2 else 'jpg'}"


TABLES: dict[str, bytes | str] = {
    "empty": "",
    "header only": HEAD,
    "no header": "image_00.jpg,cat,g\n",
    "zeros": bytes(10_000),
    "binary": bytes(range(256)) * 40,
    "UTF-16": (HEAD + "image_00.jpg,cat,g\n").encode("utf-16"),
    "bad UTF-8": HEAD.encode() + b"image_\xff.jpg,c\xfet,g\n",
    "one long line": HEAD + "x" * 30_000_000,
    "many columns": ",".join(["image", "label", "group", *map(str, range(100_000))]) + "\n",
    "open quote": HEAD + '"image_00.jpg,cat,g\n' * 200,
    "ragged": HEAD + "a\nb,c,d,e,f,g\n,,,,\n",
    "escapes": HEAD + "\x1b[31mred\x1b[0m.jpg,\x1b]0;title\x07,\u202eg\n",
    "escapes in header": "image,label,gro\x1b[31mup\n" + "a,b,c\n",
    "absent images": HEAD + "".join(f"none_{index}.jpg,cat,g\n" for index in range(3000)),
    "long name": HEAD + "n" * 5000 + ".jpg,cat,g\n",
    "name over 255 bytes": HEAD + "n" * 300 + ".jpg,cat,g\n",
    "NUL in a name": HEAD + "a\0b.jpg,cat,g\n",
    "folder as image": HEAD + ".,cat,g\n..,dog,h\n",
    "device as image": HEAD + "/dev/zero,cat,g\n/dev/zero,dog,h\n",
    "terminal as image": HEAD + "/dev/stdin,cat,g\n/dev/stdin,dog,h\n",
    "formulas": HEAD
    + "".join(
        f"{_image(index)},{'=1+1' if index % 3 else '@SUM(A1)'},g{index}\n" for index in range(12)
    ),
    "huge numbers": HEAD + f"image_00.jpg,{10**400},g\nimage_01.png,1e999,h\n",
    "a class per row": HEAD
    + "".join(f"{_image(index)},c{index},g{index}\n" for index in range(12)),
}
JSON_LINES = {
    "nested": '{"image": ' + "[" * 100_000 + "]" * 100_000 + "}\n",
    "nested 500": '{"image": ' + "[" * 500 + "]" * 500 + ', "label": "a", "group": "b"}\n',
    "numbers": '{"image": 1e999, "label": NaN, "group": -Infinity}\n',
    "long number": '{"image": "a.jpg", "label": ' + "9" * 20_000 + ', "group": "b"}\n',
    "surrogates": '{"image": "\\ud800.jpg", "label": "\\udfff", "group": "b"}\n',
    "a list": "[1, 2]\n",
    "other keys": '{"image": "a.jpg", "label": "x"}\n{"b": 1}\n',
    "keys twice": '{"image": "a.jpg", "image": "b.jpg", "label": "x", "group": "g"}\n',
    "objects": '{"image": {"bytes": null, "path": "/dev/zero"}, "label": {}, "group": []}\n',
}
SMALL = "image_00.jpg"
IMAGES: dict[str, Prepare] = {
    "empty": _put(f"data/{SMALL}", b""),
    "text": _put(f"data/{SMALL}", "no image"),
    "FIFO": _fifo(f"data/{SMALL}"),
    "device": _link(f"data/{SMALL}", "/dev/zero"),
    "random device": _link(f"data/{SMALL}", "/dev/urandom"),
    "link to itself": _link(f"data/{SMALL}", SMALL),
    "folder": lambda stage: ((stage / "data" / SMALL).unlink(), (stage / "data" / SMALL).mkdir()),
    "500 MB of zeros": _sparse(f"data/{SMALL}", 500_000_000),
    "500 MB after a header": _sparse(f"data/{SMALL}", 500_000_000, png(14, 18)[:33]),
    "20 GB of zeros": _sparse(f"data/{SMALL}", 20_000_000_000),
    "PNG of 2 billion pixels": _put(f"data/{SMALL}", png(60_000, 40_000)),
    "PNG bomb": _put(f"data/{SMALL}", png(30_000, 30_000, zlib.compress(bytes(10**8), 9))),
    "PNG without pixels": _put(f"data/{SMALL}", png(0, 0)),
    "JPEG header": _put(f"data/{SMALL}", b"\xff\xd8\xff\xe0\0\x10JFIF"),
    "TIFF loop": _put(
        f"data/{SMALL}", b"II*\0\x08\0\0\0\x01\0\0\x01\x04\0\x01\0\0\0\xff\xff\0\0\x08\0\0\0"
    ),
    "SVG": _put(f"data/{SMALL}", '<svg xmlns="http://www.w3.org/2000/svg"></svg>'),
    "GIF of 4 billion pixels": _put(f"data/{SMALL}", b"GIF89a\xff\xff\xff\xff\0\0\0;"),
    "BMP of negative size": _put(
        f"data/{SMALL}",
        b"BM"
        + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, -5, -(2**31), 1, 24, 0, 0, 0, 0, 0, 0),
    ),
}


def _case(
    what: str, prepare: Prepare, command: str, *argv: str, names: tuple[str, ...] = ()
) -> Case:
    known = {"run_cv": ("outputs/u", "cache"), "run_audit": ("audit_t.html", "audit_train.html")}
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


def _train(table: str, *more: str) -> tuple[str, ...]:
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


def input_cases(_: Path) -> Iterator[Case]:
    """Yield tables, images, settings and names for the commands that take them."""
    yield from _tables()
    for what, prepare in IMAGES.items():
        names = (SMALL,)
        yield _case(f"image {what}", prepare, "run_audit", *DATA, "--folds", "2", names=names)
        cached = ("--cache", "off", "--group-col", "group")
        yield _case(
            f"image {what}", prepare, "run_cv", *_train("data/train.csv", *cached), names=names
        )
        words = ("outputs/full", f"data/{SMALL}", "--out", "p.csv")
        yield _case(f"image {what}", prepare, "predict", *words, names=names)
    yield from _settings()
    yield from _names()
    yield from _numbers()


def _tables() -> Iterator[Case]:
    files: dict[str, tuple[str, Prepare]] = {
        **{what: ("data/t.csv", _put("data/t.csv", text)) for what, text in TABLES.items()},
        **{
            f"lines {what}": ("data/t.jsonl", _put("data/t.jsonl", text))
            for what, text in JSON_LINES.items()
        },
        "FIFO": ("data/t.csv", _fifo("data/t.csv")),
        "device": ("data/t.csv", _link("data/t.csv", "/dev/zero")),
        "3 GB of zeros": ("data/t.csv", _sparse("data/t.csv", 3_000_000_000)),
        "3 GB of Parquet": ("data/t.parquet", _sparse("data/t.parquet", 3_000_000_000, b"PAR1")),
        "gzip bomb": ("data/t.csv.gz", _gzip_bomb("data/t.csv.gz", 4_000_000_000)),
        "gzip of nothing": ("data/t.csv.gz", _put("data/t.csv.gz", b"\x1f\x8b\x08\0")),
        "Parquet of 1e8 rows": ("data/t.parquet", _bomb("data/t.parquet", 100_000_000)),
        "Parquet of text": ("data/t.parquet", _put("data/t.parquet", "PAR1 no PAR1")),
        "Parquet of lists": (
            "data/t.parquet",
            lambda stage: ROWS.assign(label=[["a", "b"]]).to_parquet(stage / "data/t.parquet"),
        ),
        "Parquet of bytes": (
            "data/t.parquet",
            lambda stage: ROWS.assign(image=[b"\xff\xd8\xff" + bytes(300)]).to_parquet(
                stage / "data/t.parquet"
            ),
        ),
    }
    for what, (file, prepare) in files.items():
        name = Path(file).name
        group = ("--group-col", "group")
        for command, argv in (
            ("run_audit", (file, *group)),
            ("run_cv", _train(file, "--cache", "off", *group)),
            ("predict", ("outputs/full", file, "--out", "p.csv")),
        ):
            # A message may be about a row's image, in the place of its table.
            names = (name, "image", ".jpg", "/dev/", "label", "group")
            yield _case(f"table {what}", prepare, command, *argv, names=names)
        if name.endswith(".csv"):
            for flag in ("--fold-file", "--corrections", "--sample-submission", "--test"):
                argv = (*DATA, flag, file, "--folds", "2", "--quick")
                yield _case(
                    f"{flag} {what}",
                    prepare,
                    "run_audit",
                    *argv,
                    names=(name, flag, "image", "test image"),
                )
            argv = ("outputs/full", "outputs/frozen", "--costs", file, "--name", "u", "--no-page")
            yield _case(f"--costs {what}", prepare, "blend", *argv, names=(name, "--costs"))


def _settings() -> Iterator[Case]:
    texts = {
        **YAML_TEXTS,
        "unknown keys": "nothing: 1\nbackbon: x\n",
        "huge numbers": f"epochs: {10**400}\n",
        "infinite": "lr: .inf\n",
        "dates": "name: 2024-01-01\n",
        "escapes": 'name: "\\e[31mred\\a"\n',
        "keys of lists": "? [a, b]\n: 1\n",
        "sets": "a: !!set {b, c}\n",
        "binary": "name: !!binary aGVsbG8=\n",
        "two documents": "a: 1\n---\nb: 2\n",
        "long": "name: " + "x" * 2_000_000 + "\n",
    }
    prepared = {what: _put("c.yaml", text) for what, text in texts.items()}
    prepared |= {"FIFO": _fifo("c.yaml"), "device": _link("c.yaml", "/dev/zero")}
    prepared |= {
        "4 GB": _sparse("c.yaml", 4_000_000_000),
        "folder": lambda stage: (stage / "c.yaml").mkdir(),
    }
    for what, prepare in prepared.items():
        flags = _train("data/train.csv", "--config", "c.yaml")
        yield _case(f"--config {what}", prepare, "run_cv", *flags, names=("c.yaml", "--"))
        blended = ("--config", "c.yaml", "--name", "u", "--no-page")
        yield _case(f"--config {what}", prepare, "blend", *blended, names=("c.yaml", "--", "RUNS"))
        views = ("outputs/frozen", "--views", "albu:c.yaml", "--name", "u", "--no-page")
        yield _case(f"--views albu: {what}", prepare, "run_tta", *views, names=("c.yaml",))
    for what, prepare in {
        "FIFO": _fifo("w.pth"),
        "device": _link("w.pth", "/dev/zero"),
        "text": _put("w.pth", "no weights"),
        "safetensors of zeros": _put("w.safetensors", bytes(1000)),
        "safetensors with a long header": _put("w.safetensors", struct.pack("<Q", 2**40) + b"{}"),
        "sparse tensors": _sparse_tensors,
    }.items():
        file = "w.safetensors" if "safetensors" in what else "w.pth"
        flags = _train("data/train.csv", "--weights", file, "--cache", "off")
        yield _case(f"--weights {what}", prepare, "run_cv", *flags, names=(file, "--weights"))


def _sparse_tensors(stage: Path) -> None:
    import torch

    torch.save({"conv1.weight": torch.eye(3).to_sparse()}, stage / "w.pth")


def _named(name: bytes) -> Prepare:
    def prepare(stage: Path) -> None:
        for label in ("cat", "dog"):
            folder = stage / "named" / label
            folder.mkdir(parents=True)
            for index in range(4):
                source = stage / "data" / f"image_{2 * index:02d}.jpg"
                target = folder / os.fsdecode(b"%d%s" % (index, name))
                target.write_bytes(source.read_bytes())

    return prepare


def _names() -> Iterator[Case]:
    for what, name in {
        "escapes": b"\x1b[31mred\x07.jpg",
        "no UTF-8": b"\xff\xfe.jpg",
        "a line end": b"a\nb.jpg",
        "a formula": b"=1+1.jpg",
        "HTML": b"<script>alert(1)<.jpg",
        "a reversal": "\u202egpj.jpg".encode(),
        "a comma and quotes": b'a,"b".jpg',
        "a colon": b"a:b.jpg",
        "250 bytes": b"n" * 245 + b".jpg",
    }.items():
        prepare = _named(name)
        yield _case(f"file names with {what}", prepare, "run_audit", "named")
        yield _case(
            f"file names with {what}", prepare, "run_cv", *_train("named", "--cache", "off")
        )
        yield _case(
            f"file names with {what}", prepare, "predict", "outputs/full", "named", "--out", "p.csv"
        )
    for what, name in {
        "escapes": "\x1b[31mred",
        "above": "../x",
        "absolute": "/x",
        "long": "n" * 300,
        "empty": "",
        "hidden": ".x",
        "a line end": "a\nb",
    }.items():
        nothing = _put("home/nothing", "")
        yield _case(
            f"--name {what}",
            nothing,
            "run_cv",
            *_train("data/train.csv", "--name", name),
            names=("--name",),
        )
        yield _case(
            f"--name {what}",
            nothing,
            "blend",
            "outputs/full",
            "outputs/frozen",
            "--name",
            name,
            "--no-page",
            names=("--name",),
        )
        yield _case(
            f"no run {what}", nothing, "blend", name, "outputs/full", "--name", "u", "--no-page"
        )
        yield _case(f"no run {what}", nothing, "predict", name, "data/test.csv", "--out", "p.csv")
        yield _case(f"no run {what}", nothing, "run_tta", name, "--name", "u")


def _numbers() -> Iterator[Case]:
    nothing = _put("home/nothing", "")
    for flag, values in {
        "--box-cols": ("image,image,image,image", "x,x,x,x", "", ",,,"),
        "--folds": ("1000000000", "-1", "1e3", "0"),
        "--epochs": ("-1", "0"),
        "--img-size": ("0", "1000000000", "-5x3", "x", "100000x100000"),
        "--lr": ("nan", "inf", "-1"),
        "--batch-size": ("0", "-1"),
        "--seed": ("-1", str(10**30)),
        "--threads": ("0", "-1", "1000000"),
        "--only-folds": ("9", "x", "-1", "0,0"),
        "--group-regex": ("(", "(a+)+$", "x"),
        "--class-order": ("a,a", "/dev/zero", "no.txt"),
        "--sep": ("", "ab", "\n"),
        "--encoding": ("no-such", "utf-7", "rot13"),
        "--cache-dir": ("/dev/null/x", "canary/file.txt", "n" * 300),
        "--output": ("/dev/null/x", "canary/file.txt", "n" * 300, ""),
        "--tta": ("albu:evil.yaml", "hflip," * 3000, "scale:nan", "rotate:1e99", "five:-1"),
        "--drop": ("nan", "2"),
        "--repeats": ("1000000000", "0"),
        "--device": ("cuda:9", "tpu", "meta"),
    }.items():
        for value in values:
            yield _case(
                f"{flag}={value[:40]!r}",
                nothing,
                "run_cv",
                *_train("data/train.csv", "--cache", "off", f"{flag}={value}"),
            )
    json_flag = ("outputs/full", "outputs/frozen", "--no-page", "--json")
    for value in ("/dev/full/x", "canary", "no/such/folder/x.json", "n" * 300):
        yield _case(f"--json={value[:40]}", nothing, "leaderboard", *json_flag, value)
    for value in ("/dev/full/x", "canary", "x.zip/y", "n" * 300 + ".csv", "p.xyz"):
        yield _case(
            f"--out={value[:40]}",
            nothing,
            "predict",
            "outputs/full",
            "data/test.csv",
            "--out",
            value,
        )
