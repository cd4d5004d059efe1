"""Reading of images: formats, damaged files, scaled decoding and checks."""

import zlib

import cv2
import numpy as np
import pandas as pd
import pytest

from foldblend.errors import BadImage
from foldblend.images import check_images, image_key, read_image


@pytest.fixture
def image():
    rng = np.random.default_rng(0)
    return cv2.GaussianBlur(rng.integers(0, 255, (60, 40, 3), dtype=np.uint8), (0, 0), 3)


def test_reads_rgb(tmp_path, image):
    cv2.imwrite(str(tmp_path / "a.png"), image[..., ::-1])
    assert np.array_equal(read_image(tmp_path / "a.png"), image)


def test_grey_and_transparent_become_rgb(tmp_path, image):
    cv2.imwrite(str(tmp_path / "grey.png"), image[..., 0])
    cv2.imwrite(str(tmp_path / "alpha.png"), np.dstack([image, image[..., :1]]))
    assert read_image(tmp_path / "grey.png").shape == (60, 40, 3)
    assert read_image(tmp_path / "alpha.png").shape == (60, 40, 3)


def damaged(tmp_path, image):
    data = cv2.imencode(".jpg", image)[1].tobytes()
    contents = {
        "empty.jpg": b"",
        "text.jpg": b"hello",
        "half.jpg": data[: len(data) // 2],
        "tail.jpg": data[:-2],
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return [str(tmp_path / name) for name in [*contents, "absent.jpg"]]


def test_reading_and_checking_report_damaged_files(tmp_path, image):
    files = damaged(tmp_path, image)
    for file, found in zip(files, check_images(pd.DataFrame({"path": files})), strict=True):
        assert isinstance(found, BadImage), file
        assert file in str(found)
        with pytest.raises(BadImage, match=r"fetch it again or pass --on-bad-image skip"):
            read_image(file)


def test_check_hashes_content(tmp_path, image):
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), image)
    cv2.imwrite(str(tmp_path / "c.png"), image + 1)
    table = pd.DataFrame({"path": [str(tmp_path / name) for name in ("a.png", "b.png", "c.png")]})
    a, b, c = check_images(table)
    assert a == b != c


def test_a_huge_image_is_refused_before_it_is_decoded(tmp_path):
    def chunk(kind, data):
        return (
            len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
        )

    side = 20_000
    header = side.to_bytes(4, "big") * 2 + b"\x08\x00\x00\x00\x00"
    pixels = zlib.compress(bytes(side + 1) * 64)
    png = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )
    (tmp_path / "bomb.png").write_bytes(png)
    with pytest.raises(BadImage, match="over 64 megapixels"):
        read_image(tmp_path / "bomb.png")


def photo(tmp_path, image, name="photo.jpg"):
    cv2.imwrite(
        str(tmp_path / name),
        cv2.resize(image, (480, 640), interpolation=cv2.INTER_CUBIC)[..., ::-1],
    )
    return tmp_path / name


@pytest.mark.parametrize(
    ("at_least", "shape"),
    [
        ((60, 80), (80, 60)),
        ((61, 80), (160, 120)),
        ((120, 161), (320, 240)),
        ((240, 321), (640, 480)),
    ],
)
def test_scaled_decoding_is_never_smaller_than_needed(tmp_path, image, at_least, shape):
    file = photo(tmp_path, image)
    scaled = read_image(file, at_least=at_least)
    whole = read_image(file)
    assert scaled.shape == (*shape, 3)
    shrunk = cv2.resize(whole, shape[::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(scaled.astype(int) - shrunk).mean() < 1.5


def test_scaled_decoding_respects_the_exif_orientation(tmp_path, image):
    import PIL.Image

    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.open(photo(tmp_path, image)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (480, 640, 3)
    assert read_image(tmp_path / "turned.jpg", at_least=(300, 200)).shape == (240, 320, 3)
    assert read_image(tmp_path / "turned.jpg", at_least=(200, 300)).shape == (480, 640, 3)


def test_only_whole_jpegs_are_decoded_at_a_smaller_scale(tmp_path, image):
    cv2.imwrite(str(tmp_path / "large.png"), cv2.resize(image, (480, 640)))
    assert read_image(tmp_path / "large.png", at_least=(60, 80)).shape == (640, 480, 3)
    file = photo(tmp_path, image)
    assert np.array_equal(
        read_image(file, (9, 9, 99, 99), at_least=(8, 8)), read_image(file)[9:99, 9:99]
    )


def test_known_images_are_hashed_but_not_decoded(tmp_path, image, monkeypatch):
    table = pd.DataFrame(
        {"path": [str(photo(tmp_path, image)), str(photo(tmp_path, image + 9, "other.jpg"))]}
    )
    content = check_images(table)
    assert image_key(content[0], None) != image_key(content[0], (0, 0, 9, 9))
    decoded = []
    monkeypatch.setattr("foldblend.images._decode", lambda path, *_, **__: decoded.append(path))
    assert check_images(table, known={image_key(content[0], None)}) == content
    assert decoded == [table["path"][1]]
