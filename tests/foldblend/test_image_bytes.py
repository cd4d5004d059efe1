"""Bytes of PNG and TIFF files that libraries read without an error, or warn of without a name."""

import re
import struct
import zlib

import numpy as np
import pandas as pd
import pytest

from foldblend.errors import BadImage
from foldblend.image_bytes import PNG, png_damage
from foldblend.image_faults import fault_of
from foldblend.images import check_images, read_image

PASSES = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
    (0, 1, 1, 2),
)  # fmt: skip
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
DAMAGED = "its compressed pixels are damaged"
KINDS = [(0, 1), (0, 8), (2, 8), (3, 1), (3, 8), (4, 8), (6, 16)]  # colour type, bits


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_pixels(colours, depth, is_interlaced, width=9, height=11):
    """Return the bytes before compression of a PNG whose values are all 0."""
    rows = []
    for left, top, right, down in PASSES if is_interlaced else ((0, 0, 1, 1),):
        columns = len(range(left, width, right))
        row = bytes(1 + (columns * CHANNELS[colours] * depth + 7) // 8)
        rows += [row] * (len(range(top, height, down)) if columns else 0)
    return b"".join(rows)


def png_file(colours, depth, is_interlaced, parts, palettes=(bytes(6),), size=(9, 11)):
    header = struct.pack(">IIBBBBB", *size, depth, colours, 0, 0, is_interlaced)
    chunks = [(b"IHDR", header)]
    chunks += [(b"PLTE", palette) for palette in palettes if colours == 3]
    chunks += [(b"IDAT", part) for part in parts]
    return PNG + b"".join(chunk(*one) for one in [*chunks, (b"IEND", b"")])


def faults_in(tmp_path, contents):
    """Return what is wrong with each file by a check, and None for those without a fault."""
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    found = check_images(pd.DataFrame({"path": [str(tmp_path / name) for name in contents]}))
    return {
        name: str(one).split(": ", 1)[1] if isinstance(one, BadImage) else None
        for name, one in zip(contents, found, strict=True)
    }


@pytest.mark.parametrize("is_interlaced", [False, True])
@pytest.mark.parametrize(("colours", "depth"), KINDS)
def test_damaged_pixels_of_every_kind_of_png_are_reported(
    tmp_path, capfd, colours, depth, is_interlaced
):
    pixels = png_pixels(colours, depth, is_interlaced)
    packed = zlib.compress(pixels)
    cases = {
        "few": ([zlib.compress(pixels[:-1])], "it has too few pixels"),
        "none": ([b""], "it has too few pixels"),
        "many": ([zlib.compress(pixels + b"\0")], "it has too many pixels"),
        "more": ([zlib.compress(pixels + bytes(9999))], "it has too many pixels"),
        "filter": ([zlib.compress(b"\5" + pixels[1:])], DAMAGED),
        "sum": ([packed[:-4] + b"abcd"], DAMAGED),
        "end": ([packed[:-4]], DAMAGED),
        "behind": ([packed + b"ab"], DAMAGED),
        "right": ([packed], None),
        "parts": ([packed[:5], packed[5:7], b"", packed[7:], b"ab"], None),
    }
    found = faults_in(
        tmp_path,
        {n: png_file(colours, depth, is_interlaced, parts) for n, (parts, _) in cases.items()},
    )
    for name, (_, text) in cases.items():
        if text is None:
            assert found[name] is None, name
            assert read_image(tmp_path / name).shape == (11, 9, 3)
        else:
            assert found[name].startswith(f"damaged PNG ({text}); fetch it again"), name
            with pytest.raises(BadImage, match=re.escape(text)):
                read_image(tmp_path / name)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (3, 2), (5, 5), (8, 8), (17, 16)])
def test_interlaced_pngs_of_any_size_are_read(tmp_path, size):
    parts = [zlib.compress(png_pixels(2, 8, True, *size))]
    assert faults_in(tmp_path, {"a.png": png_file(2, 8, True, parts, size=size)}) == {"a.png": None}


def test_a_wrong_filter_in_a_later_pass_is_found():
    pixels = bytearray(png_pixels(0, 8, True))
    pixels[-10] = 9  # the filter of the last row, of 9 pixels
    assert png_damage(png_file(0, 8, True, [zlib.compress(pixels)])) == DAMAGED


def test_palettes_that_libpng_refuses_are_reported(tmp_path, capfd):
    parts = [zlib.compress(png_pixels(3, 8, False))]
    wrong = {
        "absent": (), "twice": (bytes(6), bytes(6)), "odd": (bytes(4),), "empty": (b"",),
        "large": (bytes(3 * 257),),
    }  # fmt: skip
    right = {"one": (bytes(3),), "largest": (bytes(3 * 256),)}
    found = faults_in(
        tmp_path, {n: png_file(3, 8, False, parts, p) for n, p in (wrong | right).items()}
    )
    assert all("damaged PNG (it has no valid palette)" in found[name] for name in wrong)
    assert [found[name] for name in right] == [None, None]
    assert capfd.readouterr() == ("", "")


