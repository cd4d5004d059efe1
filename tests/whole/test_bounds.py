"""Bounds of what is read: each hostile file is one line, before it fills memory or waits."""

import contextlib
import gzip
import io
import json
import os
import struct
import zlib

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from foldblend.arrays_file import read_arrays
from foldblend.errors import BadImage, UserError
from foldblend.images import check_images, read_image, upright_size
from foldblend.tables import read_text_table
from folds.config import DataConfig
from pipeline.predict.config import PredictConfig
from pipeline.predict.inputs import read_inputs
from pipeline.predict.journal import Journal


def nested(depth):
    return '{"image": "a.jpg", "label": ' + "[" * depth + "]" * depth + "}\n"


TABLES = {
    "gzip.csv": (gzip.compress(b"image,label\n" * 9), "is a gzip archive, not text; unpack it"),
    "deep.jsonl": (nested(500).encode(), "line 1 is not a JSON object"),
    "deepest.jsonl": (nested(100_000).encode(), "line 1 is not a JSON object"),
    "half.jsonl": (b'{"image": "a.jpg", "label": "\\ud800"}', "half of a surrogate pair"),
    "wide.csv": (b",".join(b"c%d" % one for one in range(10_001)), "has 10,001 columns"),
    "equal.csv": (b",".join([b"c"] * 200_000), "has 200,000 columns"),
    "keys.jsonl": (
        b"\n".join(b'{"k%d": 1}' % one for one in range(10_001)),
        "has 10,001 columns",
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_hostile_table_is_one_line(tmp_path, name):
    content, message = TABLES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_text_table(tmp_path / name)


def test_columns_of_one_name_are_told_apart_in_a_wide_table(tmp_path):
    (tmp_path / "t.csv").write_text(",".join(["c"] * 9_999) + ",c.1\n")
    table = read_text_table(tmp_path / "t.csv")
    assert table.cells.columns.is_unique
    assert "c.1" in table.cells.columns
    assert table.twice == {"c"}


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet"])
def test_rows_are_bounded(tmp_path, name):
    table = pd.DataFrame({"image": ["a.jpg"] * 5})
    file = tmp_path / name
    {
        "t.csv": lambda: table.to_csv(file, index=False),
        "t.jsonl": lambda: table.to_json(file, orient="records", lines=True),
        "t.parquet": lambda: table.to_parquet(file),
    }[name]()
    assert len(read_text_table(file, max_rows=5).cells) == 5
    with pytest.raises(UserError, match="over 4 rows; if that is right, pass a larger --max-rows"):
        read_text_table(file, max_rows=4)


def test_the_rows_of_a_parquet_file_are_counted_before_they_are_read(tmp_path, monkeypatch):
    table = pa.table({"image": ["a.jpg"] * 1000})
    with pa.parquet.ParquetWriter(tmp_path / "t.parquet", table.schema) as writer:
        for _ in range(30):
            writer.write_table(table)
    monkeypatch.setattr("foldblend.delimited.MAX_ROWS", 29_999)
    monkeypatch.setattr("foldblend.parquet_tables._words", None)
    with pytest.raises(UserError, match="over 29,999 rows; leave out rows"):
        read_text_table(tmp_path / "t.parquet")


def test_a_text_that_all_rows_of_a_parquet_file_have_is_kept_once(tmp_path):
    rows = ["x" * 100_000] * 1_000
    pa.parquet.write_table(pa.table({"label": rows}), tmp_path / "t.parquet")
    cells = read_text_table(tmp_path / "t.parquet").cells["label"]
    assert len(cells) == 1_000
    assert cells.iloc[0] is cells.iloc[-1]


def test_the_texts_of_a_file_of_images_are_counted_once(tmp_path, monkeypatch):
    texts = [f"{one:01000}" for one in range(200)]
    table = pa.table({"image": [{"bytes": b"", "path": "a"}] * 200, "label": [*texts[1:], None]})
    pa.parquet.write_table(table, tmp_path / "t.parquet")
    monkeypatch.setattr("foldblend.parquet_tables.AT_ONCE", 7)
    monkeypatch.setattr("foldblend.parquet_tables.MOST_TEXT", 220_000)
    assert [*read_text_table(tmp_path / "t.parquet").cells["label"]] == [*texts[1:], ""]
    monkeypatch.setattr("foldblend.parquet_tables.MOST_TEXT", 190_000)
    with pytest.raises(UserError, match="bytes of cells, and at most 190,000 are read"):
        read_text_table(tmp_path / "t.parquet")


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet"])
def test_a_pipe_is_no_table(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match="is a pipe or device, not a file"):
        read_text_table(tmp_path / name)


def png(width, height, more=b""):
    def chunk(kind, data):
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts + more


def long_file(path, start, size=2**29):
    """Write a file of 500 MB, nearly all of which is a hole."""
    path.write_bytes(start)
    os.truncate(path, size)
    return str(path)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"", "truncated or not an image"),
        (b"\xff\xd8\xff\xe0", "damaged JPEG|truncated or not an image"),
        (b"%PDF-1.4", "is a PDF"),
        (png(20, 20), "has 536,870,912 bytes for 20 x 20 pixels"),
        (png(20_000, 20_000), "over 64 megapixels"),
    ],
)
def test_a_large_file_is_refused_by_its_header(tmp_path, monkeypatch, start, message):
    monkeypatch.setattr("foldblend.image_contents.read_bounded", None)
    file = long_file(tmp_path / "a.jpg", start)
    with pytest.raises(BadImage, match=message):
        read_image(file)
    assert isinstance(check_images(pd.DataFrame({"path": [file]}))[0], BadImage)


