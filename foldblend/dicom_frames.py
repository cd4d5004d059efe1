"""Decoders of DICOM files, and checks of compressed frames before a decoder sees them."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import struct
import warnings
from pathlib import Path
from typing import Any

from foldblend.image_bytes import JPEG
from foldblend.image_faults import Fault, bad_image, damage_of
from foldblend.image_natures import J2K_SIZE

__all__ = ["DEFLATED", "bits_of", "plugin_for", "pydicom_for"]

INSTALL = Fault("is DICOM", "pip install 'foldblend[dicom]'")
# Plugin of pydicom by transfer syntax, so that each computer decodes with the same library. All
# have permissive licences. "": not compressed.
DEFLATED = "1.2.840.10008.1.2.1.99"
BASELINE = "1.2.840.10008.1.2.4.50"
JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
RLE = "1.2.840.10008.1.2.5"
JPEG_2000 = (
    *(f"1.2.840.10008.1.2.4.{number}" for number in (90, 91)),
    *(f"1.2.840.10008.1.2.4.{number}" for number in (201, 202, 203)),
)
PLUGINS = {
    "1.2.840.10008.1.2": "",
    "1.2.840.10008.1.2.1": "",
    "1.2.840.10008.1.2.2": "",
    DEFLATED: "",
    RLE: "pydicom",
    BASELINE: "pillow",
    JPEG_EXTENDED: "gdcm",
    "1.2.840.10008.1.2.4.57": "gdcm",  # JPEG lossless
    "1.2.840.10008.1.2.4.70": "gdcm",
    "1.2.840.10008.1.2.4.80": "pyjpegls",  # JPEG-LS
    "1.2.840.10008.1.2.4.81": "pyjpegls",
    **dict.fromkeys(JPEG_2000, "pylibjpeg"),
}

OTHER_SIZE = Fault("damaged DICOM (its frame has another size than its header)", "fetch it again")
J2K_CHANNELS = 40  # bytes from J2K_SIZE to the number of channels
JPEG_FRAMES = (0xC0, 0xC1, 0xC2, 0xC3, 0xF7)  # markers of segments with the size, 0xF7 of JPEG-LS
RLE_HEADER = 64

# Our errors name the file, and warnings of libraries do not.
warnings.filterwarnings("ignore", module=r"pydicom\b|foldblend\.dicom")
logging.getLogger("pydicom").addHandler(logging.NullHandler())


def pydicom_for(path: str | Path) -> Any:
    """Return pydicom. Raises BadImage where it is not installed."""
    try:
        import pydicom.pixels
    except ImportError:
        raise bad_image(path, INSTALL) from None
    return pydicom


def bits_of(header: Any) -> int:
    """Return the bits of a stored value."""
    # Float pixels have no such element.
    return int(header.get("BitsStored") or header.BitsAllocated)


def plugin_for(path: str | Path, header: Any) -> str:
    """Return the plugin of pydicom that decodes the pixels of a file, "" for pixels as they are.

    Raises BadImage for a transfer syntax that is not read, a decoder that is not installed, and a
    frame that is damaged or has another size than the header says.
    """
    syntax = header.file_meta.TransferSyntaxUID
    bits = bits_of(header)
    name = str(getattr(syntax, "name", syntax))[:80]
    # No free decoder reads this one with 12 bits.
    if syntax not in PLUGINS or (syntax == JPEG_EXTENDED and bits > 8):
        cure = "decompress it with a DICOM tool, such as DCMTK"
        raise bad_image(path, Fault(f"is DICOM in the transfer syntax {name}", cure))
    plugin = PLUGINS[syntax]
    if plugin == "gdcm":
        _quiet_gdcm()
    if plugin:
        decoder = pydicom_for(path).pixels.get_decoder(syntax)
        if plugin not in decoder.available_plugins:
            what = f"is DICOM in the transfer syntax {name}, for which {plugin} is not installed"
            raise bad_image(path, Fault(what, INSTALL.cure))
        _check_frame(path, header)
    return plugin


@functools.cache
def _quiet_gdcm() -> None:
    """Let GDCM print no warnings, which do not name the file."""
    with contextlib.suppress(ImportError):
        import gdcm

        for name in ("DebugOff", "WarningOff", "ErrorOff"):
            getattr(gdcm.Trace, name)()


def _jpeg_size(frame: bytes) -> tuple[int, int, int] | None:
    """Return width, height and channels of a JPEG or JPEG-LS image, or None without them."""
    place = 2
    while place + 10 <= len(frame):
        if frame[place] != 0xFF:
            return None
        marker = frame[place + 1]
        if marker == 0xFF:
            place += 1
            continue
        if marker in JPEG_FRAMES:
            height, width, channels = struct.unpack_from(">HHB", frame, place + 5)
            return width, height, channels
        place += 2 + int.from_bytes(frame[place + 2 : place + 4], "big")
    return None


def _codestream_size(frame: bytes) -> tuple[int, int, int] | None:
    """Return width, height and channels of a frame in JPEG, JPEG-LS or JPEG 2000, or None."""
    if frame.startswith(JPEG[:2]):
        return _jpeg_size(frame)
    start = frame.find(J2K_SIZE)
    if start < 0 or len(frame) < start + J2K_CHANNELS + 2:
        return None
    right, bottom, left, top = struct.unpack_from(">IIII", frame, start + 8)
    (channels,) = struct.unpack_from(">H", frame, start + J2K_CHANNELS)
    return right - left, bottom - top, channels


def _check_frame(path: str | Path, header: Any) -> None:
    """Raise BadImage if the first frame is damaged, or has another size than the header says.

    Decoders take the memory that the frame asks for.

    Parameters
    ----------
    path
        Name of the file, for the message.
    header
        Dataset of pydicom, whose pixels are compressed.
    """
    from pydicom.encaps import get_frame

    frames = int(header.get("NumberOfFrames") or 1)
    frame = get_frame(header.PixelData, 0, number_of_frames=frames)
    syntax = header.file_meta.TransferSyntaxUID
    rows = int(header.Rows)
    columns = int(header.Columns)
    if syntax == RLE:
        _check_rle(path, frame, header)
        return
    if _codestream_size(frame) != (columns, rows, int(header.SamplesPerPixel)):
        raise bad_image(path, OTHER_SIZE)
    fault = damage_of(frame)[0] if syntax == BASELINE else None
    if fault is not None:
        raise bad_image(path, fault)


def _check_rle(path: str | Path, frame: bytes, header: Any) -> None:
    """Raise BadImage if a frame in RLE has more pixels than the header says."""
    number = header.Rows * header.Columns
    segments = header.SamplesPerPixel * header.BitsAllocated // 8
    (count,) = struct.unpack_from("<I", frame)
    if count != segments or count > 15:
        raise bad_image(path, OTHER_SIZE)
    starts = [*struct.unpack_from(f"<{count}I", frame, 4), len(frame)]
    for start, end in itertools.pairwise(starts):
        size = 0
        place = start
        while place < end:
            code = frame[place]
            if code < 128:
                size += code + 1
                place += code + 2
            elif code > 128:
                size += 257 - code
                place += 2
            else:
                place += 1
        # A segment may be padded to an even number of bytes.
        if start < RLE_HEADER or not number <= size <= number + 2:
            raise bad_image(path, OTHER_SIZE)
