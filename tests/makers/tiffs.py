"""TIFF files of given bytes and tags, of layouts that image libraries do not write."""

from __future__ import annotations

import struct

__all__ = ["packed", "tiff_of"]

HEAD = 8  # bytes


def tiff_of(bodies, shape, bits, **tags):
    """Return a TIFF of an image of a shape, H x W [x C], in strips of bytes.

    Further tags are given as t284=2.
    """
    height, width = shape[:2]
    count = shape[2] if len(shape) == 3 else 1
    bodies = [one + bytes(len(one) % 2) for one in bodies]
    starts = [HEAD + sum(map(len, bodies[:place])) for place in range(len(bodies))]
    # Width, height, bits, compression, colours, offsets, channels, rows of a strip, lengths.
    every = {
        256: [width], 257: [height], 258: [bits] * count, 259: [1], 262: [2 if count > 2 else 1],
        273: starts, 277: [count], 278: [height], 279: [*map(len, bodies)],
    } | {int(name[1:]): [value] for name, value in tags.items()}  # fmt: skip
    body = b"".join(bodies)
    after = HEAD + len(body) + 2 + 12 * len(every) + 4
    entries = behind = b""
    for tag, numbers in sorted(every.items()):
        value = struct.pack(f"<{len(numbers)}H", *numbers)
        if len(value) > 4:
            place = after + len(behind)
            behind += value
            value = struct.pack("<I", place)
        entries += struct.pack("<HHI", tag, 3, len(numbers)) + value.ljust(4, b"\0")
    head = b"II*\0" + struct.pack("<I", HEAD + len(body))
    return head + body + struct.pack("<H", len(every)) + entries + bytes(4) + behind


def packed(values, bits, **tags):
    """Return a TIFF whose values follow each other without free bits, as of some cameras."""
    lines = ["".join(f"{value:0{bits}b}" for value in row.ravel()) for row in values]
    lines = [line + "0" * (-len(line) % 8) for line in lines]
    body = b"".join(int(line, 2).to_bytes(len(line) // 8, "big") for line in lines)
    return tiff_of([body], values.shape, bits, **tags)
