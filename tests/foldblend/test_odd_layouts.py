"""Layouts of TIFF, PNG and PFM files whose values OpenCV gives otherwise, or not at all."""

import io
import struct
import zlib

import numpy as np
import pandas as pd
import PIL.Image
import pytest

from foldblend.errors import BadImage
from foldblend.images import Levels, check_images, read_image, upright_size
from tests.makers.tiffs import packed, tiff_of

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 4096, (30, 20), dtype=np.uint16)
COLOUR = RNG.integers(0, 4096, (30, 20, 3), dtype=np.uint16)
RANGE = Levels((0, 4095))


def values_in(file, levels=RANGE):
    [found] = check_images(pd.DataFrame({"path": [str(file)]}), levels=levels)
    return found.values


def test_white_is_0_where_a_tiff_says_so(tmp_path):
    file = tmp_path / "a.tif"
    wanted = 255 - GREY / 4095 * 255
    floats = (GREY / 4095).astype(np.float32)
    for data, levels in (
        (tiff_of([GREY.tobytes()], GREY.shape, 16, t262=0), RANGE),
        (packed(GREY, 12, t262=0), RANGE),
        (tiff_of([floats.tobytes()], GREY.shape, 32, t262=0, t339=3), Levels((0, 1))),
    ):
        file.write_bytes(data)
        assert np.abs(read_image(file, levels=levels)[..., 0] - wanted).max() <= 0.5 + 1e-4


def planar(values, **tags):
    planes = [np.ascontiguousarray(values[..., k]).tobytes() for k in range(values.shape[2])]
    return tiff_of(planes, values.shape, 8 * values.itemsize, t284=2, **tags)


@pytest.mark.parametrize("values", [COLOUR * 16, (GREY * 16)[..., None].repeat(2, axis=2)])
def test_16_bits_of_which_the_upper_8_are_read_need_the_whole_range(tmp_path, values):
    is_grey = values.shape[2] == 2
    data = tiff_of([values.tobytes()], values.shape, 16, t338=2) if is_grey else planar(values)
    file = tmp_path / "a.tif"
    file.write_bytes(data)
    wanted = values[..., :1] if is_grey else values
    for levels in (Levels(), Levels((0, 65535)), Levels((0, 65535), background="white")):
        image = read_image(file, levels=levels)
        assert np.abs(image - wanted / 65535 * 255).max() <= 1
        assert values_in(file, levels).span == (0, 65535)
    with pytest.raises(BadImage, match=r"has 16 bits that cannot be read .*; save it as grey or"):
        read_image(file, levels=RANGE)


@pytest.mark.parametrize("background", [None, "white"])
def test_floats_with_alpha_are_read_and_those_in_planes_are_not(tmp_path, background):
    floats = (np.dstack([COLOUR, GREY]) / 4095).astype(np.float32)
    file = tmp_path / "a.tif"
    levels = Levels((0, 1), background=background)
    file.write_bytes(tiff_of([floats.tobytes()], floats.shape, 32, t338=2, t339=3))
    image = read_image(file, levels=levels)
    assert np.abs(image - COLOUR / 4095 * 255).max() <= 0.5 + 1e-4
    assert values_in(file, levels).is_deep
    half = floats[..., :3].astype(np.float16)
    for data in (
        planar(floats[..., :3], t339=3),
        tiff_of([half.tobytes()], half.shape, 16, t339=3),
    ):
        file.write_bytes(data)
        with pytest.raises(BadImage, match=r"in a layout that cannot be read; save it as grey or"):
            read_image(file, levels=levels)


@pytest.mark.parametrize(
    ("number", "name"), [(34925, "LZMA"), (50000, "Zstandard"), (34887, "LERC"), (50001, "WebP")]
)
def test_a_compression_that_is_not_read_is_named(tmp_path, number, name):
    file = tmp_path / "a.tif"
    for bits, form in ((16, 1), (32, 3)):
        file.write_bytes(tiff_of([b"(\xb5/\xfd"], GREY.shape, bits, t259=number, t339=form))
        text = rf"a\.tif: is a TIFF compressed with {name}; save it with LZW or without"
        with pytest.raises(BadImage, match=text):
            read_image(file, levels=Levels((0, 1)))


