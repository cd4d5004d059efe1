"""Reading of images: formats, damaged files, scaled decoding and checks."""

import io
import pickle
import re
import zlib

import cv2
import numpy as np
import pandas as pd
import PIL.Image
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
    a, b, c = (one.content for one in check_images(table))
    assert a == b != c


def test_a_huge_image_is_refused_before_it_is_decoded(tmp_path):
    side = 20_000
    png = png_of(zlib.compress(bytes(side + 1) * 64), width=side, height=side)
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
    found = check_images(table)
    content = [one.content for one in found]
    assert image_key(content[0], None) != image_key(content[0], (0, 0, 9, 9))
    decoded = []
    monkeypatch.setattr(
        "foldblend.image_checks._check_bytes", lambda path, *_: decoded.append(path)
    )
    assert check_images(table, known={image_key(content[0], None)}) == found
    assert decoded == [table["path"][1]]


def encoded(image, form, **how):
    buffer = io.BytesIO()
    PIL.Image.fromarray(image).save(buffer, form, **how)
    return buffer.getvalue()


def zeros_inside(data, size=400):
    return data[: len(data) // 2] + bytes(size) + data[len(data) // 2 + size :]


@pytest.fixture
def large(image):
    return cv2.resize(image, (480, 640), interpolation=cv2.INTER_CUBIC)


WRONG = {
    "zeros.jpg": "damaged JPEG (",
    "half.jpg": "damaged JPEG (Premature end of JPEG file)",
    "no_end.jpg": "damaged JPEG (Premature end of JPEG file)",
    "grey.jpg": "damaged JPEG (",
    "cmyk.jpg": "damaged JPEG (",
    "turned.jpg": "damaged JPEG (",
    "crc.png": "damaged PNG (the checksum of its IDAT chunk is wrong)",
    "half.png": "damaged PNG (it ends too early)",
    "pixels.png": "damaged PNG (its compressed pixels are damaged)",
    "few.png": "damaged PNG (it has too few pixels)",
    "empty.jpg": "empty file",
    "page.jpg": "is an HTML page, not an image",
    "words.jpg": "is text, not an image",
    "vector.svg": "is SVG; convert it",
    "pointer.jpg": "is a Git LFS pointer; run git lfs pull",
    "heic.jpg": "is HEIC; convert it",
    "float.tif": "has decimal pixel values; train with --pixel-range LOW,HIGH",
    "floats.tif": "has decimal pixel values; train with --pixel-range LOW,HIGH",
    "int32.tif": "has 32-bit pixel values; save it with 8 or 16 bits",
    "half.tif": "truncated or damaged TIFF",
    "half.webp": "truncated or damaged WebP image",
    "half.gif": "truncated or damaged GIF",
    "half.bmp": "truncated or damaged BMP",
    "half.jp2": "truncated or damaged JPEG 2000 image",
    "half.avif": "truncated or damaged AVIF",
    "noise.jpg": "truncated or not an image",
}


def png_chunk(kind, data):
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def png_of(idat, *, width, height):
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x00\x00\x00\x00"
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", idat)
        + png_chunk(b"IEND", b"")
    )


