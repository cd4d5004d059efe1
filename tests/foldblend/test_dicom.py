"""DICOM: pydicom's own files against values computed here, and files that are refused."""

import builtins
import dataclasses
import io
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest

from foldblend.errors import BadImage, UserError
from foldblend.images import Levels, check_images, read_image, upright_size
from foldblend.levels import parse_window

pydicom = pytest.importorskip("pydicom")
for decoder in ("gdcm", "jpeg_ls", "openjpeg"):
    pytest.importorskip(decoder)
from pydicom.encaps import encapsulate, get_frame  # noqa: E402

from tests.makers.dicom_files import write_dicom  # noqa: E402

DATA = Path(pydicom.__file__).with_name("data")
FILES = DATA / "test_files"


def samples():
    """Return pydicom's files that have the mark of DICOM, by their path in its folder of data."""
    files = (one for one in DATA.rglob("*") if one.is_file())
    return {
        one.relative_to(DATA).as_posix(): one
        for one in sorted(files)
        if one.read_bytes()[128:132] == b"DICM"
    }


# Of pydicom's files, these have an image that is not read. All others with an image are.
REFUSED = {
    "test_files/JPEG-lossy.dcm": "is DICOM in the transfer syntax JPEG Extended",
    "test_files/JPGExtended.dcm": "is DICOM in the transfer syntax JPEG Extended",
    "test_files/JPEG2000-embedded-sequence-delimiter.dcm": "damaged DICOM",
    "test_files/MR_truncated.dcm": "damaged DICOM",
    "test_files/badVR.dcm": "damaged DICOM",
    "test_files/rtdose.dcm": "has 15 frames, a volume",
    "test_files/rtdose_expb.dcm": "has 15 frames, a volume",
    "test_files/rtdose_rle.dcm": "has 15 frames, a volume",
}
EMPTY = "is DICOM without an image; leave it out"


def has_image(header):
    return "PixelData" in header and header.get("Rows")


def expected_grey(header, span=None):
    """Return levels of a grey image as float, by the formulas of the DICOM standard."""
    stored = header.pixel_array.astype(float)
    slope = float(header.get("RescaleSlope", 1))
    intercept = float(header.get("RescaleIntercept", 0))
    bits = header.BitsStored
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if header.PixelRepresentation else (
        0, 2**bits - 1
    )  # fmt: skip
    low, high = span or (slope * low + intercept, slope * high + intercept)
    grey = ((slope * stored + intercept - low) / (high - low)).clip(0, 1) * 255
    return 255 - grey if header.PhotometricInterpretation == "MONOCHROME1" else grey


def expected_colour(name, header):
    """Return the colours of a first frame; where Pillow knows the compression, Pillow's."""
    if header.PhotometricInterpretation == "PALETTE COLOR":
        index = np.frombuffer(header.PixelData, np.uint8).reshape(header.Rows, header.Columns)
        tables = [header[f"{one}PaletteColorLookupTableData"].value for one in COLOURS]
        return np.dstack([(np.frombuffer(one, "<u2") / 257)[index] for one in tables])
    if name in PLAIN_RGB:
        # The header says that these frames are not YCbCr, which Pillow takes JPEGs for.
        header = pydicom.dcmread(FILES / "SC_rgb_jpeg_dcmd.dcm")
    if header.file_meta.TransferSyntaxUID.is_compressed:
        frames = int(header.get("NumberOfFrames") or 1)
        frame = get_frame(header.PixelData, 0, number_of_frames=frames)
        try:
            return np.asarray(PIL.Image.open(io.BytesIO(frame)).convert("RGB"), float)
        except OSError:
            pass
    pixels = header.pixel_array.astype(float)
    return (pixels[0] if pixels.ndim == 4 else pixels) * 255 / (2.0**header.BitsStored - 1)


COLOURS = ("Red", "Green", "Blue")
PLAIN_RGB = ("test_files/SC_rgb_jpeg.dcm", "test_files/SC_jpeg_no_color_transform.dcm")


def headers():
    return {name: (file, pydicom.dcmread(file)) for name, file in samples().items()}


def test_of_pydicoms_files_those_with_an_image_are_read_or_named_with_a_reason():
    found = {}
    for name, (file, header) in headers().items():
        try:
            assert read_image(file).shape[1::-1] == upright_size(file)
        except BadImage as error:
            message = str(error).removeprefix(f"{file}: ")
            assert message.endswith("or pass --on-bad-image skip")
            assert "\n" not in message
            found[name] = message
            assert message.startswith(REFUSED[name] if has_image(header) else EMPTY), name
    refused = {name for name in found if not found[name].startswith(EMPTY)}
    assert refused == {*REFUSED}
    # 97 images were read with pydicom 3.0.2.
    assert len(samples()) - len(found) >= 90