def test_cmyk_of_16_bits_is_named(tmp_path):
    file = tmp_path / "a.tif"
    inks = np.dstack([COLOUR, GREY])
    file.write_bytes(tiff_of([inks.tobytes()], inks.shape, 16, t262=5))
    [found] = check_images(pd.DataFrame({"path": [str(file)]}), levels=RANGE)
    assert str(found).startswith(f"{file}: has CMYK colours of 16 bits; save it as RGB")
    inks = (inks >> 4).astype(np.uint8)
    file.write_bytes(tiff_of([inks.tobytes()], inks.shape, 8, t262=5))
    assert read_image(file).shape == (30, 20, 3)


def test_floats_of_pfm_need_a_range(tmp_path):
    file = tmp_path / "a.pfm"
    values = (GREY / 4095).astype("<f4")
    file.write_bytes(b"Pf\n20 30\n-1.0\n" + values[::-1].tobytes())
    image = read_image(file, levels=Levels((0, 1)))
    assert np.abs(image[..., 0] - values * 255).max() <= 0.5 + 1e-4
    with pytest.raises(BadImage, match=r"has decimal pixel values; train with --pixel-range"):
        read_image(file)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(values, colours, *, before=b"", after=b""):
    """Return a PNG of 8 or 16 bits with further chunks before and after its pixels."""
    rows = b"".join(b"\0" + row.astype(row.dtype.newbyteorder(">")).tobytes() for row in values)
    head = struct.pack(">II", *values.shape[1::-1]) + bytes([8 * values.itemsize, colours, 0, 0, 0])
    pixels = chunk(b"IDAT", zlib.compress(rows))
    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head)
    return head + before + pixels + after + chunk(b"IEND", b"")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_one_grey_value_of_a_png_may_be_transparent(tmp_path, dtype):
    values = (GREY % 16 + (0x100 if dtype is np.uint16 else 0)).astype(dtype)
    clear = int(values[0, 0])
    file = tmp_path / "a.png"
    file.write_bytes(png_of(values, 0, before=chunk(b"tRNS", struct.pack(">H", clear))))
    high = 255 if dtype is np.uint8 else 511
    shown = read_image(file, levels=Levels((0, high), background="white"))[..., 0]
    assert np.array_equal(shown, np.where(values == clear, 255, np.rint(values / high * 255)))
    kept = read_image(file, levels=Levels((0, high)))[..., 0]
    assert np.array_equal(kept, np.rint(values / high * 255))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_transparent_grey_value_of_few_bits(tmp_path, bits):
    stored = np.array([[0b00011011, 0b11100100]], np.uint8)
    data = bytearray(png_of(stored, 0, before=chunk(b"tRNS", b"\0\1")))
    head = struct.pack(">II", 16 // bits, 1) + bytes([bits, 0, 0, 0, 0])
    data[8:33] = chunk(b"IHDR", head)
    file = tmp_path / "a.png"
    file.write_bytes(data)
    most = 2**bits - 1
    unpacked = np.unpackbits(stored).reshape(-1, bits) @ (1 << np.arange(bits)[::-1])
    shown = read_image(file, levels=Levels(background="white"))[0, :, 0]
    assert np.array_equal(shown, np.where(unpacked == 1, 255, unpacked * (255 // most)))


@pytest.mark.parametrize("background", [None, "white"])
def test_an_orientation_after_the_pixels_of_a_png_turns_it(tmp_path, background):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    late = chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    opaque = np.dstack([COLOUR, np.full(GREY.shape, 65535, np.uint16)])
    file = tmp_path / "a.png"
    file.write_bytes(png_of(opaque, 6, after=late))
    image = read_image(file, levels=Levels((0, 4095), background=background))
    assert np.abs(image - np.rot90(COLOUR, -1) / 4095 * 255).max() <= 1
    assert upright_size(file) == (30, 20)
    assert PIL.Image.open(io.BytesIO(file.read_bytes())).size == (20, 30)


def test_values_under_transparent_pixels_do_not_count(tmp_path):
    alpha = np.full(GREY.shape, 65535, np.uint16)
    alpha[:3] = 0
    hidden = COLOUR.copy()
    hidden[:3] = 65535
    grey = GREY.copy()
    grey[:3] = 65535
    file = tmp_path / "a.png"
    clear = chunk(b"tRNS", b"\xff\xff")
    for data in (png_of(np.dstack([hidden, alpha]), 6), png_of(grey, 0, before=clear)):
        file.write_bytes(data)
        assert values_in(file, Levels(background="white")).span == (0, 4095)
        assert values_in(file, Levels()).span == (0, 65535)
