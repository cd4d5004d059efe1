"""Headers of image files: their kind, size and orientation, looked at before an image is read."""

from __future__ import annotations

import io
import logging
import struct
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import cv2
import PIL.Image

from foldblend.dicom import dicom_size
from foldblend.errors import BadImage
from foldblend.image_bytes import PNG, read_tiff
from foldblend.image_faults import bad_image, fault_of
from foldblend.image_natures import DICOM_START, is_dicom

__all__ = [
    "LARGE_BYTES",
    "PIXEL_BYTES",
    "SCALED",
    "Size",
    "check_size",
    "header_of",
    "mode_of",
    "size_of",
    "turn_of",
]

Size = tuple[int, int]

# Of a pixel in four channels of 16 bits, not compressed.
PIXEL_BYTES = 8
# A larger file is read only after its header was looked at.
LARGE_BYTES = 2**24
# Bytes of a file beside its pixels, such as profiles, previews and the video of a phone's photo.
BESIDE_BYTES = 2**26
# Steps in which Pillow reads a header; it takes some hundreds for one of many parts.
MOST_READS = 100_000
# Formats of one image per file; others may have a stack of them.
SINGLE = ("BMP", "JPEG", "PNG", "PPM")
# Libraries do not name the file in what they print, and our errors do. Our limit of pixels is lower
# than the one above which Pillow warns.
warnings.filterwarnings("ignore", category=PIL.Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())
ORIENTATION_TAG = 0x0112
MOST_EXIF = 2**20

# Decoding a JPEG at 1/8, 1/4 or 1/2 of its size takes a fraction of the time.
SCALED = {
    8: cv2.IMREAD_REDUCED_COLOR_8,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    2: cv2.IMREAD_REDUCED_COLOR_2,
}
TURNED = (5, 6, 7, 8)  # EXIF orientations that swap width and height
# What Pillow raises for broken headers and EXIF data; OpenCV ignores the latter.
BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    LookupError,
    TypeError,
    ArithmeticError,
    struct.error,
)


@dataclass(frozen=True, slots=True)
class Header:
    """Size of an image of a kind that Pillow does not know, as an upright image has it."""

    format: str
    width: int
    height: int
    info: dict[str, Any] = field(default_factory=dict)

    def __enter__(self) -> Header:
        return self

    def __exit__(self, *_: object) -> None:
        pass


AnyHeader = PIL.Image.Image | Header


def turn_of(header: AnyHeader) -> int:
    """Return the EXIF orientation of an image, from 1 (upright) to 8, by which OpenCV turns it."""
    # Pillow rotates TIFFs itself and lists no EXIF for them; OpenCV does not rotate AVIFs.
    if isinstance(header, Header) or "exif" not in header.info or header.format == "AVIF":
        return 1
    try:
        turn = header.getexif().get(ORIENTATION_TAG)
        return turn if isinstance(turn, int) and 1 <= turn <= 8 else 1
    except BROKEN:
        return 1


def _is_turned(header: AnyHeader) -> bool:
    """Return whether the EXIF data swap width and height."""
    return turn_of(header) in TURNED


def _mode_for(header: AnyHeader, at_least: Size | None) -> int:
    """Return cv2's flag of the smallest scaled decoding that is at least `at_least` large."""
    # For other formats cv2 would decode the whole image and then drop pixels.
    if at_least is None or header.format != "JPEG":
        return cv2.IMREAD_COLOR
    width, height = at_least[::-1] if _is_turned(header) else at_least
    fits = [
        mode
        for by, mode in SCALED.items()
        if header.width >= by * width and header.height >= by * height
    ]
    return fits[0] if fits else cv2.IMREAD_COLOR


CURE = "scale it down, or raise --max-pixels"


def _too_large(path: str | Path, max_pixels: int) -> BadImage:
    limit = f"{max_pixels // 2**20} megapixels" if max_pixels >= 2**20 else f"{max_pixels} pixels"
    return BadImage(f"{path}: over {limit}", "scale it down, raise --max-pixels", CURE)


