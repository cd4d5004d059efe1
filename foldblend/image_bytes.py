"""The bytes of image files: parts of PNG, JPEG and TIFF files that OpenCV does not report."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

__all__ = ["JPEG", "PNG", "inflates", "is_16_bit", "png_damage", "quiet", "tiff_kind"]

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8\xff"
# Chunks that decide the pixels of a PNG: its image, transparency, orientation and frames. libpng
# prints warnings about others, such as colour profiles of Photoshop, which OpenCV does not use.
PNG_CHUNKS = frozenset([b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"eXIf"])
PNG_FRAMES = frozenset([b"acTL", b"fcTL", b"fdAT"])
PNG_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # by colour type; a palette is not among them
TIFF_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
BITS_PER_SAMPLE = 258
SAMPLE_FORMAT = 339
SHORT = 3


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
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
    kind = b""
    for kind, start, end in _png_chunks(data):
        if end > len(data):
            return "it ends too early"
        if kind[:1].isupper() and not _has_right_crc(data, start, end):
            return f"the checksum of its {kind.decode('latin-1')} chunk is wrong"
        if kind == b"IDAT":
            parts.append(memoryview(data)[start + 8 : end - 4])
    if kind != b"IEND":
        return "it ends too early"
    return _pixels_damage(data, parts) if inflates(data) else None


def inflates(data: bytes) -> bool:
    """Return whether `png_damage` also unpacks the pixels of a PNG: not of palettes and others."""
    width, height, _, colours, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    return colours in PNG_CHANNELS and not interlaced and 0 < width * height < 2**31


def _pixels_damage(data: bytes, parts: list[memoryview]) -> str | None:
    """Return what is wrong with the compressed pixels of a PNG, or None."""
    width, height, depth, colours = struct.unpack_from(">IIBB", data, 16)
    row_bytes = 1 + (width * PNG_CHANNELS[colours] * depth + 7) // 8
    inflate = zlib.decompressobj()
    try:
        pixels = inflate.decompress(b"".join(parts), height * row_bytes + 1)
    except zlib.error:
        return "its compressed pixels are damaged"
    if len(pixels) < height * row_bytes:
        return "it has too few pixels"
    filters = pixels[: height * row_bytes : row_bytes]
    return "its compressed pixels are damaged" if max(filters) > 4 else None


def _quiet_png(data: bytes) -> bytes:
    kept = [data[: len(PNG)]]
    num_chunks = 0
    for kind, start, end in _png_chunks(data):
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


def _tiff_tags(data: bytes) -> dict[int, int]:
    """Return the first value of each short tag of the first image of a TIFF."""
    order = TIFF_ORDERS.get(data[:4])
    if order is None:
        return {}
    found = {}
    try:
        (start,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, start)
        for index in range(count):
            entry = start + 2 + 12 * index
            tag, kind, number = struct.unpack_from(f"{order}HHI", data, entry)
            if kind != SHORT:
                continue
            # Up to two values are in the entry itself, more are where it points.
            where = entry + 8
            if number > 2:
                (where,) = struct.unpack_from(f"{order}I", data, where)
            (found[tag],) = struct.unpack_from(f"{order}H", data, where)
    except struct.error:
        pass  # a truncated file; the tags found so far are right
    return found


def tiff_kind(data: bytes) -> str | None:
    """Return which values of a TIFF OpenCV cannot read as a colour image, or None."""
    tags = _tiff_tags(data)
    bits = tags.get(BITS_PER_SAMPLE, 1)
    if tags.get(SAMPLE_FORMAT) == 3:
        return "decimal"
    return f"{bits}-bit" if bits > 16 else None


def is_16_bit(data: bytes) -> bool:
    """Return whether an image file has values of more than 8 bits, up to 16."""
    if data.startswith(PNG):
        return data[24:25] == b"\x10"
    return data[:2] in (b"P5", b"P6") or 8 < _tiff_tags(data).get(BITS_PER_SAMPLE, 1) <= 16