def test_pixels_of_pydicoms_files_are_those_of_the_standards_formulas():
    num_grey = 0
    num_colours = 0
    for name, (file, header) in headers().items():
        if not has_image(header) or name in REFUSED:
            continue
        image = read_image(file).astype(float)
        if header.PhotometricInterpretation.startswith("MONOCHROME"):
            expected = expected_grey(header)[..., None]
            num_grey += 1
        else:
            expected = expected_colour(name, header)
            num_colours += 1
        assert np.abs(image - expected).max() <= 1, name
    assert num_grey > 50
    assert num_colours > 25


def test_windows_are_those_of_the_standard():
    num = 0
    for name, (file, header) in headers().items():
        if not has_image(header) or name in REFUSED or "WindowCenter" not in header:
            continue
        first = [
            float(np.atleast_1d(header[one].value)[0]) for one in ("WindowCenter", "WindowWidth")
        ]
        center, width = first
        # PS3.3, C.11.2.1.2.1
        span = (center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2)
        expected = expected_grey(header, span)[..., None]
        for window in ("file", f"{center},{width}"):
            image = read_image(file, levels=Levels(dicom_window=window))
            assert np.abs(image - expected).max() <= 1, (name, window)
        num += 1
    assert num > 25
    lowest, highest = parse_window("40,400")
    assert (lowest, highest) == (-160, 239)


@pytest.mark.parametrize(
    ("function", "span"),
    [("LINEAR", (1500, 2499)), ("LINEAR_EXACT", (1500, 2500)), ("SIGMOID", None)],
)
def test_functions_of_windows(tmp_path, function, span):
    window = {"WindowCenter": "2000", "WindowWidth": "1000", "VOILUTFunction": function}
    file = write_dicom(tmp_path / "a.dcm", GREY, BitsStored=12, **window)
    levels = Levels(dicom_window="file")
    if span is None:
        with pytest.raises(BadImage, match="has no linear window"):
            read_image(file, levels=levels)
        return
    expected = ((GREY - float(span[0])) / (span[1] - span[0])).clip(0, 1) * 255
    assert np.abs(read_image(file, levels=levels)[..., 0] - expected).max() <= 0.5 + 1e-9


def test_a_range_of_hounsfield_units_is_the_same_for_every_file():
    file = FILES / "CT_small.dcm"
    expected = expected_grey(pydicom.dcmread(file), (-1024, 1023))[..., None]
    image = read_image(file, levels=Levels((-1024.0, 1023.0)))
    assert np.abs(image - expected).max() <= 1
    assert len(np.unique(image)) > 100
    no_window = re.escape(
        f"{file}: has no linear window; pass --dicom-window full, or CENTER,WIDTH"
    )
    with pytest.raises(BadImage, match=no_window):
        read_image(file, levels=Levels(dicom_window="file"))


def test_all_encodings_of_one_image_have_equal_pixels():
    files = sorted(FILES.glob("MR_small*.dcm"))
    assert len(files) == 8
    levels = Levels((0.0, 4095.0))
    images = [read_image(one, levels=levels) for one in files]
    assert all(np.array_equal(one, images[0]) for one in images)


GREY = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"BitsStored": 12}, GREY / 4095),
        ({"BitsStored": 16}, GREY / 65535),
        ({"BitsStored": 12, "PhotometricInterpretation": "MONOCHROME1"}, 1 - GREY / 4095),
        ({"BitsStored": 12, "RescaleSlope": "2.5", "RescaleIntercept": "-1000"}, GREY / 4095),
        ({"BitsStored": 12, "RescaleSlope": "-1", "RescaleIntercept": "0"}, 1 - GREY / 4095),
    ],
)
def test_the_full_range_is_that_of_the_bits_stored(tmp_path, elements, expected):
    file = write_dicom(tmp_path / "a.dcm", GREY, **elements)
    assert np.abs(read_image(file)[..., 0] - 255 * expected).max() <= 0.5 + 1e-9


def test_bits_above_those_stored_are_no_part_of_the_values(tmp_path):
    file = write_dicom(tmp_path / "a.dcm", GREY | 0x8000, BitsStored=12, HighBit=11)
    assert np.abs(read_image(file)[..., 0] - 255 * (GREY / 4095)).max() <= 0.5 + 1e-9


