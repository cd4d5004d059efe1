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
NO_WINDOW = Fault("has no linear window", "pass --dicom-window full, or CENTER,WIDTH")

GREY = ("MONOCHROME1", "MONOCHROME2")
PALETTE = "PALETTE COLOR"
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")
FLOATS = ("FloatPixelData", "DoubleFloatPixelData")
# Elements of a film: grey frames without them are the slices of a volume.
FILM = ("FrameTime", "FrameTimeVector", "CineRate", "RecommendedDisplayFrameRate")
FILMED = ("US", "IVUS", "XA", "RF", "ES", "XC", "GM", "OP", "DG")  # modalities
SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"  # whole slides, whose frames are tiles
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
    kind = str(header.get("PhotometricInterpretation"))
    if kind not in (*GREY, *COLOURS, PALETTE):
        raise bad_image(path, Fault(f"has the colours {kind[:40]}", "save it as RGB"))
    if frames > 1 and header.get("SOPClassUID") == SLIDE:
        what = f"has {frames:,} frames, the tiles of a slide"
        raise bad_image(path, Fault(what, "save the slide, or each tile, as an image"))
    is_film = header.get("Modality") in FILMED or any(name in header for name in FILM)
    if frames > 1 and kind in GREY and not is_film:
        what = f"has {frames:,} frames, a volume"
        raise bad_image(path, Fault(what, "save each slice that is to be used as an image"))


def _first_frame(path: str | Path, library: Any, header: Any) -> DicomImage:
    plugin = plugin_for(path, header)
    options = {"decoding_plugin": plugin} if plugin else {}
    values = library.pixels.pixel_array(header, index=0, **options)
    kind = header.PhotometricInterpretation
    if kind == PALETTE:
        colours = library.pixels.apply_color_lut(values, header)[..., :3]
        bits = int(header.RedPaletteColorLookupTableDescriptor[2])
        whole = (0.0, 2.0**bits - 1)
        return DicomImage(scaled(colours, whole), (0.0, 255.0), is_deep=False)
    if values.dtype.kind == "f":
        slope, intercept, _ = _rescale(header)
        return DicomImage(
            _finite(path, values), None, True, slope, intercept, None, kind == GREY[0]
        )
    bits = bits_of(header)
    is_signed = bool(header.PixelRepresentation)
    values = _without_overlays(values, bits, is_signed=is_signed)
    if kind in COLOURS:
        return DicomImage(values, (0.0, 2.0**bits - 1), is_deep=bits > 8)
    lowest = -(2.0 ** (bits - 1)) if is_signed else 0.0
    stored = (lowest, lowest + 2.0**bits - 1)
    slope, intercept, table = _rescale(header)
    if table is not None:
        values = library.pixels.apply_modality_lut(values, header)
        stored = (0.0, 2.0 ** int(table.LUTDescriptor[2]) - 1)
    if not slope or not np.isfinite([slope, intercept]).all():
        raise bad_image(path, DAMAGED)
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


def _without_overlays(values: np.ndarray, bits: int, *, is_signed: bool) -> np.ndarray:
    """Return stored values without the bits above them, in which old files have overlays."""
    free = 8 * values.dtype.itemsize - bits
    if free <= 0 or values.dtype.kind not in "iu":
        return values
    whole = values.astype(f"{'i' if is_signed else 'u'}{values.dtype.itemsize}", copy=False)
    # Shifted up and down, as the lower bits alone decide; of signed values the sign comes back.
    return np.asarray((whole << free) >> free)


def _rescale(header: Any) -> tuple[float, float, Any]:
    """Return slope, intercept and the table of the modality transformation, None without one."""
    tables = header.get("ModalityLUTSequence")
    if tables:
        return 1.0, 0.0, tables[0]
    slope = header.get("RescaleSlope")
    intercept = header.get("RescaleIntercept")
    return (
        1.0 if slope is None else float(slope),
        0.0 if intercept is None else float(intercept),
        None,
    )


def _window(header: Any) -> Range | None:
    """Return the values that the first window of a file makes black and white, or None.

    Curved windows, which have no such values, are none.
    """
    if header.get("VOILUTFunction") == "SIGMOID":
        return None
    pair = []
    for name in ("WindowCenter", "WindowWidth"):
        value = header.get(name)
        if value is None or value == "":
            return None
        pair.append(float(value if isinstance(value, (int, float, str)) else value[0]))
    center, width = pair
    if not np.isfinite(pair).all() or width < 1:
        return None
    if header.get("VOILUTFunction") == "LINEAR_EXACT":
        return center - width / 2, center + width / 2
    return window_of(center, max(width, 1.000001))


def dicom_levels(path: str | Path, image: DicomImage, levels: Levels) -> np.ndarray:
    """Return a DICOM image as H x W x 3 uint8 (RGB).

    Raises BadImage for a float image without a range, and for one without the window in the file
    that is asked for.
    """
    span = image.span
    if image.values.ndim == 3:
        if not image.is_deep:
            return image.values
        whole = levels.pixel_range or span
        assert whole is not None
        return scaled(image.values, whole)
    if image.is_deep:
        span = parse_window(levels.dicom_window) or levels.pixel_range or span
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
