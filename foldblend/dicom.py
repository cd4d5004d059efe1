"""DICOM files, read by pydicom: their size, and the pixels of their first frame.

Values are those after the modality transformation (rescale slope and intercept), such as Hounsfield
units; `foldblend.levels` says which of them become black and white.
"""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from foldblend.dicom_frames import DEFLATED, bits_of, plugin_for, pydicom_for
from foldblend.errors import BadImage
from foldblend.image_faults import DECIMAL, Fault, bad_image
from foldblend.levels import Levels, Range, parse_window, scaled, window_of

__all__ = ["DicomImage", "dicom_levels", "dicom_size", "read_dicom"]

EMPTY = Fault("is DICOM without an image", "leave it out")
DAMAGED = Fault("damaged DICOM", "fetch it again")
UNTOLD = Fault(
    "is DICOM that does not tell its colours (PhotometricInterpretation)", "add this element"
)
NO_WINDOW = Fault("has no linear window", "pass --dicom-window full, or CENTER,WIDTH")

GREY = ("MONOCHROME1", "MONOCHROME2")
PALETTE = "PALETTE COLOR"
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")
FLOATS = ("FloatPixelData", "DoubleFloatPixelData")
# Elements of a film: grey frames without them are the slices of a volume.
FILM = ("FrameTime", "FrameTimeVector", "CineRate", "RecommendedDisplayFrameRate")
FILMED = ("US", "IVUS", "XA", "RF", "ES", "XC", "GM", "OP", "DG")  # modalities
VOLUMES = (  # of ultrasound and of X-rays from many sides
    "1.2.840.10008.5.1.4.1.1.6.2",
    "1.2.840.10008.5.1.4.1.1.13.1.1",
    "1.2.840.10008.5.1.4.1.1.13.1.2",
)
SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"  # whole slides, whose frames are tiles
STORED = ("", "pydicom")  # plugins that give the bits as they are in the file
FRAME_GROUPS = ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence")
FRAME_PARTS = ("PixelValueTransformationSequence", "FrameVOILUTSequence")
NARROWEST = 1.000001
"""Least width of a linear window: 1 is a threshold, whose ends would be equal (a division by 0)."""
META_START = 132
MOST_META = 2**16
# Of a pixel and of all else in a deflated file.
PIXEL_BYTES = 8
BESIDE_BYTES = 2**26
CHUNK = 2**20


@dataclass(frozen=True, slots=True)
class DicomImage:
    """First frame of a DICOM file."""

    values: np.ndarray
    """H x W as stored, or H x W x 3 (RGB)."""
    span: Range | None
    """All values that the header allows, after rescaling; None for floats."""
    is_deep: bool
    """Whether values are others than 0 to 255 as they are, and need a range or window."""
    slope: float = 1.0
    intercept: float = 0.0
    window: Range | None = None
    """Values that are black and white in the window of the file."""
    is_inverted: bool = False
    """Whether the lowest value is white (MONOCHROME1)."""

    @property
    def extremes(self) -> Range:
        """Return the smallest and the largest value in the image, after rescaling."""
        ends = sorted(
            self.slope * float(one) + self.intercept
            for one in (self.values.min(), self.values.max())
        )
        return ends[0], ends[1]


def dicom_size(path: str | Path, file: IO[bytes], max_pixels: int) -> tuple[int, int]:
    """Return the width and height of a DICOM image, from the header of its open file.

    A deflated file is inflated for that, unless it is too large for `max_pixels`. Raises BadImage
    for such a file, for one without an image, and where pydicom is not installed.
    """
    library = pydicom_for(path)
    try:
        start = file.read(META_START + MOST_META)
        file.seek(0)
        if DEFLATED.encode() in start:
            _check_deflated(path, file.read(), PIXEL_BYTES * max_pixels + BESIDE_BYTES)
            file.seek(0)
        header = library.dcmread(file, stop_before_pixels=True, specific_tags=["Rows", "Columns"])
        size = int(header.get("Columns") or 0), int(header.get("Rows") or 0)
    except (BadImage, MemoryError):
        raise
    except Exception:  # a damaged file raises anything
        raise bad_image(path, DAMAGED) from None
    if min(size) <= 0:
        raise bad_image(path, EMPTY)
    return size


