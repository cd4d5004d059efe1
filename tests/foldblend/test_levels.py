"""Levels of images with more than 8 bits and of transparent ones, against NumPy and Pillow."""

import itertools
import re

import cv2
import numpy as np
import pandas as pd
import PIL.Image
import PIL.ImageOps
import pytest

from foldblend.errors import BadImage, UserError
from foldblend.images import Levels, check_images, find_values, read_image
from foldblend.levels import AS_BEFORE, BACKGROUNDS, covering, parse_range, parse_window, scaled
from tests.makers.tiffs import packed

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 4096, (40, 30), dtype=np.uint16)
COLOUR = RNG.integers(0, 4096, (40, 30, 3), dtype=np.uint16)


def expected(values, low, high):
    """Return levels as float, by the definition."""
    return ((values.astype(float) - low) / (high - low)).clip(0, 1) * 255


def written(file, values):
    """Write values with cv2, which takes colours as BGR."""
    cv2.imwrite(str(file), values if values.ndim == 2 else values[..., ::-1])
    return file


def as_rgb(values):
    return values if values.ndim == 3 else np.repeat(values[..., None], 3, axis=2)


@pytest.mark.parametrize("values", [GREY, COLOUR, GREY * 16, COLOUR * 16])
@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
@pytest.mark.parametrize("span", [(0, 4095), (0, 65535), (500, 2500)])
def test_integers_are_linear_in_the_range(tmp_path, values, suffix, span):
    suffix = "ppm" if suffix == "pgm" and values.ndim == 3 else suffix
    file = written(tmp_path / f"a.{suffix}", values)
    image = read_image(file, levels=Levels(span))
    assert np.abs(image - expected(as_rgb(values), *span)).max() <= 0.5 + 1e-9


def test_jpeg_2000_of_12_bits(tmp_path):
    smooth = np.add.outer(np.arange(64) * 40, np.arange(48) * 20).astype(np.uint16)
    file = written(tmp_path / "a.jp2", smooth)
    image = read_image(file, levels=Levels((0, 4095)))
    assert np.abs(image - expected(as_rgb(smooth), 0, 4095)).max() <= 1


@pytest.mark.parametrize("values", [GREY, COLOUR])
@pytest.mark.parametrize("bits", [10, 12, 14])
def test_packed_tiffs_have_their_own_values(tmp_path, values, bits):
    values = values >> (12 - bits) if bits < 12 else values << (bits - 12)
    file = tmp_path / "a.tif"
    file.write_bytes(packed(values, bits))
    for levels in (Levels((0, 2**bits - 1)), Levels()):
        image = read_image(file, levels=levels)
        assert np.abs(image - expected(as_rgb(values), 0, 2**bits - 1)).max() <= 0.5 + 1e-9
    [found] = check_images(pd.DataFrame({"path": [str(file)]}))
    assert found.values.span == (0, 2**bits - 1)
    assert (found.values.low, found.values.high) == (values.min(), values.max())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(700, 20), (40, 30, 3)])
def test_floats_are_linear_in_the_range_and_need_one(tmp_path, dtype, shape):
    values = RNG.normal(1000, 400, shape).astype(dtype)
    values.flat[:2] = np.inf, -np.inf
    file = written(tmp_path / "a.tif", values)
    image = read_image(file, levels=Levels((200, 1700)))
    assert np.abs(image - expected(as_rgb(values), 200, 1700)).max() <= 0.5 + 1e-3
    text = re.escape(f"{file}: has decimal pixel values; train with --pixel-range LOW,HIGH")
    with pytest.raises(BadImage, match=text):
        read_image(file)
    table = pd.DataFrame({"path": [str(file)]})
    for found in (check_images(table), find_values(table)):
        assert isinstance(found[0], BadImage)
        assert re.match(text, str(found[0]))


