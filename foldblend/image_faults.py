"""Reasons why a file cannot be used as an image, with their cures."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from pathlib import Path

import simplejpeg

from foldblend.errors import BadImage
from foldblend.image_bytes import JPEG, PNG, is_simple, png_damage, read_tiff

__all__ = ["DECIMAL", "Fault", "bad_image", "damage_of", "fault_of"]

FETCH = "fetch it again"
CONVERT = "convert it to JPEG or PNG"
SAVE_AGAIN = "fetch it again, or open and save it in an image editor"


@dataclass(frozen=True, slots=True)
class Fault:
    """Fault of an image file, with its cure."""

    problem: str
    cure: str = FETCH
    test_cure: str | None = None
    """The cure for test images, which cannot be skipped; None: the same."""


def bad_image(path: str | Path, fault: Fault) -> BadImage:
    """Return the error for a file with a fault."""
    return BadImage(f"{path}: {fault.problem}", fault.cure, fault.test_cure)


def _damaged(what: str) -> Fault:
    return Fault(what, FETCH, SAVE_AGAIN)


# libjpeg's messages on damaged files. Others are on files of an unusual kind, which simplejpeg
# may refuse although OpenCV reads them.
JPEG_DAMAGE = re.compile(r"Corrupt JPEG data(: )?|(?=Premature end|Inconsistent progression)")

# Files that are often found in place of images: where, first bytes, what they are, cure.
LOOKALIKES = (
    (0, b"version https://git-lfs", "is a Git LFS pointer", "run git lfs pull"),
    (0, b"%PDF", "is a PDF", CONVERT),
    (0, b"8BPS", "is a Photoshop file", CONVERT),
    (0, b"\xff\x0a", "is JPEG XL", CONVERT),
    (4, b"JXL ", "is JPEG XL", CONVERT),
    (0, b"SIMPLE  =", "is a FITS file", CONVERT),
    (0, b"\x93NUMPY", "is a NumPy array", CONVERT),
    (0, b"\x89HDF", "is an HDF5 file", CONVERT),
    (0, b"PK\3\4", "is a ZIP archive", "unpack it"),
    (0, b"\x1f\x8b", "is compressed with gzip", "unpack it"),
    (0, b"\0\5\x16\7", "is a macOS resource file (AppleDouble)", "remove it"),
    (0, JPEG[:2], "damaged JPEG", FETCH),
    (0, PNG[:4], "damaged PNG", FETCH),
    (0, b"GIF8", "truncated or damaged GIF", FETCH),
    (8, b"WEBP", "truncated or damaged WebP image", FETCH),
    (0, b"II*\0", "truncated or damaged TIFF", FETCH),
    (0, b"MM\0*", "truncated or damaged TIFF", FETCH),
    (0, b"II+\0", "truncated or damaged TIFF", FETCH),
    (0, b"MM\0+", "truncated or damaged TIFF", FETCH),
    (0, b"BM", "truncated or damaged BMP", FETCH),
    (4, b"jP  ", "truncated or damaged JPEG 2000 image", FETCH),
)
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
BRANDS = re.compile(rb"(?s)....ftyp(....)....((?:....)*)")


def _jpeg_text(data: bytes) -> str | None:
    """Return what libjpeg says of a JPEG that it cannot decode without a warning, or None."""
    # Decoding in grey at 1/8 of the size takes a third of the time and meets all damage too.
    try:
        simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=1, min_factor=8, strict=True)
    except ValueError as error:
        return " ".join(str(error).split())
    return None


def damage_of(data: bytes) -> tuple[Fault | None, bool]:
    """Return the fault of a JPEG, PNG or TIFF, and whether it was decoded as a whole.

    Libraries decode many damaged files without an error: the rest of the image is grey, or parts
    are shifted. OpenCV takes negative values of a TIFF for positive ones.

    Parameters
    ----------
    data
        Content of the file, after `quiet`.

    Returns
    -------
    tuple[Fault | None, bool]
        The fault or None; True if it is certain that OpenCV can decode the file.
    """
    if data.startswith(PNG):
        text = png_damage(data)
        return (_damaged(f"damaged PNG ({text})"), False) if text else (None, is_simple(data))
    if not data.startswith(JPEG):
        fault = _values_fault(data)
        # OpenCV refuses the other values itself.
        return fault if fault == SIGNED else None, False
    text = _jpeg_text(data)
    if text is None:
        return None, True
    said = JPEG_DAMAGE.match(text)
    return (_damaged(f"damaged JPEG ({text[said.end() :]})"), False) if said else (None, False)


# Kinds of compression of TIFF that OpenCV's libtiff is built without.
COMPRESSIONS = {
    34661: "JBIG",
    34887: "LERC",
    34925: "LZMA",
    50000: "Zstandard",
    50001: "WebP",
    50002: "JPEG XL",
}
SIGNED = Fault("has signed pixel values", "save it with unsigned 8 or 16 bits")
DECIMAL = Fault("has decimal pixel values", "train with --pixel-range LOW,HIGH")


def _values_fault(data: bytes) -> Fault | None:
    """Return why OpenCV does not read the pixels of a TIFF as a colour image, or None."""
    tiff = read_tiff(data)
    if tiff is None:
        return None
    if tiff.compression in COMPRESSIONS:
        what = f"is a TIFF compressed with {COMPRESSIONS[tiff.compression]}"
        return Fault(what, "save it with LZW or without compression")
    if tiff.is_decimal and (tiff.bits not in (32, 64) or tiff.is_planar or tiff.channels == 2):
        what = f"has decimal pixel values of {tiff.bits} bits in a layout that cannot be read"
        return Fault(what, "save it as grey or RGB with 32 bits")
    if tiff.is_decimal:
        return DECIMAL
    if tiff.bits > 16:
        return Fault(f"has {tiff.bits}-bit pixel values", "save it with 8 or 16 bits")
    if tiff.is_signed:
        return SIGNED
    if tiff.is_cmyk and tiff.bits > 8:
        return Fault(f"has CMYK colours of {tiff.bits} bits", "save it as RGB")
    if tiff.channels > 4:
        return Fault(f"has {tiff.channels} channels", "save it with 1, 3 or 4")
    return None


def fault_of(data: bytes) -> Fault:
    """Return why a file is not an image that can be decoded.

    Examples
    --------
    >>> fault_of(b"<!DOCTYPE html><html></html>").problem
    'is an HTML page, not an image'
    """
    if not data:
        return _damaged("empty file")
    if data.startswith(PNG) and (text := png_damage(data)):
        return _damaged(f"damaged PNG ({text})")
    if data.startswith(JPEG) and (text := _jpeg_text(data)):
        said = JPEG_DAMAGE.match(text)
        return _damaged(f"damaged JPEG ({text[said.end() if said else 0 :]})")
    fault = _values_fault(data)
    if fault is not None:
        return fault
    brands = BRANDS.match(data[:64])
    if brands is not None:
        is_heic = brands[1] in HEIC_BRANDS and b"avif" not in brands[2]
        return Fault("is HEIC", CONVERT) if is_heic else _damaged("truncated or damaged AVIF")
    for where, start, problem, cure in LOOKALIKES:
        if data.startswith(start, where):
            return _damaged(problem) if cure == FETCH else Fault(problem, cure)
    return _text_fault(data[:4096]) or _damaged("truncated or not an image")


def _text_fault(start: bytes) -> Fault | None:
    """Return what kind of text a file is, or None if it is not text."""
    try:
        # The last character may be cut in two where the file goes on.
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(start, len(start) < 4096)
    except UnicodeDecodeError:
        return None
    if not all(character.isprintable() or character.isspace() for character in text):
        return None
    text = text.lstrip().lower()
    if "<svg" in text:
        return Fault("is SVG", CONVERT)
    if text.startswith(("<!doctype html", "<html", "<head")):
        return _damaged("is an HTML page, not an image")
    return _damaged("is text, not an image")