def _check_deflated(path: str | Path, data: bytes, most: int) -> None:
    """Raise BadImage for a file with over `most` bytes, before pydicom inflates it."""
    length = int.from_bytes(data[META_START + 8 : META_START + 12], "little")
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    left = data[META_START + 12 + length :]
    size = 0
    while left and not inflate.eof:
        size += len(inflate.decompress(left, CHUNK))
        left = inflate.unconsumed_tail
        if size > most:
            raise bad_image(path, DAMAGED)


def read_dicom(path: str | Path, data: bytes) -> DicomImage:
    """Return the first frame of a DICOM file.

    Raises
    ------
    BadImage
        For a file that is damaged, has no image, is a volume or has a transfer syntax or colours
        that cannot be read, and where pydicom or a decoder is not installed.
    """
    library = pydicom_for(path)
    try:
        header = library.dcmread(io.BytesIO(data))
        _check_kind(path, header)
        return _first_frame(path, library, header)
    except (BadImage, MemoryError):
        raise
    except Exception:  # a damaged file raises anything
        raise bad_image(path, DAMAGED) from None


def _check_kind(path: str | Path, header: Any) -> None:
    """Raise BadImage for a file whose image is of a kind that is not read."""
    if not any(name in header for name in ("PixelData", *FLOATS)):
        raise bad_image(path, EMPTY)
    frames = int(header.get("NumberOfFrames") or 1)
    kind = str(header.get("PhotometricInterpretation") or "")
    if not kind:
        raise bad_image(path, UNTOLD)
    if kind not in (*GREY, *COLOURS, PALETTE):
        raise bad_image(path, Fault(f"has the colours {kind[:40]}", "save it as RGB"))
    if frames > 1 and header.get("SOPClassUID") == SLIDE:
        what = f"has {frames:,} frames, the tiles of a slide"
        raise bad_image(path, Fault(what, "save the slide, or each tile, as an image"))
    is_film = header.get("Modality") in FILMED or any(name in header for name in FILM)
    is_volume = header.get("SOPClassUID") in VOLUMES or (kind in GREY and not is_film)
    if frames > 1 and is_volume:
        what = f"has {frames:,} frames, a volume"
        raise bad_image(path, Fault(what, "save each slice that is to be used as an image"))


def _first_frame(path: str | Path, library: Any, header: Any) -> DicomImage:
    plugin = plugin_for(path, header)
    options: dict[str, Any] = {"decoding_plugin": plugin} if plugin else {}
    bits = bits_of(header)
    # Decoders of compressed images return the values, whatever the header says of their place.
    high_bit = int(header.get("HighBit") or bits - 1) if plugin in STORED else bits - 1
    if high_bit != bits - 1:
        options["correct_unused_bits"] = False  # pydicom would drop the upper ones
    values = library.pixels.pixel_array(header, index=0, **options)
    kind = header.PhotometricInterpretation
    if kind == PALETTE:
        colours = library.pixels.apply_color_lut(values, header)[..., :3]
        bits = int(header.RedPaletteColorLookupTableDescriptor[2])
        whole = (0.0, 2.0**bits - 1)
        return DicomImage(scaled(colours, whole), (0.0, 255.0), is_deep=False)
    if values.dtype.kind == "f":
        slope, intercept, _ = _rescale(path, header)
        return DicomImage(
            _finite(path, values), None, True, slope, intercept, None, kind == GREY[0]
        )
    is_signed = bool(header.PixelRepresentation)
    values = _without_overlays(values, bits, high_bit, is_signed=is_signed)
    if kind in COLOURS:
        return DicomImage(values, (0.0, 2.0**bits - 1), is_deep=bits > 8)
    lowest = -(2.0 ** (bits - 1)) if is_signed else 0.0
    stored = (lowest, lowest + 2.0**bits - 1)
    slope, intercept, table = _rescale(path, header)
    if table is not None:
        values = library.pixels.apply_modality_lut(values, header)
        stored = (0.0, 2.0 ** int(table.LUTDescriptor[2]) - 1)
    ends = sorted(slope * one + intercept for one in stored)
    is_plain = bits <= 8 and not is_signed and table is None and (slope, intercept) == (1, 0)
    return DicomImage(
        values,
        (ends[0], ends[1]),
        not is_plain,
        slope,
        intercept,
        _window(header),
        kind == GREY[0],
    )


