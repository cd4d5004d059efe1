"""Kinds of pixel values in image files: bit depth and transparency, from the headers."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from foldblend.image_bytes import PNG, png_chunks, read_tiff

__all__ = ["DICOM_START", "J2K_SIZE", "PLAIN", "Nature", "is_dicom", "nature_of"]

DICOM_START = 132
"""Bytes up to the end of the mark of DICOM."""
DICOM_MARK = slice(128, DICOM_START)
# Of a PNM file: kind, then width, height and largest value, between which comments may stand.
PNM = re.compile(rb"P[2356](?:\s+|#[^\n]*\n)+\d+(?:\s+|#[^\n]*\n)+\d+(?:\s+|#[^\n]*\n)+(\d+)")
PNG_GREY = 0  # colour type
PNG_ALPHA = (4, 6)  # colour types
PNG_HEADER = 26
WEBP_ALPHA = 0x10  # flag of an extended file
WEBP_LOSSLESS_ALPHA = 1 << 28
AVIF_ALPHA = b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha"
AVIF_HEADER = 2**16
J2K_SIZE = b"\xff\x4f\xff\x51"
"""Start of a JPEG 2000 codestream and of its first segment."""
J2K_DEPTH = 42  # bytes from there to the depth of the first component
GIF_HEADER = 13


@dataclass(frozen=True, slots=True)
class Nature:
    """Pixel values of an image file beyond colours of 8 bits, which most files have."""

    is_deep: bool = False
    """Whether values have, or may have, more than 8 bits."""
    is_decimal: bool = False
    """Whether values are floats."""
    has_alpha: bool = False
    """Whether pixels may be transparent."""
    is_premultiplied: bool = False
    """Whether OpenCV gives colours that are multiplied by alpha."""
    is_dicom: bool = False
    packed_bits: int = 0
    """Bits of packed values, which OpenCV moves up to the highest of 16; 0 for others."""
    is_inverted: bool = False
    """Whether 0 is white in an image of more than 8 bits."""
    is_cut: bool = False
    """Whether OpenCV reads the upper 8 of 16 bits only."""
    clear_grey: int | None = None
    """Grey value that is transparent, which OpenCV ignores."""


PLAIN = Nature()


def is_dicom(data: bytes) -> bool:
    """Return whether a file is DICOM, which has a mark after 128 bytes of any content."""
    return data[DICOM_MARK] == b"DICM"


def nature_of(data: bytes) -> Nature:
    """Return the kind of the pixel values in an image file, from its header.

    Examples
    --------
    >>> nature_of(b"P5 640 480 4095 ...").is_deep
    True
    """
    if is_dicom(data):
        return Nature(is_dicom=True)
    if data.startswith(PNG):
        return _of_png(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return Nature(has_alpha=_webp_alpha(data))
    if data[:4] == b"GIF8":
        return Nature(has_alpha=_gif_alpha(data))
    if data[4:8] == b"ftyp":
        return Nature(has_alpha=AVIF_ALPHA in data[:AVIF_HEADER])
    if data[:2] in (b"P2", b"P3", b"P5", b"P6"):
        found = PNM.match(data)
        return Nature(is_deep=found is not None and int(found[1][:9]) > 255)
    if data[:2] == b"Pf":
        return Nature(is_deep=True, is_decimal=True)
    if data[4:8] == b"jP  " or data[:4] == J2K_SIZE:
        return Nature(is_deep=_is_deep_j2k(data))
    return _of_tiff(data)


def _of_tiff(data: bytes) -> Nature:
    tiff = read_tiff(data)
    if tiff is None:
        return Nature()
    # OpenCV reads the alpha of colour images only, and multiplies colours of 8 bits by it.
    has_alpha = tiff.alpha != 0 and tiff.channels == 4
    is_deep = tiff.is_decimal or 8 < tiff.bits <= 16
    is_cut = is_deep and (tiff.is_planar or tiff.channels == 2)
    return Nature(
        is_deep=is_deep,
        is_decimal=tiff.is_decimal,
        has_alpha=has_alpha,
        is_premultiplied=has_alpha and (tiff.bits <= 8 or tiff.alpha == 1),
        packed_bits=tiff.bits if 8 < tiff.bits < 16 and not is_cut else 0,
        is_inverted=is_deep and tiff.is_inverted,
        is_cut=is_cut,
    )


def _of_png(data: bytes) -> Nature:
    if len(data) < PNG_HEADER:
        return PLAIN
    bits = data[24]
    colours = data[25]
    clear = None if colours in PNG_ALPHA else _png_clear(data)
    grey = None
    if colours == PNG_GREY and clear is not None and len(clear) >= 2:
        most = 2**bits - 1
        # OpenCV makes 8 bits of fewer.
        grey = (int.from_bytes(clear[:2], "big") & most) * max(255 // most, 1)
    return Nature(
        is_deep=bits == 16, has_alpha=colours in PNG_ALPHA or clear is not None, clear_grey=grey
    )


def _png_clear(data: bytes) -> bytes | None:
    """Return what a PNG tells of transparent colours, or None."""
    for kind, start, end in png_chunks(data):
        if kind == b"tRNS":
            return data[start + 8 : end - 4]
        if kind == b"IDAT":
            return None
    return None


def _webp_alpha(data: bytes) -> bool:
    if data[12:16] == b"VP8X":
        return len(data) > 20 and bool(data[20] & WEBP_ALPHA)
    if data[12:16] == b"VP8L" and len(data) >= 25:
        (bits,) = struct.unpack_from("<I", data, 21)
        return bool(bits & WEBP_LOSSLESS_ALPHA)
    return False


def _gif_alpha(data: bytes) -> bool:
    """Return whether the first frame of a GIF has a transparent colour."""
    if len(data) < GIF_HEADER:
        return False
    flags = data[10]
    place = GIF_HEADER + (3 << (1 + (flags & 7)) if flags & 0x80 else 0)
    is_transparent = False
    while data[place : place + 1] == b"!":
        if data[place + 1 : place + 2] == b"\xf9":
            is_transparent = bool(data[place + 3 : place + 4]) and bool(data[place + 3] & 1)
        place += 2
        while place < len(data) and data[place]:
            place += 1 + data[place]
        place += 1
    return is_transparent


def _is_deep_j2k(data: bytes) -> bool:
    """Return whether the first component of a JPEG 2000 image has more than 8 bits."""
    start = data.find(J2K_SIZE)
    depth = data[start + J2K_DEPTH : start + J2K_DEPTH + 1] if start >= 0 else b""
    return bool(depth) and (depth[0] & 0x7F) + 1 > 8