def test_a_png_without_a_header_is_damaged():
    assert fault_of(PNG + chunk(b"IEND", b"")).problem == "damaged PNG (it ends too early)"


def tiff_file(pixels, tags=None, *, is_big=False, order="<"):
    """Return a TIFF or BigTIFF of one strip without compression."""
    height, width, channels = pixels.shape
    body = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    body += bytes(len(body) % 2)
    width_of = {"H": 2, "I": 4}
    offset = "Q" if is_big else "I"
    start = 16 if is_big else 8
    room = 8 if is_big else 4
    values = {
        256: (width,), 257: (height,), 258: (pixels.dtype.itemsize * 8,) * channels, 259: (1,),
        262: (2 if channels > 2 else 1,), 273: (start,), 277: (channels,), 278: (height,),
        279: (pixels.nbytes,),
    } | (tags or {})  # fmt: skip
    directory = start + len(body)
    mark = {"<": b"II", ">": b"MM"}[order]
    numbers = ("HHHQ", 43, 8, 0) if is_big else ("HI", 42)
    head = mark + struct.pack(order + numbers[0], *numbers[1:], directory)
    after = directory + (8 + 20 * len(values) + 8 if is_big else 2 + 12 * len(values) + 4)
    entries = b""
    behind = b""
    for tag, numbers in sorted(values.items()):
        letter = "I" if tag in (273, 279) else "H"
        packed = struct.pack(f"{order}{len(numbers)}{letter}", *numbers)
        if len(numbers) * width_of[letter] > room:
            where = struct.pack(order + offset, after + len(behind))
            behind += packed
            packed = where
        kind = 4 if letter == "I" else 3
        entries += struct.pack(f"{order}HH{offset}", tag, kind, len(numbers))
        entries += packed.ljust(room, b"\0")
    count = struct.pack(order + ("Q" if is_big else "H"), len(values))
    return head + body + count + entries + bytes(room) + behind


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("is_big", [False, True])
def test_pixel_values_of_tiffs_that_opencv_would_misread_are_reported(
    tmp_path, capfd, is_big, order
):
    signed = "has signed pixel values; save it with unsigned 8 or 16 bits"
    decimal = "has decimal pixel values; train with --pixel-range LOW,HIGH"
    cases = {
        "ct": (np.full((9, 8, 1), -952, np.int16), 2, signed),
        "rgb16": (np.full((9, 8, 3), -952, np.int16), 2, signed),
        "int8": (np.full((9, 8, 1), -9, np.int8), 2, signed),
        "rgb8": (np.full((9, 8, 3), -9, np.int8), 2, signed),
        "float": (np.ones((9, 8, 1), np.float32), 3, decimal),
        "int32": (np.ones((9, 8, 1), np.int32), 2, "has 32-bit pixel values; save it with 8"),
        "five": (np.ones((9, 8, 5), np.uint8), 1, "has 5 channels; save it with 1, 3 or 4"),
        "twelve": (np.ones((9, 8, 12), np.uint16), 1, "has 12 channels; save it with 1, 3 or 4"),
    }
    found = faults_in(
        tmp_path,
        {
            name: tiff_file(pixels, {339: (form,) * pixels.shape[2]}, is_big=is_big, order=order)
            for name, (pixels, form, _) in cases.items()
        },
    )
    for name, (_, _, text) in cases.items():
        assert found[name].startswith(text), found
        with pytest.raises(BadImage, match=text):
            read_image(tmp_path / name)
    assert capfd.readouterr() == ("", "")


# Pillow, which reads the size, does not know BigTIFF with the first byte of a number in front.
@pytest.mark.parametrize(("is_big", "order"), [(False, "<"), (False, ">"), (True, "<")])
def test_dark_tiffs_of_either_kind_have_a_peak(tmp_path, is_big, order):
    pixels = np.random.default_rng(0).integers(0, 4096, (9, 8, 1)).astype(np.uint16)
    (tmp_path / "a.tif").write_bytes(tiff_file(pixels, is_big=is_big, order=order))
    (tmp_path / "b.tif").write_bytes(tiff_file(pixels.astype(np.uint8), is_big=is_big, order=order))
    table = pd.DataFrame({"path": [str(tmp_path / name) for name in ("a.tif", "b.tif")]})
    assert [one.values and one.values.high for one in check_images(table)] == [pixels.max(), None]


def test_a_truncated_big_tiff_is_a_damaged_tiff():
    data = tiff_file(np.ones((9, 8, 1), np.uint8), is_big=True)
    assert fault_of(data[:40]).problem == "truncated or damaged TIFF"


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\xff" * 5000, "truncated or not an image"),
        (b"a" + b"\xff" * 5000, "truncated or not an image"),
        (b"\xff" * 50, "truncated or not an image"),
        ("\N{EURO SIGN}".encode() * 5000, "is text, not an image"),
        (b"a" + "\N{EURO SIGN}".encode() * 5000, "is text, not an image"),
        ("\N{EURO SIGN}".encode()[:2], "truncated or not an image"),
    ],
)
def test_only_what_can_be_decoded_is_text(data, problem):
    assert fault_of(data).problem == problem
