"""Compressed frames of DICOM files, checked before a decoder sees them."""

from __future__ import annotations

import itertools
import struct
from pathlib import Path
from typing import Any

from foldblend.image_bytes import JPEG
from foldblend.image_faults import Fault, bad_image, damage_of

__all__ = ["check_frame"]

OTHER_SIZE = Fault("damaged DICOM (its frame has another size than its header)", "fetch it again")
J2K_SIZE = b"\xff\x4f\xff\x51"
JPEG_FRAMES = (0xC0, 0xC1, 0xC2, 0xC3, 0xF7)  # markers of segments with the size, 0xF7 of JPEG-LS
BASELINE = "1.2.840.10008.1.2.4.50"
RLE = "1.2.840.10008.1.2.5"
RLE_HEADER = 64


def _jpeg_size(frame: bytes) -> tuple[int, int] | None:
    """Return width and height of a JPEG or JPEG-LS image, or None if they are not found."""
    place = 2
    while place + 9 <= len(frame):
        if frame[place] != 0xFF:
            return None
        marker = frame[place + 1]
        if marker == 0xFF:
            place += 1
            continue
        if marker in JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", frame, place + 5)
            return width, height
        place += 2 + int.from_bytes(frame[place + 2 : place + 4], "big")
    return None


def _codestream_size(frame: bytes) -> tuple[int, int] | None:
    """Return width and height of a frame in JPEG, JPEG-LS or JPEG 2000, or None."""
    if frame.startswith(JPEG[:2]):
        return _jpeg_size(frame)
    start = frame.find(J2K_SIZE)
    if start < 0 or len(frame) < start + 24:
        return None
    right, bottom, left, top = struct.unpack_from(">IIII", frame, start + 8)
    return right - left, bottom - top


def check_frame(path: str | Path, header: Any) -> None:
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
    if _codestream_size(frame) != (columns, rows):
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
