"""Finding of image files by the names that a table gives them."""

from __future__ import annotations

import functools
import os
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from foldblend.errors import UserError, listed
from foldblend.files import exists, is_file
from foldblend.image_natures import DICOM_START, is_dicom
from foldblend.reading import open_regular
from foldblend.words import tidy

__all__ = ["IMAGE_SUFFIXES", "Found", "find_images", "is_image", "is_image_file"]

_NAMES = "jpg jpeg jpe jfif png bmp dib tif tiff webp gif jp2 avif ppm pgm pbm pnm svg heic heif"
_OF_DICOM = ("dcm", "dicom")
IMAGE_SUFFIXES = frozenset(f".{name}" for name in (*_NAMES.split(" "), *_OF_DICOM))
"""Suffixes of images; files that cannot be decoded, such as SVG, are reported when read."""
DICOMDIR = "DICOMDIR"  # the table of contents of a disk, in DICOM as its images are


def is_image(name: str, suffix: str | None = None) -> bool:
    """Return whether a file name has the suffix of an image, or the given suffix."""
    if suffix is not None:
        return name.lower().endswith(f".{suffix.lower().removeprefix('.')}")
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def is_image_file(file: Path, suffix: str | None = None) -> bool:
    """Return whether a file is an image by its name, or DICOM, whose files often have no suffix."""
    if is_image(file.name, suffix):
        return True
    # The names that archives give them may end in numbers.
    is_bare = not any(letter.isalpha() for letter in file.suffix)
    if suffix is not None or not is_bare or file.name == DICOMDIR:
        return False
    try:
        with open_regular(file) as opened:
            return is_dicom(opened.read(DICOM_START))
    except (UserError, OSError):
        return False


@dataclass(frozen=True, kw_only=True)
class Found:
    """Result of a search for the images of a table."""

    ids: list[str]
    """Id of each image: its name in the table, without outer blanks if the file has none."""
    paths: list[Path]
    """File of each image; where none was found, the path at which it was expected."""
    missing: list[int]
    """Rows whose image was not found."""
    notes: list[str]
    """Sentences on images found under a name that differs from the table's."""


def _key(name: str) -> str:
    return tidy(name).casefold()


@functools.lru_cache(maxsize=4096)
def _listing(folder: str) -> dict[str, list[str]]:
    """Return the names in a folder by a key that ignores case, Unicode form and outer blanks."""
    found = defaultdict(list)
    try:
        names = sorted(path.name for path in Path(folder).iterdir())
    except OSError:
        names = []
    for name in names:
        found[_key(name)].append(name)
        if is_image(name) and not name.startswith("."):
            # Names without suffix have a key of their own, which no file name can have.
            found[f"{_key(PurePosixPath(name).stem)}/"].append(name)
    return dict(found)


def _loosely(root: Path, name: str) -> Path | None:
    """Return the only file that a name can mean but for case, form, blanks, slashes or suffix.

    Raises UserError if several files fit.
    """
    slashed = tidy(name).replace("\\", "/")
    parts = [part for part in slashed.split("/") if part not in ("", ".")]
    place = Path("/") if slashed.startswith("/") else root
    for number, part in enumerate(parts, start=1):
        if exists(place / part):
            place = place / part
            continue
        listing = _listing(str(place))
        fits = listing.get(_key(part), [])
        if not fits and number == len(parts):
            fits = listing.get(f"{_key(part)}/", [])
        if len(fits) > 1:
            raise UserError(
                f"{place}: {listed(fits)} all fit the name {name!r}; write the name as the file"
                " has it"
            )
        if not fits:
            return None
        place = place / fits[0]
    return place if is_file(place) else None


def _difference(name: str, path: Path) -> str:
    """Return in what the name in a table differs from the file's path."""
    found = path.as_posix()
    same = name.replace("\\", "/")
    if "\\" in name and found.endswith(same):
        return "backslashes"
    if found.endswith(same.strip()):
        return "blanks around the name"
    if unicodedata.normalize("NFC", found).endswith(unicodedata.normalize("NFC", same).strip()):
        return "their Unicode form"
    stem = path.with_suffix("").as_posix()
    if _key(found).endswith(_key(same)):
        return "letter case"
    return "the missing suffix" if _key(stem).endswith(_key(same)) else "several ways"


def _in_root(root: Path, name: str, suffix: str | None) -> tuple[Path | None, bool]:
    """Return the file of a name within a root, and whether the name was taken as it is."""
    # A file may be named ~1.png, so the name as it is comes first. os.path leaves such a name as it
    # is, where Path raises an error for an unknown user.
    for path in (root / name, root / os.path.expanduser(name)):  # noqa: PTH111
        if is_file(path):
            return path, True
    if suffix is not None and not is_image(name, suffix):
        # Names without suffix may fit several files, of which --image-suffix tells one.
        full = f"{tidy(name)}.{suffix.removeprefix('.')}"
        if is_file(root / full):
            return root / full, True
        return _loosely(root, full), True
    return _loosely(root, name), False


def find_images(
    names: Sequence[str],
    roots: Sequence[Path],
    *,
    where: str,
    cure: str,
    suffix: str | None = None,
) -> Found:
    """Find the file of each name in the first folder of `roots`, or in the following ones.

    A name that fits no file as it is may differ from a file in backslashes, outer blanks, Unicode
    form, letter case or a missing suffix, if only one file fits.

    Parameters
    ----------
    names
        Paths as a table gives them, relative to a root or absolute.
    roots
        Folders to search.
    where
        Start of error messages, such as the table.
    cure
        Advice for names that are found in two of the roots.
    suffix
        Suffix that is added to names, such as ".jpg".

    Raises
    ------
    UserError
        If a name is found in two roots, or fits several files.
    """
    _listing.cache_clear()
    ids: list[str] = []
    paths: list[Path] = []
    missing: list[int] = []
    loose: dict[str, list[str]] = defaultdict(list)
    for row, name in enumerate(names):
        hits = [(root, *_in_root(root, name, suffix)) for root in roots]
        files = [(path, exact) for _, path, exact in hits if path is not None]
        if len(files) > 1 and not files[0][0].samefile(files[1][0]):
            raise UserError(
                f"{where}: {name!r} is in two places, {files[0][0]} and {files[1][0]}; {cure}"
            )
        if not files:
            missing.append(row)
        path, exact = files[0] if files else (roots[0] / name, True)
        ids.append(name if exact and path.as_posix().endswith(name) else name.strip())
        paths.append(path)
        if not exact:
            loose[_difference(name, path)].append(f"{name!r} is {path.name}")
    notes = [
        f"{where}: {len(pairs):,} of {len(names):,} names differ from the files in {what}:"
        f" {listed(pairs, most=2)}"
        for what, pairs in loose.items()
    ]
    return Found(ids=ids, paths=paths, missing=missing, notes=notes)
