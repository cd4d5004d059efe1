"""The bytes of image files: parts of PNG, JPEG and TIFF files that OpenCV does not report."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["JPEG", "PNG", "Tiff", "is_simple", "png_chunks", "png_damage", "quiet", "read_tiff"]

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8\xff"
# Chunks that decide the pixels of a PNG: its image, transparency, orientation and frames. libpng
# prints warnings about others, such as colour profiles of Photoshop, which OpenCV does not use.
PNG_CHUNKS = frozenset([b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"eXIf"])
PNG_FRAMES = frozenset([b"acTL", b"fcTL", b"fdAT"])
PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
PALETTE = 3
PNG_HEADER_END = 33
# The seven passes of an interlaced PNG: first column and row, and the steps to the next.
PNG_WHOLE = ((0, 0, 1, 1),)
PNG_PASSES = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind, start and end of each chunk; the last one may end after the file does."""
    place = len(PNG)
    while place + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        kind = data[place + 4 : place + 8]
        yield kind, place, place + 12 + length
        if kind == b"IEND":
            return
        place += 12 + length


def _has_right_crc(data: bytes, start: int, end: int) -> bool:
    return zlib.crc32(memoryview(data)[start + 4 : end - 4]) == int.from_bytes(
        data[end - 4 : end], "big"
    )


def png_damage(data: bytes) -> str | None:
    """Return what is wrong with the bytes of a PNG, or None.

    A damaged chunk that does not decide the pixels, such as a comment, is not a fault.
    """
    parts = []
    palettes = []
    kind = b""
    for kind, start, end in png_chunks(data):
        if end > len(data):
            return "it ends too early"
        if kind[:1].isupper() and not _has_right_crc(data, start, end):
            return f"the checksum of its {kind.decode('latin-1')} chunk is wrong"
        if kind == b"IDAT":
            parts.append(memoryview(data)[start + 8 : end - 4])
        if kind == b"PLTE" and not parts:
            palettes.append(end - start - 12)
    if kind != b"IEND" or len(data) < PNG_HEADER_END:
        return "it ends too early"
    width, height, _, colours = struct.unpack_from(">IIBB", data, 16)
    if colours == PALETTE and not _is_palette(palettes):
        return "it has no valid palette"
    is_known = colours in PNG_CHANNELS and 0 < width * height < 2**31
    return _pixels_damage(data, parts) if is_known else None


def is_simple(data: bytes) -> bool:
    """Return whether a PNG has neither a palette nor interlaced rows."""
    return data[25] in PNG_CHANNELS and data[25] != PALETTE and not data[28]


def _is_palette(sizes: list[int]) -> bool:
    """Return whether libpng accepts the palettes of an image, from their numbers of bytes."""
    return len(sizes) == 1 and 0 < sizes[0] <= 3 * 256 and sizes[0] % 3 == 0


