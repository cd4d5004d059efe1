"""Tests of parsers: they read what users write or refuse it in one line, whatever it is."""

from __future__ import annotations

import io
import json
import random
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.faults.hostile_files import png
from tests.faults.parsers import CORPUS, PARSERS, parse
from tests.makers.constants import ROOT

CHECKED = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
WORDS = st.sampled_from(
    ["image", "label", "group", "image_id", "fold", "repeat", "a.jpg", "b.jpg", "0", "1", "-1"]
    + ["nan", "1e999", "", " ", "=1+1", "\x1b[31m", "\u202e", "\0", '"', "'", "\ufeff", "9" * 40]
)
CELLS = st.one_of(WORDS, st.text(max_size=6))
SHARES = st.sampled_from(["0.5", "0", "1", "-0.0", "1e-400", "0.25", "0.75", "inf", "0,5", "1_0"])
DELIMITERS = st.sampled_from([*",;\t|", "\n", "\r\n", "\r", '"', '""', "\0", "\x85", "\u2028"])
DELIMITED = st.lists(st.one_of(WORDS, DELIMITERS, st.just(","), st.just("\n")), max_size=40).map(
    "".join
)
PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), WORDS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)
SETTINGS = ["epochs", "lr", "backbone", "data", "folds", "tta", "box_cols", "name", "members"]
SETTINGS += ["method", "weights", "metric", "img_size", "config", "seed", "only_folds", "output"]
SETTING = st.sampled_from(SETTINGS)
YAML_BITS = st.sampled_from(
    [
        "&a ",
        "*a",
        "- ",
        "? ",
        ": ",
        "\n",
        "  ",
        "[",
        "]",
        "{",
        "}",
        "!!set ",
        "!!binary ",
        "|\n",
        "'",
    ]
    + [
        "---\n",
        "!!python/name:os.system ",
        "<<: ",
        "0x",
        "1_0",
        "2024-01-01",
        ".inf",
        "~",
        "a",
        "x: ",
    ]
)


def by_file(data: bytes | str, tmp_path, *names: str) -> None:
    """Parse the same bytes by several parsers."""
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    for name in names:
        parse(name, raw, tmp_path)


@CHECKED
@given(text=DELIMITED)
def test_delimited_tables(text, tmp_path):
    by_file(text, tmp_path, "csv", "tsv", "folds")


@CHECKED
@given(data=st.binary(max_size=80))
def test_any_bytes(data, tmp_path):
    by_file(data, tmp_path, *[name for name in PARSERS if name != "parquet"])


@CHECKED
@given(rows=st.lists(st.lists(CELLS, min_size=3, max_size=3), max_size=6))
def test_fold_files(rows, tmp_path):
    table = pd.DataFrame(rows, columns=["image_id", "fold", "repeat"])
    by_file(table.to_csv(index=False, escapechar="\\"), tmp_path, "folds")


@CHECKED
@given(
    rows=st.lists(st.lists(st.one_of(CELLS, SHARES), min_size=5, max_size=5), max_size=6),
    columns=st.permutations(["image_id", "fold", "cat", "dog", "label"]),
)
def test_predictions(rows, columns, tmp_path):
    table = pd.DataFrame(rows, columns=columns)
    by_file(table.to_csv(index=False, escapechar="\\"), tmp_path, "oof")


@CHECKED
@given(changes=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), CELLS), max_size=2))
def test_predictions_with_odd_cells(changes, tmp_path):
    table = pd.read_csv(CORPUS / "oof" / "plain.csv", dtype=str)
    for row, column, cell in changes:
        table.iloc[row, column] = cell
    by_file(table.to_csv(index=False, escapechar="\\"), tmp_path, "oof")


@CHECKED
@given(values=st.lists(PLAIN, max_size=4))
def test_json_lines(values, tmp_path):
    text = "\n".join(json.dumps(value) for value in values)
    by_file(text, tmp_path, "jsonl", "json")


@CHECKED
@given(settings=st.dictionaries(SETTING, PLAIN, max_size=4))
def test_yaml_settings(settings, tmp_path):
    by_file(yaml.safe_dump(settings, allow_unicode=True), tmp_path, "config", "members", "blend")


@CHECKED
@given(bits=st.lists(st.one_of(YAML_BITS, SETTING), max_size=20))
def test_yaml_of_pieces(bits, tmp_path):
    by_file("".join(bits), tmp_path, "config", "blend")


def _images() -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 255, size=(9, 7, 3), dtype=np.uint8)
    made = []
    for form in ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF"):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, form)
        made.append(buffer.getvalue())
    grey = io.BytesIO()
    Image.fromarray(pixels[..., 0].astype(np.uint16)).save(grey, "TIFF")
    return [*made, grey.getvalue(), png(2**31 - 1, 2**31 - 1), png(0, 5)]


@CHECKED
@given(
    image=st.sampled_from(_images()),
    cuts=st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=4)), max_size=4),
    length=st.floats(0.3, 1),
)
def test_image_headers(image, cuts, length, tmp_path):
    data = bytearray(image)
    for share, new in cuts:
        place = int(share * len(data))
        data[place : place + len(new)] = new
    by_file(bytes(data[: max(1, int(length * len(data)))]), tmp_path, "header", "image", "png")


def in_process(name: str, files: list[Path]) -> None:
    """Parse files in another process, since libraries may abort it."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.parsers", name, *map(str, files)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    last = [*done.stdout.splitlines(), "none"][-1] if done.returncode else ""
    assert done.returncode == 0, f"{last}: {done.stderr[-2000:]}"


def test_damaged_parquet(tmp_path):
    buffer = io.BytesIO()
    pd.DataFrame({"image": ["a.jpg"] * 9, "label": range(9)}).to_parquet(buffer)
    whole = buffer.getvalue()
    rng = random.Random(0)
    files = []
    for number in range(150):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        files.append(tmp_path / f"{number}.parquet")
        files[-1].write_bytes(data)
    in_process("parquet", [*sorted((CORPUS / "parquet").glob("*")), *files])


# Inputs that a fuzzer found to reach new code, or that have failed once.
SAVED = sorted(file for file in CORPUS.rglob("*.*") if file.parent.name != "parquet")


@pytest.mark.parametrize("file", SAVED, ids=lambda file: f"{file.parent.name}-{file.name}")
def test_saved_corpus(file, tmp_path):
    parse(file.parent.name, file.read_bytes(), tmp_path)


def test_tiff_of_a_loop(tmp_path):
    loop = b"II*\0" + struct.pack("<IHHHIII", 8, 65535, 258, 3, 2**31, 8, 8)
    by_file(loop, tmp_path, "header", "image")