def test_float_pixels_need_a_range(tmp_path):
    values = np.linspace(-2, 3, 30, dtype=np.float32).reshape(5, 6)
    elements = {"PixelData": None, "BitsStored": None, "HighBit": None, "PixelRepresentation": None}
    file = write_dicom(tmp_path / "a.dcm", values, FloatPixelData=values.tobytes(), **elements)
    with pytest.raises(BadImage, match=r"has decimal pixel values; train with --pixel-range"):
        read_image(file)
    decided = Levels((0.0, 4095.0), range_is_decided=True)
    with pytest.raises(BadImage, match=r"has decimal pixel values; train with --pixel-range"):
        read_image(file, levels=decided)
    # A window says as much of floats as of integers.
    shown = read_image(file, levels=dataclasses.replace(decided, dicom_window="0.5,3"))
    assert (shown.min(), shown.max()) == (0, 255)
    image = read_image(file, levels=Levels((-1.0, 1.0)))
    expected = ((values.astype(float) + 1) / 2).clip(0, 1) * 255
    assert np.abs(image[..., 0] - expected).max() <= 0.5 + 1e-4


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"PixelData": None}, "is DICOM without an image; leave it out"),
        ({"Rows": 0}, "is DICOM without an image; leave it out"),
        ({"NumberOfFrames": 3}, "has 3 frames, a volume; save each slice"),
        ({"PhotometricInterpretation": "CMYK"}, "has the colours CMYK; save it as RGB"),
        (
            {"PhotometricInterpretation": None},
            "is DICOM that does not tell its colours (PhotometricInterpretation); add this element",
        ),
        ({"PixelData": GREY.tobytes()[:-2]}, "damaged DICOM; fetch it again"),
        ({"RescaleSlope": "0", "RescaleIntercept": "0"}, "damaged DICOM; fetch it again"),
    ],
)
def test_files_that_cannot_be_read_are_named_with_the_reason(tmp_path, elements, reason):
    file = write_dicom(tmp_path / "a.dcm", GREY, **elements)
    start = f"{file}: {reason}"
    [found] = check_images(pd.DataFrame({"path": [str(file)]}))
    assert str(found).startswith(start)
    with pytest.raises(BadImage, match=re.escape(start)):
        read_image(file)


@pytest.mark.parametrize("elements", [{"FrameTime": "40"}, {"Modality": "US"}])
def test_of_a_film_the_first_frame_is_read(tmp_path, elements):
    data = GREY.tobytes() + GREY[::-1].tobytes()
    file = write_dicom(
        tmp_path / "a.dcm", GREY, BitsStored=12, NumberOfFrames=2, PixelData=data, **elements
    )
    assert np.array_equal(read_image(file)[..., 0], np.rint(GREY / 4095 * 255))


def test_another_transfer_syntax_is_named(tmp_path):
    file = write_dicom(
        tmp_path / "a.dcm", GREY, syntax="1.2.840.10008.1.2.4.100", PixelData=encapsulate([b"\0\0"])
    )
    with pytest.raises(BadImage, match=r"transfer syntax MPEG2 Main Profile .*; decompress it"):
        read_image(file)


def test_a_frame_larger_than_its_header_says_is_not_decoded(tmp_path):
    """Its decoder would take the memory that the frame asks for."""
    header = pydicom.dcmread(FILES / "MR_small_jp2klossless.dcm")
    frame = bytearray(get_frame(header.PixelData, 0, number_of_frames=1))
    struct.pack_into(">II", frame, frame.index(b"\xff\x4f\xff\x51") + 8, 60000, 60000)
    header.PixelData = encapsulate([bytes(frame)])
    header.save_as(tmp_path / "a.dcm")
    with pytest.raises(BadImage, match=r"its frame has another size than its header"):
        read_image(tmp_path / "a.dcm")


def test_a_deflated_file_that_would_fill_the_memory_is_not_inflated(tmp_path):
    data = (FILES / "image_dfl.dcm").read_bytes()
    start = 132 + 12 + int.from_bytes(data[140:144], "little")
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"".join(squeeze.compress(bytes(2**20)) for _ in range(70)) + squeeze.flush()
    (tmp_path / "a.dcm").write_bytes(data[:start] + bomb)
    with pytest.raises(BadImage, match="damaged DICOM"):
        read_image(tmp_path / "a.dcm", max_pixels=2**19)


def test_the_size_is_checked_before_pixels_are_read(tmp_path):
    file = write_dicom(tmp_path / "a.dcm", GREY)
    with pytest.raises(BadImage, match="over 4095 pixels"):
        read_image(file, max_pixels=4095)


def test_a_file_may_be_a_tiff_as_well(tmp_path):
    file = write_dicom(tmp_path / "a.dcm", GREY, BitsStored=12)
    file.write_bytes(b"II*\0" + file.read_bytes()[4:])
    assert np.array_equal(read_image(file)[..., 0], np.rint(GREY / 4095 * 255))


def test_truncated_files_give_one_line_each_and_print_nothing(tmp_path, capfd):
    for name in ("MR_small.dcm", "SC_rgb_jpeg_dcmtk.dcm", "MR_small_RLE.dcm", "CT_small.dcm"):
        data = (FILES / name).read_bytes()
        for share in (0.02, 0.1, 0.3, 0.6, 0.95):
            (tmp_path / name).write_bytes(data[: int(share * len(data))])
            with pytest.raises(BadImage) as caught:
                read_image(tmp_path / name)
            assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_without_pydicom_the_message_names_the_extra(tmp_path, monkeypatch):
    file = write_dicom(tmp_path / "a.dcm", GREY)
    real = builtins.__import__

    def absent(name, *rest):
        if name.startswith("pydicom"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    text = re.escape(f"{file}: is DICOM; pip install 'foldblend[dicom]'")
    with pytest.raises(UserError, match=text):
        read_image(file)