def test_a_range_decided_on_integers_is_not_one_of_floats(tmp_path):
    decided = Levels((0, 4095), range_is_decided=True)
    file = written(tmp_path / "a.tif", np.ones((9, 8), np.float32))
    text = re.escape(f"{file}: has decimal pixel values; train with --pixel-range LOW,HIGH")
    with pytest.raises(BadImage, match=text):
        read_image(file, levels=decided)
    table = pd.DataFrame({"path": [str(file)]})
    for check in (check_images, find_values):
        assert re.match(text, str(check(table, levels=decided)[0]))
    # Integers have the pixels of the same range typed, under the same name in caches.
    typed = Levels((0, 4095))
    file = written(tmp_path / "a.png", RNG.integers(0, 5000, (9, 8), dtype=np.uint16))
    assert np.array_equal(read_image(file, levels=decided), read_image(file, levels=typed))
    assert decided.key == typed.key
    assert decided != typed


def test_records_without_a_word_on_the_range_have_a_typed_one():
    old = {"pixel_range": [0, 4095], "dicom_window": "full", "background": "white"}
    assert Levels.of_record(old) == Levels((0, 4095), background="white")
    assert Levels.of_record(old | {"range_is_decided": True}).range_is_decided
    assert Levels.of_record({}) == AS_BEFORE


def test_nan_is_named(tmp_path):
    values = np.ones((9, 8), np.float32)
    values[3, 3] = np.nan
    file = written(tmp_path / "a.tif", values)
    with pytest.raises(BadImage, match=re.escape(f"{file}: has NaN among its pixel values")):
        read_image(file, levels=Levels((0, 1)))


def test_images_of_8_bits_stay_as_they_are(tmp_path):
    image = RNG.integers(0, 256, (20, 20, 3), dtype=np.uint8)
    for suffix in ("png", "tif", "ppm", "bmp", "jpg"):
        file = written(tmp_path / f"a.{suffix}", image)
        levels = Levels((100, 5000), background="black")
        assert np.array_equal(read_image(file, levels=levels), read_image(file)), suffix
        assert check_images(pd.DataFrame({"path": [str(file)]}))[0].values is None


def test_without_a_range_the_upper_8_of_16_bits_are_read(tmp_path):
    file = written(tmp_path / "a.png", COLOUR * 16)
    assert np.array_equal(read_image(file), COLOUR >> 4)
    assert np.array_equal(read_image(file, levels=Levels(background="white")), COLOUR >> 4)


def test_the_depth_is_the_smallest_that_holds_the_value():
    bits = [8, 10, 12, 14, 16]
    for one, next_one in itertools.pairwise(bits):
        assert covering(2**one - 1) == (0, 2**one - 1)
        assert covering(2**one) == (0, 2**next_one - 1)


def test_scaling_takes_the_same_values_for_every_type():
    values = np.array([[0, 17, 300, 4095, 5000]])
    found = [scaled(values.astype(kind), (10, 4000)) for kind in ("u2", "i2", "i4", "f4", "f8")]
    assert all(np.array_equal(one, found[0]) for one in found)
    assert np.abs(found[0] - expected(values, 10, 4000)).max() <= 0.5


def transparent(seed=0, *, side=24):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (side, side + 3, 4), dtype=np.uint8)


def over(pixels, background):
    """Return RGBA pixels over a background, as Pillow lays them."""
    top = PIL.Image.fromarray(pixels)
    level = BACKGROUNDS[background]
    below = PIL.Image.new("RGBA", top.size, (level, level, level, 255))
    return np.asarray(PIL.Image.alpha_composite(below, top).convert("RGB"), int)


SAVED = {"png": {}, "webp": {"lossless": True, "exact": True}, "tif": {}}


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("suffix", SAVED)
def test_transparent_pixels_are_laid_over_the_background(tmp_path, suffix, background):
    pixels = transparent()
    file = tmp_path / f"a.{suffix}"
    PIL.Image.fromarray(pixels).save(file, **SAVED[suffix])
    image = read_image(file, levels=Levels(background=background))
    # OpenCV's TIFFs are rounded once more, when they are multiplied by alpha.
    assert np.abs(image - over(pixels, background)).max() <= (2 if suffix == "tif" else 1)
    [found] = check_images(pd.DataFrame({"path": [str(file)]}))
    assert found.values.has_alpha
    assert not found.values.is_deep