def _png_blocks(data: bytes) -> list[tuple[int, int]]:
    """Return rows, and bytes of a row with its filter, of each pass that has pixels."""
    width, height, depth, colours, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    bits = PNG_CHANNELS[colours] * depth
    sizes = [
        (-((left - width) // right), -((top - height) // down))
        for left, top, right, down in (PNG_PASSES if interlaced else PNG_WHOLE)
    ]
    return [(rows, 1 + (columns * bits + 7) // 8) for columns, rows in sizes if columns and rows]


def _pixels_damage(data: bytes, parts: list[memoryview]) -> str | None:
    """Return what is wrong with the compressed pixels of a PNG, or None."""
    blocks = _png_blocks(data)
    size = sum(rows * row_bytes for rows, row_bytes in blocks)
    inflate = zlib.decompressobj()
    unpacked = []
    left = size + 1
    try:
        for part in parts:
            unpacked.append(inflate.decompress(part, left))
            left -= len(unpacked[-1])
            if left == 0:
                return "it has too many pixels"
            if inflate.eof:
                break
    except zlib.error:
        return "its compressed pixels are damaged"
    if left > 1:
        return "it has too few pixels"
    # libpng refuses pixels whose end is missing, and warns of other bytes in the same chunk.
    if not inflate.eof or inflate.unused_data:
        return "its compressed pixels are damaged"
    pixels = b"".join(unpacked)
    start = 0
    for rows, row_bytes in blocks:
        end = start + rows * row_bytes
        if max(pixels[start:end:row_bytes]) > 4:
            return "its compressed pixels are damaged"
        start = end
    return None


def _quiet_png(data: bytes) -> bytes:
    kept = [data[: len(PNG)]]
    num_chunks = 0
    for kind, start, end in png_chunks(data):
        num_chunks += 1
        is_kept = kind in PNG_FRAMES or (
            # libpng warns of an optional chunk with a wrong checksum and ignores it.
            kind in PNG_CHUNKS and (kind[:1].isupper() or _has_right_crc(data, start, end))
        )
        if is_kept:
            kept.append(data[start:end])
    return data if len(kept) == 1 + num_chunks else b"".join(kept)


def _quiet_jpeg(data: bytes) -> bytes:
    """Return a JPEG with usual values for header fields that libjpeg warns of and ignores."""
    patches: dict[int, bytes] = {}
    is_sequential = False
    channels = 0
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # any marker may be preceded by more of these
            place += 1
            continue
        body = place + 4
        (length,) = struct.unpack_from(">H", data, place + 2)
        if marker == 0xE0 and length >= 16 and data[body : body + 5] == b"JFIF\0":
            if data[body + 5 : body + 6] != b"\1":
                patches[body + 5] = b"\1\1"
        elif marker == 0xEE and length >= 14 and data[body : body + 5] == b"Adobe":
            adobe = body + 11
            if data[adobe : adobe + 1] > b"\2":
                patches[adobe] = b"\1"
        elif marker in (0xC0, 0xC1, 0xC2):
            is_sequential = marker != 0xC2
            channels = data[body + 5] if body + 5 < len(data) else 0
        elif marker == 0xDA:
            scan = place + 2 + length - 3
            if is_sequential and data[scan : scan + 3] != b"\0\x3f\0" and scan + 3 <= len(data):
                patches[scan] = b"\0\x3f\0"
            break
        place += 2 + length
    if not patches:
        return data
    patched = bytearray(data)
    for where, value in patches.items():
        is_adobe = len(value) == 1
        # libjpeg takes unknown transforms for YCbCr (1), of four channels for YCCK (2).
        patched[where : where + len(value)] = b"\2" if is_adobe and channels == 4 else value
    return bytes(patched)


def quiet(data: bytes) -> bytes:
    """Return an image file without the parts that libraries warn of and that change no pixel.

    libpng and libjpeg write their warnings to the standard error stream of the process, without
    the name of the file.
    """
    if data.startswith(PNG):
        return _quiet_png(data)
    return _quiet_jpeg(data) if data.startswith(JPEG) else data


@dataclass(frozen=True, slots=True)
class TiffLayout:
    """Sizes in the directory of a TIFF: struct's letters and numbers of bytes."""

    order: str
    where: int
    """Place of the offset of the first directory."""
    count: str
    """Letter of the number of tags."""
    offset: str
    """Letter of offsets and of the number of values of a tag."""


# By the first four bytes. The second two are of BigTIFF.
TIFF_LAYOUTS = {
    b"II*\0": TiffLayout("<", 4, "H", "I"),
    b"MM\0*": TiffLayout(">", 4, "H", "I"),
    b"II+\0": TiffLayout("<", 8, "Q", "Q"),
    b"MM\0+": TiffLayout(">", 8, "Q", "Q"),
}
WIDTH = 256
HEIGHT = 257
BITS_PER_SAMPLE = 258
COMPRESSION = 259
PHOTOMETRIC = 262
CMYK = 5
ORIENTATION = 274
SAMPLES_PER_PIXEL = 277
PLANAR = 284
EXTRA_SAMPLES = 338
SAMPLE_FORMAT = 339
# Letter of struct and number of bytes by the kind of a tag.
TAG_KINDS = {3: ("H", 2), 4: ("I", 4)}


def _tiff_tags(data: bytes, layout: TiffLayout) -> dict[int, int]:
    """Return the first value of each tag of integers of the first image of a TIFF."""
    order = layout.order
    width = struct.calcsize(f"={layout.offset}")
    found = {}
    try:
        (start,) = struct.unpack_from(f"{order}{layout.offset}", data, layout.where)
        (count,) = struct.unpack_from(f"{order}{layout.count}", data, start)
        start += struct.calcsize(f"={layout.count}")
        for index in range(count):
            entry = start + (4 + 2 * width) * index
            tag, kind, number = struct.unpack_from(f"{order}HH{layout.offset}", data, entry)
            if kind not in TAG_KINDS:
                continue
            letter, size = TAG_KINDS[kind]
            # Values that fit are in the entry itself, more are where it points.
            where = entry + 4 + width
            if size * number > width:
                (where,) = struct.unpack_from(f"{order}{layout.offset}", data, where)
            (found[tag],) = struct.unpack_from(f"{order}{letter}", data, where)
    except (struct.error, OverflowError):
        pass  # a truncated file; the tags found so far are right
    return found


@dataclass(frozen=True, slots=True)
class Tiff:
    """Size and pixel values of the first image of a TIFF."""

    width: int
    height: int
    bits: int
    channels: int
    alpha: int
    """0: no transparency; 1: colours are multiplied by alpha; 2: they are not."""
    is_signed: bool
    is_decimal: bool
    is_inverted: bool
    """Whether 0 is white."""
    is_planar: bool
    """Whether each channel is stored by itself."""
    is_cmyk: bool
    compression: int
    """Number of the kind of compression; 1: none."""


def read_tiff(data: bytes) -> Tiff | None:
    """Return what the header of a TIFF or BigTIFF tells of the pixel values, or None."""
    layout = TIFF_LAYOUTS.get(data[:4])
    if layout is None:
        return None
    tags = _tiff_tags(data, layout)
    form = tags.get(SAMPLE_FORMAT, 1)
    size = (tags.get(WIDTH, 0), tags.get(HEIGHT, 0))
    # The last four of eight orientations swap width and height.
    width, height = size[::-1] if tags.get(ORIENTATION, 1) > 4 else size
    alpha = tags.get(EXTRA_SAMPLES, 0)
    return Tiff(
        width=width,
        height=height,
        bits=tags.get(BITS_PER_SAMPLE, 1),
        channels=tags.get(SAMPLES_PER_PIXEL, 1),
        alpha=alpha if alpha in (1, 2) else 0,
        is_signed=form == 2,
        is_decimal=form == 3,
        is_inverted=tags.get(PHOTOMETRIC) == 0,
        is_planar=tags.get(PLANAR, 1) == 2 and tags.get(SAMPLES_PER_PIXEL, 1) > 1,
        is_cmyk=tags.get(PHOTOMETRIC) == CMYK,
        compression=tags.get(COMPRESSION, 1),
    )
