import zlib

import cv2
import numpy as np
import pandas as pd
import pytest

from folds.errors import BadImage
from folds.images import check_images, read_image


@pytest.fixture
def picture():
    rng = np.random.default_rng(0)
    return cv2.GaussianBlur(rng.integers(0, 255, (60, 40, 3), dtype=np.uint8), (0, 0), 3)


def test_reads_rgb(tmp_path, picture):
    cv2.imwrite(str(tmp_path / "a.png"), picture[..., ::-1])
    assert np.array_equal(read_image(tmp_path / "a.png"), picture)


def test_grey_and_transparent_become_rgb(tmp_path, picture):
    cv2.imwrite(str(tmp_path / "grey.png"), picture[..., 0])
    cv2.imwrite(str(tmp_path / "alpha.png"), np.dstack([picture, picture[..., :1]]))
    assert read_image(tmp_path / "grey.png").shape == (60, 40, 3)
    assert read_image(tmp_path / "alpha.png").shape == (60, 40, 3)


def damaged(tmp_path, picture):
    data = cv2.imencode(".jpg", picture)[1].tobytes()
    contents = {"empty.jpg": b"", "text.jpg": b"hello", "half.jpg": data[: len(data) // 2], "tail.jpg": data[:-2]}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return [str(tmp_path / name) for name in [*contents, "absent.jpg"]]


def test_damage_is_named_by_reader_and_check_alike(tmp_path, picture):
    files = damaged(tmp_path, picture)
    for file, found in zip(files, check_images(pd.DataFrame({"path": files})), strict=True):
        assert isinstance(found, BadImage), file
        assert file in str(found)
        with pytest.raises(BadImage, match=r"fetch it again or pass --on-bad-image skip"):
            read_image(file)


def test_check_hashes_content(tmp_path, picture):
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), picture)
    cv2.imwrite(str(tmp_path / "c.png"), picture + 1)
    table = pd.DataFrame({"path": [str(tmp_path / name) for name in ("a.png", "b.png", "c.png")]})
    a, b, c = check_images(table)
    assert a == b != c


def test_a_huge_picture_is_refused_before_it_is_decoded(tmp_path):
    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    side = 20_000
    header = side.to_bytes(4, "big") * 2 + b"\x08\x00\x00\x00\x00"
    pixels = zlib.compress(bytes(side + 1) * 64)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(png)
    with pytest.raises(BadImage, match="over 64 megapixels"):
        read_image(tmp_path / "bomb.png")
