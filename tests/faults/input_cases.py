"""Damage what users pass besides tables: images, settings, names and flags."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from tests.faults.base import DATA
from tests.faults.damage_text import YAML_TEXTS
from tests.faults.hostile_files import Prepare, fifo, input_case, link, png, put, sparse, train
from tests.faults.judge import Case
from tests.faults.table_inputs import table_inputs

__all__ = ["input_cases"]

SMALL = "image_00.jpg"
IMAGES: dict[str, Prepare] = {
    "empty": put(f"data/{SMALL}", b""),
    "text": put(f"data/{SMALL}", "no image"),
    "FIFO": fifo(f"data/{SMALL}"),
    "device": link(f"data/{SMALL}", "/dev/zero"),
    "random device": link(f"data/{SMALL}", "/dev/urandom"),
    "link to itself": link(f"data/{SMALL}", SMALL),
    "folder": lambda stage: ((stage / "data" / SMALL).unlink(), (stage / "data" / SMALL).mkdir()),
    "500 MB of zeros": sparse(f"data/{SMALL}", 500_000_000),
    "500 MB after a header": sparse(f"data/{SMALL}", 500_000_000, png(14, 18)[:33]),
    "20 GB of zeros": sparse(f"data/{SMALL}", 20_000_000_000),
    "PNG of 2 billion pixels": put(f"data/{SMALL}", png(60_000, 40_000)),
    "PNG bomb": put(f"data/{SMALL}", png(30_000, 30_000, zlib.compress(bytes(10**8), 9))),
    "PNG without pixels": put(f"data/{SMALL}", png(0, 0)),
    "JPEG header": put(f"data/{SMALL}", b"\xff\xd8\xff\xe0\0\x10JFIF"),
    "TIFF loop": put(
        f"data/{SMALL}", b"II*\0\x08\0\0\0\x01\0\0\x01\x04\0\x01\0\0\0\xff\xff\0\0\x08\0\0\0"
    ),
    "SVG": put(f"data/{SMALL}", '<svg xmlns="http://www.w3.org/2000/svg"></svg>'),
    "GIF of 4 billion pixels": put(f"data/{SMALL}", b"GIF89a\xff\xff\xff\xff\0\0\0;"),
    "BMP of negative size": put(
        f"data/{SMALL}",
        b"BM"
        + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, -5, -(2**31), 1, 24, 0, 0, 0, 0, 0, 0),
    ),
}


def input_cases(_: Path) -> Iterator[Case]:
    """Yield tables, images, settings and names for the commands that take them."""
    yield from table_inputs()
    for what, prepare in IMAGES.items():
        names = (SMALL,)
        yield input_case(f"image {what}", prepare, "run_audit", *DATA, "--folds", "2", names=names)
        cached = ("--cache", "off", "--group-col", "group")
        yield input_case(
            f"image {what}", prepare, "run_cv", *train("data/train.csv", *cached), names=names
        )
        words = ("outputs/full", f"data/{SMALL}", "--out", "p.csv")
        yield input_case(f"image {what}", prepare, "predict", *words, names=names)
    yield from _settings()
    yield from _names()
    yield from _numbers()


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
    prepared = {what: put("c.yaml", text) for what, text in texts.items()}
    prepared |= {"FIFO": fifo("c.yaml"), "device": link("c.yaml", "/dev/zero")}
    prepared |= {
        "4 GB": sparse("c.yaml", 4_000_000_000),
        "folder": lambda stage: (stage / "c.yaml").mkdir(),
    }
    for what, prepare in prepared.items():
        flags = train("data/train.csv", "--config", "c.yaml")
        yield input_case(f"--config {what}", prepare, "run_cv", *flags, names=("c.yaml", "--"))
        blended = ("--config", "c.yaml", "--name", "u", "--no-page")
        yield input_case(
            f"--config {what}", prepare, "blend", *blended, names=("c.yaml", "--", "RUNS")
        )
        views = ("outputs/frozen", "--views", "albu:c.yaml", "--name", "u", "--no-page")
        yield input_case(f"--views albu: {what}", prepare, "run_tta", *views, names=("c.yaml",))
    for what, prepare in {
        "FIFO": fifo("w.pth"),
        "device": link("w.pth", "/dev/zero"),
        "text": put("w.pth", "no weights"),
        "safetensors of zeros": put("w.safetensors", bytes(1000)),
        "safetensors with a long header": put("w.safetensors", struct.pack("<Q", 2**40) + b"{}"),
        "sparse tensors": _sparse_tensors,
    }.items():
        file = "w.safetensors" if "safetensors" in what else "w.pth"
        flags = train("data/train.csv", "--weights", file, "--cache", "off")
        yield input_case(f"--weights {what}", prepare, "run_cv", *flags, names=(file, "--weights"))


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
        yield input_case(f"file names with {what}", prepare, "run_audit", "named")
        yield input_case(
            f"file names with {what}", prepare, "run_cv", *train("named", "--cache", "off")
        )
        yield input_case(
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
        nothing = put("home/nothing", "")
        yield input_case(
            f"--name {what}",
            nothing,
            "run_cv",
            *train("data/train.csv", "--name", name),
            names=("--name",),
        )
        yield input_case(
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
        yield input_case(
            f"no run {what}", nothing, "blend", name, "outputs/full", "--name", "u", "--no-page"
        )
        yield input_case(
            f"no run {what}", nothing, "predict", name, "data/test.csv", "--out", "p.csv"
        )
        yield input_case(f"no run {what}", nothing, "run_tta", name, "--name", "u")


def _numbers() -> Iterator[Case]:
    nothing = put("home/nothing", "")
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
        "--output": ("/dev/null/x", "canary/file.txt", "n" * 300),
        "--tta": ("albu:evil.yaml", "hflip," * 3000, "scale:nan", "rotate:1e99", "five:-1"),
        "--drop": ("nan", "2"),
        "--repeats": ("1000000000", "0"),
        "--device": ("cuda:9", "tpu", "meta"),
    }.items():
        for value in values:
            yield input_case(
                f"{flag}={value[:40]!r}",
                nothing,
                "run_cv",
                *train("data/train.csv", "--cache", "off", f"{flag}={value}"),
            )
    json_flag = ("outputs/full", "outputs/frozen", "--no-page", "--json")
    for value in ("/dev/full/x", "canary", "no/such/folder/x.json", "n" * 300):
        yield input_case(f"--json={value[:40]}", nothing, "leaderboard", *json_flag, value)
    for value in ("/dev/full/x", "canary", "x.zip/y", "n" * 300 + ".csv", "p.xyz"):
        yield input_case(
            f"--out={value[:40]}",
            nothing,
            "predict",
            "outputs/full",
            "data/test.csv",
            "--out",
            value,
        )