def test_the_bytes_of_an_image_are_bounded(tmp_path):
    # The header of a TIFF may point to its end, and it may hold many pages.
    content = cv2.imencode(".tif", np.zeros((9, 9, 3), np.uint8))[1].tobytes()
    file = long_file(tmp_path / "a.tif", content, 2**31)
    with pytest.raises(BadImage, match="has 2,147,483,648 bytes, and at most"):
        read_image(file)


def test_pixels_are_bounded_by_the_flag(tmp_path):
    file = str(tmp_path / "a.png")
    cv2.imwrite(file, np.zeros((30, 40, 3), np.uint8))
    table = pd.DataFrame({"path": [file]})
    assert not isinstance(check_images(table, max_pixels=1200)[0], BadImage)
    refused = check_images(table, max_pixels=1199)[0]
    assert isinstance(refused, BadImage)
    assert "over 1199 pixels; scale it down, raise --max-pixels or pass" in str(refused)
    assert refused.for_test().endswith("scale it down, or raise --max-pixels")
    with pytest.raises(BadImage, match="over 1199 pixels"):
        read_image(file, max_pixels=1199)
    # Whoever accepted the image has applied the flag.
    assert read_image(file, max_pixels=1199, checked=True).shape == (30, 40, 3)


def test_more_pixels_than_pillow_allows_can_be_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 100)
    file = str(tmp_path / "a.png")
    cv2.imwrite(file, np.zeros((30, 40, 3), np.uint8))
    assert read_image(file).shape == (30, 40, 3)
    assert upright_size(file) == (40, 30)


@pytest.mark.parametrize("setting", [{"max_pixels": 0}, {"max_pixels": 2**31}, {"max_rows": 0}])
def test_bounds_have_a_range(setting):
    for config in (DataConfig, PredictConfig):
        with pytest.raises(UserError, match=r"^--max-(pixels|rows) .*: pass 1"):
            config(**setting)


def test_predictions_have_the_bounds_of_the_flags(tmp_path):
    (tmp_path / "t.csv").write_text("image\na.png\nb.png\n")
    for name in "ab":
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros((9, 9, 3), np.uint8))
    config = PredictConfig(run="r", max_pixels=50).reading({"max_rows": 2})
    assert config.max_rows == 2
    assert read_inputs(str(tmp_path / "t.csv"), config, ()).max_pixels == 50
    with pytest.raises(UserError, match="over 1 rows"):
        read_inputs(str(tmp_path / "t.csv"), DataConfig(max_rows=1), ())


@pytest.mark.parametrize("content", [b"", b"\xff" * 99, struct.pack("<Q", 5) + b'{"a":', b"x"])
def test_a_damaged_file_of_arrays_is_an_error(tmp_path, content):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="; make it again"):
        read_arrays(tmp_path / "a.safetensors", cure="make it again")


def test_a_journal_of_hostile_lines_is_read(tmp_path):
    journal = Journal(tmp_path / "j", "key", width=1, block=1, resume=True)
    with journal:
        lines = ["[0", "[" * 9999, '["x", 1]', "[1e400, 1]", "7", json.dumps([0, "why"])]
        journal.bad_file.write_text("\n".join(lines))
        assert journal.bad() == {0: "why"}


def test_a_table_of_bytes_that_lie_about_their_length_is_one_line(tmp_path):
    stream = io.BytesIO()
    pa.parquet.write_table(pa.table({"image": ["a.jpg"] * 99}), stream)
    content = bytearray(stream.getvalue())
    for place in range(0, len(content), 7):
        damaged = content.copy()
        damaged[place] ^= 0x55
        (tmp_path / "t.parquet").write_bytes(damaged)
        # Other errors are none for people.
        with contextlib.suppress(UserError):
            read_text_table(tmp_path / "t.parquet")
