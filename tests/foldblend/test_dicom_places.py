"""DICOM: values in other bits and elements in other places than most files have them."""

import numpy as np
import pytest

from foldblend.errors import BadImage
from foldblend.images import Levels, read_image

pytest.importorskip("pydicom")
from pydicom.dataset import Dataset

from tests.makers.dicom_files import write_dicom

GREY = np.random.default_rng(0).integers(0, 4096, (24, 20), dtype=np.uint16)
SIGNED = (GREY.astype(int) - 2048).astype(np.int16)


@pytest.mark.parametrize("values", [GREY, SIGNED])
@pytest.mark.parametrize("below", [0, 5])
def test_values_in_the_upper_bits_are_moved_down(tmp_path, values, below):
    file = write_dicom(tmp_path / "a.dcm", (values << 4) | below, BitsStored=12, HighBit=15)
    assert np.abs(read_image(file)[..., 0] - 255 * (GREY / 4095)).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("values", [GREY, SIGNED])
def test_values_that_are_in_the_lower_bits_stay_there_whatever_the_header_says(tmp_path, values):
    file = write_dicom(tmp_path / "a.dcm", values, BitsStored=12, HighBit=15)
    assert np.abs(read_image(file)[..., 0] - 255 * (GREY / 4095)).max() <= 0.5 + 1e-9


def groups_of_frames():
    """Return the elements of an enhanced file: Hounsfield units 2 * value - 1024, and a window."""
    values = Dataset()
    values.RescaleSlope = 2
    values.RescaleIntercept = -1024
    window = Dataset()
    window.WindowCenter = 40
    window.WindowWidth = 400
    group = Dataset()
    group.PixelValueTransformationSequence = [values]
    group.FrameVOILUTSequence = [window]
    return group


@pytest.mark.parametrize(
    "name", ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"]
)
def test_enhanced_files_have_slope_and_window_in_groups_of_frames(tmp_path, name):
    elements = {"SharedFunctionalGroupsSequence": [Dataset()]} | {name: [groups_of_frames()]}
    file = write_dicom(tmp_path / "a.dcm", GREY, BitsStored=12, HighBit=11, **elements)
    units = 2.0 * GREY - 1024
    for levels, (low, high) in (
        (Levels((-1000.0, 400.0)), (-1000, 400)),
        (Levels(dicom_window="file"), (-160, 239)),
        (Levels(), (-1024, 7166)),
    ):
        wanted = ((units - low) / (high - low)).clip(0, 1) * 255
        assert np.abs(read_image(file, levels=levels)[..., 0] - wanted).max() <= 0.5 + 1e-9


def test_a_volume_of_ultrasound_is_no_film(tmp_path):
    file = write_dicom(
        tmp_path / "a.dcm", GREY, NumberOfFrames=2, PixelData=2 * GREY.tobytes(), Modality="US",
        SOPClassUID="1.2.840.10008.5.1.4.1.1.6.2",
    )  # fmt: skip
    with pytest.raises(BadImage, match=r"has 2 frames, a volume; save each slice"):
        read_image(file)


def test_floats_with_a_slope_of_0_are_refused(tmp_path):
    values = np.ones((5, 6), np.float32)
    elements = dict.fromkeys(("PixelData", "BitsStored", "HighBit", "PixelRepresentation"))
    file = write_dicom(
        tmp_path / "a.dcm", values, FloatPixelData=values.tobytes(), RescaleSlope="0", **elements
    )
    with pytest.raises(BadImage, match="damaged DICOM"):
        read_image(file, levels=Levels((0.0, 1.0)))