def write_wrong(folder, large):
    """Write a file of every name of WRONG."""
    jpeg = encoded(large, "JPEG", quality=95)
    png = encoded(large, "PNG")
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    cmyk = io.BytesIO()
    PIL.Image.fromarray(large).convert("CMYK").save(cmyk, "JPEG")
    values = (large[..., 0] / 255).astype(np.float32)
    halves = {
        f"half.{suffix}": encoded(large, form)
        for suffix, form in (
            ("tif", "TIFF"), ("webp", "WEBP"), ("gif", "GIF"), ("bmp", "BMP"),
            ("jp2", "JPEG2000"), ("avif", "AVIF"), ("jpg", "JPEG"), ("png", "PNG"),
        )
    }  # fmt: skip
    contents = {
        "zeros.jpg": zeros_inside(jpeg),
        "no_end.jpg": jpeg[:-2],
        "grey.jpg": zeros_inside(encoded(large[..., 0], "JPEG", quality=95)),
        "cmyk.jpg": zeros_inside(cmyk.getvalue()),
        "turned.jpg": zeros_inside(encoded(large, "JPEG", quality=95, exif=exif)),
        "crc.png": zeros_inside(png, 4),
        "pixels.png": png_of(zlib.compress(b"\x09" * 110), width=9, height=11),
        "few.png": png_of(zlib.compress(bytes(90)), width=9, height=11),
        "empty.jpg": b"",
        "page.jpg": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "words.jpg": b"hello",
        "vector.svg": b'<?xml version="1.0"?><svg width="9" height="9"/>',
        "pointer.jpg": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "heic.jpg": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200),
        "float.tif": encoded(values, "TIFF"),
        "floats.tif": cv2.imencode(".tif", np.dstack([values] * 3))[1].tobytes(),
        "int32.tif": encoded(large[..., 0].astype(np.int32) * 16, "TIFF"),
        "noise.jpg": np.random.default_rng(0).bytes(999),
    } | {name: data[: len(data) // 2] for name, data in halves.items()}
    assert contents.keys() == WRONG.keys()
    for name, data in contents.items():
        (folder / name).write_bytes(data)


def test_wrong_files_are_reported_with_their_reason_and_nothing_else(tmp_path, large, capfd):
    write_wrong(tmp_path, large)
    table = pd.DataFrame({"path": [str(tmp_path / name) for name in WRONG]})
    for (name, reason), found in zip(WRONG.items(), check_images(table), strict=True):
        assert isinstance(found, BadImage), name
        assert str(found).startswith(f"{tmp_path / name}: {reason}"), found
        assert str(found).endswith("or pass --on-bad-image skip")
        assert "--on-bad-image" not in found.for_test()
        with pytest.raises(BadImage, match=re.escape(reason)):
            read_image(tmp_path / name)
    assert capfd.readouterr() == ("", "")


def test_a_boxed_image_is_searched_for_damage_too(tmp_path, large):
    (tmp_path / "a.jpg").write_bytes(zeros_inside(encoded(large, "JPEG", quality=95)))
    table = pd.DataFrame({"path": [str(tmp_path / "a.jpg")], "box": [(0.0, 0.0, 9.0, 9.0)]})
    assert isinstance(check_images(table)[0], BadImage)


def test_what_libraries_warn_of_but_do_not_use_is_neither_printed_nor_a_fault(
    tmp_path, large, capfd
):
    jpeg = bytearray(encoded(large, "JPEG"))
    at = jpeg.index(b"JFIF\0") + 5
    jpeg[at : at + 2] = b"\0\0"
    png = encoded(large, "PNG")
    after = 8 + 25
    profile = png_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(200)))
    comment = bytearray(png_chunk(b"tEXt", b"a\0b"))
    comment[-1] ^= 0xFF  # a wrong checksum
    contents = {
        "version.jpg": bytes(jpeg),
        "profile.png": png[:after] + profile + png[after:],
        "comment.png": png[:after] + bytes(comment) + png[after:],
    }
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
        read = read_image(tmp_path / name)
        if name.endswith(".png"):
            assert np.array_equal(read, large)
    table = pd.DataFrame({"path": [str(tmp_path / name) for name in contents]})
    assert not any(isinstance(found, BadImage) for found in check_images(table))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("size", [(1, 1), (3000, 1), (7, 12), (8, 8)])
@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp"])
def test_small_images_are_read(tmp_path, size, suffix):
    file = tmp_path / f"a.{suffix}"
    PIL.Image.new("RGB", size, (9, 9, 9)).save(file)
    assert not isinstance(check_images(pd.DataFrame({"path": [str(file)]}))[0], BadImage)
    assert read_image(file).shape == (size[1], size[0], 3)


def test_checks_find_the_largest_value_of_16_bit_images_only(tmp_path, image):
    grey = image[..., 0].astype(np.uint16) * 16
    cv2.imwrite(str(tmp_path / "a.png"), grey)
    cv2.imwrite(str(tmp_path / "b.tif"), np.dstack([grey] * 3))
    cv2.imwrite(str(tmp_path / "c.pgm"), grey)
    cv2.imwrite(str(tmp_path / "d.png"), image)
    cv2.imwrite(str(tmp_path / "e.pgm"), image[..., 0])
    table = pd.DataFrame({"path": [str(tmp_path / n) for n in ("a.png", "b.tif", "c.pgm")]})
    assert [one.values.high for one in check_images(table)] == [int(grey.max())] * 3
    table = pd.DataFrame({"path": [str(tmp_path / n) for n in ("d.png", "e.pgm")]})
    assert [one.values for one in check_images(table)] == [None, None]


def test_a_bad_image_survives_the_way_from_another_process():
    error = pickle.loads(pickle.dumps(BadImage("a.jpg: empty file", "fetch it", "save it")))
    assert str(error) == "a.jpg: empty file; fetch it or pass --on-bad-image skip"
    assert error.for_test() == "a.jpg: empty file; save it"