def size_of(header: AnyHeader) -> Size:
    """Return the width and height of an image when it is upright."""
    size = (header.width, header.height)
    return size[::-1] if _is_turned(header) else size


def mode_of(
    path: str | Path, data: bytes, at_least: Size | None, max_pixels: int
) -> tuple[int, Size]:
    """Return cv2's flag for decoding an image and the image's upright size, from its header.

    Raises BadImage if the header cannot be read or the image has over `max_pixels` pixels.
    """
    with header_of(path, io.BytesIO(data), max_pixels) as header:
        return _mode_for(header, at_least), size_of(header)


class _Reads:
    """A file that Pillow reads in a bounded number of steps.

    In search of a mark, it may read a byte at a time, of which a file of zeros has many.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.left = MOST_READS

    # Readers of some formats ask for more than read and seek.
    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def read(self, size: int = -1) -> bytes:
        """Read from the file. Raises OSError when the steps are used up."""
        self.left -= 1
        if self.left < 0:
            raise OSError
        return self.file.read(size)


def header_of(path: str | Path, file: IO[bytes], max_pixels: int) -> AnyHeader:
    """Return the header of an image whose file was opened; errors are those of `mode_of`."""
    header = _header_of(path, file, max_pixels)
    # Check the header before decoding: a 1.2 MB PNG of 20,000 x 20,000 pixels would take 2.4 GB.
    if header.width * header.height > max_pixels:
        raise _too_large(path, max_pixels)
    return header


def _header_of(path: str | Path, file: IO[bytes], max_pixels: int) -> AnyHeader:
    start = file.read(DICOM_START)
    file.seek(0)
    # A file may be DICOM and TIFF at once.
    if is_dicom(start):
        return Header("DICOM", *dicom_size(path, file, max_pixels))
    try:
        header = PIL.Image.open(cast("IO[bytes]", _Reads(file)))
    except PIL.Image.DecompressionBombError:
        # Pillow has a limit of its own, which may be lower than the one of the user.
        if PIL.Image.MAX_IMAGE_PIXELS is None or max_pixels <= 2 * PIL.Image.MAX_IMAGE_PIXELS:
            raise _too_large(path, max_pixels) from None
        PIL.Image.MAX_IMAGE_PIXELS = max_pixels
        file.seek(0)
        return _header_of(path, file, max_pixels)
    except BROKEN:
        file.seek(0)
        data = file.read(LARGE_BYTES)
        tiff = read_tiff(data)
        # Pillow does not know all kinds of pixel values.
        if tiff is not None and tiff.width and tiff.height and (tiff.is_decimal or tiff.bits > 8):
            return Header("TIFF", tiff.width, tiff.height)
        raise bad_image(path, fault_of(data)) from None
    if header.format == "PNG" and "exif" not in header.info:
        exif = _late_exif(file)
        if exif is not None:
            header.info["exif"] = b"Exif\0\0" + exif
    return header


def _late_exif(file: IO[bytes]) -> bytes | None:
    """Return the EXIF data that follow the pixels of a PNG, or None.

    Pillow reads them with the pixels only, and OpenCV turns the image by them.
    """
    place = file.tell()
    file.seek(len(PNG))
    found = None
    for _ in range(MOST_READS):
        start = file.read(8)
        if len(start) < 8 or start[4:] == b"IEND":
            break
        length = int.from_bytes(start[:4], "big")
        if start[4:] == b"eXIf":
            found = file.read(min(length, MOST_EXIF))
            break
        file.seek(length + 4, io.SEEK_CUR)
    file.seek(place)
    return found


def check_size(path: str | Path, header: AnyHeader, num_bytes: int) -> None:
    """Raise BadImage for a file of far more bytes than the one image in it needs."""
    if header.format not in SINGLE or getattr(header, "is_animated", False):
        return
    if num_bytes > PIXEL_BYTES * header.width * header.height + BESIDE_BYTES:
        raise BadImage(
            f"{path}: has {num_bytes:,} bytes for {header.width} x {header.height} pixels",
            "save it again in an image editor",
        )
