"""Groups taken from the paths of images, by a regular expression or by folder."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

from foldblend.errors import UserError, counted, listed
from foldblend.words import plural

__all__ = ["NO_GROUPS", "groups_by_regex", "groups_from_parent", "largest_groups"]

NO_GROUPS = (
    "no groups: every image counts as a separate group. If several images show one person or"
    " object, they may leak between folds, and intervals are too narrow. Give groups by"
    " --group-col COLUMN (of a table), --group-regex 'IMG_(\\d+)' (on the path) or --group-from"
    " parent (the image's folder)"
)


def groups_by_regex(pattern: str, ids: Sequence[str]) -> list[str]:
    r"""Return the group of each image, as a regular expression finds it in the image's path.

    Parameters
    ----------
    pattern
        Regular expression. Its groups in brackets, joined by "_", are the group of the image;
        without brackets it is the whole match.
    ids
        Path of each image, with / between folders.

    Raises
    ------
    UserError
        For an invalid expression, or paths that it does not match.

    Examples
    --------
    >>> groups_by_regex(r"IMG_(\d+)", ["cat/IMG_07_a.jpg", "dog/IMG_12_b.jpg"])
    ['07', '12']
    """
    try:
        find = re.compile(unicodedata.normalize("NFC", pattern)).search
    except re.error as error:
        raise UserError(
            f"--group-regex {pattern}: not a regular expression ({error}); correct it"
        ) from None
    groups = []
    unmatched = []
    for name in ids:
        found = find(unicodedata.normalize("NFC", name).replace("\\", "/"))
        parts = found.groups() if found else ()
        group = "_".join(part for part in parts if part) or (found.group() if found else "")
        if not group:
            unmatched.append(name)
        groups.append(group)
    if unmatched:
        raise UserError(
            f"--group-regex {pattern}: matches nothing in {len(unmatched):,} of {len(ids):,} paths"
            f" ({listed(unmatched)}); correct the expression"
        )
    return groups


def groups_from_parent(ids: Sequence[str], words: Sequence[str]) -> list[str]:
    """Return the name of the folder of each image as its group.

    Folders of one name below several classes are one group, as a patient with images in two
    classes is.

    Parameters
    ----------
    ids
        Path of each image, with / between folders.
    words
        Label of each image.

    Raises
    ------
    UserError
        If the paths have no folder, or the folders are the classes.
    """
    groups = [PurePosixPath(name.replace("\\", "/")).parent.name for name in ids]
    flat = [name for name, group in zip(ids, groups, strict=True) if not group]
    if flat:
        raise UserError(
            f"--group-from parent: {counted(len(flat), 'path')} without a folder"
            f" ({listed(flat)}); use --group-regex instead"
        )
    if len(set(zip(groups, words, strict=True))) == len(set(groups)) == len(set(words)):
        raise UserError(
            "--group-from parent: the folders of the images are the classes, not groups; use"
            " --group-regex, or put the images of each group in a folder below the class"
        )
    return groups


def largest_groups(groups: Sequence[str], noun: str, *, most: int = 5) -> str:
    """Return a sentence with the number of groups and the largest ones, as a preview."""
    count = Counter(groups)
    largest = sorted(count.items(), key=lambda one: (-one[1], one[0]))[:most]
    shown = ", ".join(f"{name} ({number:,})" for name, number in largest)
    what = plural(noun)
    return f"{len(count):,} {what if len(count) != 1 else noun}; largest (images): {shown}"