def test_grey_and_palettes_may_be_transparent_too(tmp_path):
    pixels = transparent()
    grey = PIL.Image.fromarray(pixels[..., 2:].copy(), "LA")
    palette = PIL.Image.fromarray(pixels[..., :3].copy()).quantize(16)
    for name, image, options in (
        ("la.png", grey, {}),
        ("p.png", palette, {"transparency": 3}),
        ("p.gif", palette, {"transparency": 3}),
    ):
        image.save(tmp_path / name, **options)
        shown = np.asarray(PIL.Image.open(tmp_path / name).convert("RGBA"))
        read = read_image(tmp_path / name, levels=Levels(background="white"))
        assert np.abs(read - over(shown, "white")).max() <= 1, name


def test_transparency_of_16_bits(tmp_path):
    values = RNG.integers(0, 65536, (20, 15, 4), dtype=np.uint16)
    levels = Levels((0, 65535), background="black")
    stored = values[..., [2, 1, 0, 3]]
    cv2.imwrite(str(tmp_path / "a.png"), stored)
    wanted = values[..., :3] / 65535 * values[..., 3:] / 65535 * 255
    assert np.abs(read_image(tmp_path / "a.png", levels=levels) - wanted).max() <= 1
    # A fourth channel without a tag that says what it is, as cv2 writes it, is not transparency.
    cv2.imwrite(str(tmp_path / "a.tif"), stored)
    plain = read_image(tmp_path / "a.tif", levels=levels)
    assert np.abs(plain - values[..., :3] / 65535 * 255).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_transparent_images_are_turned_by_their_orientation(tmp_path, turn, suffix):
    pixels = transparent()
    exif = PIL.Image.Exif()
    exif[0x0112] = turn
    file = tmp_path / f"a.{suffix}"
    PIL.Image.fromarray(pixels).save(file, exif=exif, **SAVED[suffix])
    upright = np.asarray(PIL.ImageOps.exif_transpose(PIL.Image.open(file)))
    read = read_image(file, levels=Levels(background="grey"))
    assert np.abs(read - over(upright, "grey")).max() <= 1
    box = (2, 3, 12, 9)
    part = read_image(file, box, levels=Levels(background="grey"))
    assert np.array_equal(part, read[3:9, 2:12])


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_animations_give_their_first_frame(tmp_path, suffix):
    frames = [PIL.Image.fromarray(transparent(seed)) for seed in range(3)]
    if suffix == "gif":
        frames = [frame.convert("RGB").quantize(8) for frame in frames]
    file = tmp_path / f"a.{suffix}"
    frames[0].save(file, save_all=True, append_images=frames[1:], **SAVED.get(suffix, {}))
    first = np.asarray(PIL.Image.open(file).convert("RGBA"))
    read = read_image(file, levels=Levels(background="black"))
    assert np.abs(read - over(first, "black")).max() <= (2 if suffix == "tif" else 1)


@pytest.mark.parametrize("text", ["5", "a,b", "3,3", "4,1", "0,inf", "nan,1", "1,2,3", ""])
def test_a_range_is_two_numbers_in_order(text):
    with pytest.raises(UserError, match=re.escape(f"--pixel-range {text}: pass auto, off, or")):
        parse_range(text)


@pytest.mark.parametrize("text", ["5", "a,b", "40,0", "40,1", "40,-9", "whole"])
def test_a_window_is_a_centre_and_a_width(text):
    with pytest.raises(UserError, match=re.escape(f"--dicom-window {text}: pass full, file, or")):
        parse_window(text)