def _finite(path: str | Path, values: np.ndarray) -> np.ndarray:
    if np.isnan(values).any():
        raise bad_image(path, Fault("has NaN among its pixel values", "replace them"))
    return values


def _without_overlays(
    values: np.ndarray, bits: int, high_bit: int, *, is_signed: bool
) -> np.ndarray:
    """Return stored values without the bits above and below, in which old files have overlays."""
    whole_bits = 8 * values.dtype.itemsize
    if whole_bits <= bits or values.dtype.kind not in "iu":
        return values
    lowest = -(2 ** (bits - 1)) if is_signed else 0
    fits = lowest <= values.min() and values.max() < lowest + 2**bits
    # Some writers leave 15 there, whatever the bits; values that fit were not shifted.
    if fits or not bits <= high_bit < whole_bits:
        high_bit = bits - 1
    whole = values.astype(f"{'i' if is_signed else 'u'}{values.dtype.itemsize}", copy=False)
    # Shifted up and down, as the lower bits alone decide; of signed values the sign comes back.
    return np.asarray((whole << (whole_bits - 1 - high_bit)) >> (whole_bits - bits))


def _of_frame(header: Any, name: str) -> Any:
    """Return an element of the first frame, or None.

    Enhanced files have it in a sequence of a sequence, for each frame or for all.
    """
    for groups in FRAME_GROUPS:
        group = header.get(groups)
        for part in FRAME_PARTS if group else ():
            found = group[0].get(part)
            if found and name in found[0]:
                return found[0].get(name)
    return header.get(name)


def _rescale(path: str | Path, header: Any) -> tuple[float, float, Any]:
    """Return slope, intercept and the table of the modality transformation, None without one."""
    tables = header.get("ModalityLUTSequence")
    if tables:
        return 1.0, 0.0, tables[0]
    slope = _of_frame(header, "RescaleSlope")
    intercept = _of_frame(header, "RescaleIntercept")
    pair = 1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept)
    if not pair[0] or not np.isfinite(pair).all():
        raise bad_image(path, DAMAGED)
    return *pair, None


def _window(header: Any) -> Range | None:
    """Return the values that the first window of a file makes black and white, or None.

    Curved windows, which have no such values, are none.
    """
    function = _of_frame(header, "VOILUTFunction")
    if function == "SIGMOID":
        return None
    pair = []
    for name in ("WindowCenter", "WindowWidth"):
        value = _of_frame(header, name)
        if value is None or value == "":
            return None
        pair.append(float(value if isinstance(value, (int, float, str)) else value[0]))
    center, width = pair
    if not np.isfinite(pair).all() or width < 1:
        return None
    if function == "LINEAR_EXACT":
        return center - width / 2, center + width / 2
    return window_of(center, max(width, NARROWEST))


def dicom_levels(path: str | Path, image: DicomImage, levels: Levels) -> np.ndarray:
    """Return a DICOM image as H x W x 3 uint8 (RGB).

    Raises BadImage for a float image without a range that was typed, and for one without the window
    in the file that is asked for.
    """
    span = image.span
    if image.values.ndim == 3:
        if not image.is_deep:
            return image.values
        whole = levels.pixel_range or span
        assert whole is not None
        return scaled(image.values, whole)
    if image.is_deep:
        # Floats have no range of the header.
        asked = levels.pixel_range if span is not None or levels.takes_decimals else None
        span = parse_window(levels.dicom_window) or asked or span
    if levels.dicom_window == "file":
        span = image.window or (None if image.is_deep else span)
        if span is None:
            raise bad_image(path, NO_WINDOW)
    if span is None:
        raise bad_image(path, DECIMAL)
    ends = [(one - image.intercept) / image.slope for one in span]
    grey = scaled(image.values, (min(ends), max(ends)))
    if (image.slope < 0) != image.is_inverted:
        grey = 255 - grey
    return np.repeat(grey[..., None], 3, axis=2)
