"""Tables of users, damaged or hostile, for the commands and flags that take tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from tests.faults.base import DATA
from tests.faults.hostile_files import (
    HEAD,
    Prepare,
    fifo,
    gzip_bomb,
    input_case,
    link,
    parquet_bomb,
    put,
    sparse,
    train,
)
from tests.faults.judge import Case

__all__ = ["table_inputs"]

ROWS = pd.DataFrame({"image": ["image_00.jpg"], "label": ["cat"], "group": ["g"]})


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


def table_inputs() -> Iterator[Case]:
    files: dict[str, tuple[str, Prepare]] = {
        **{what: ("data/t.csv", put("data/t.csv", text)) for what, text in TABLES.items()},
        **{
            f"lines {what}": ("data/t.jsonl", put("data/t.jsonl", text))
            for what, text in JSON_LINES.items()
        },
        "FIFO": ("data/t.csv", fifo("data/t.csv")),
        "device": ("data/t.csv", link("data/t.csv", "/dev/zero")),
        "3 GB of zeros": ("data/t.csv", sparse("data/t.csv", 3_000_000_000)),
        "3 GB of Parquet": ("data/t.parquet", sparse("data/t.parquet", 3_000_000_000, b"PAR1")),
        "gzip bomb": ("data/t.csv.gz", gzip_bomb("data/t.csv.gz", 4_000_000_000)),
        "gzip of nothing": ("data/t.csv.gz", put("data/t.csv.gz", b"\x1f\x8b\x08\0")),
        "Parquet of 1e8 rows": ("data/t.parquet", parquet_bomb("data/t.parquet", 100_000_000)),
        "Parquet of text": ("data/t.parquet", put("data/t.parquet", "PAR1 no PAR1")),
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
            ("run_cv", train(file, "--cache", "off", *group)),
            ("predict", ("outputs/full", file, "--out", "p.csv")),
        ):
            # A message may be about a row's image, in the place of its table.
            names = (name, "image", ".jpg", "/dev/", "label", "group")
            yield input_case(f"table {what}", prepare, command, *argv, names=names)
        if name.endswith(".csv"):
            for flag in ("--fold-file", "--corrections", "--sample-submission", "--test"):
                argv = (*DATA, flag, file, "--folds", "2", "--quick")
                yield input_case(
                    f"{flag} {what}",
                    prepare,
                    "run_audit",
                    *argv,
                    names=(name, flag, "image", "test image"),
                )
            argv = ("outputs/full", "outputs/frozen", "--costs", file, "--name", "u", "--no-page")
            yield input_case(f"--costs {what}", prepare, "blend", *argv, names=(name, "--costs"))
