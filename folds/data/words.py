"""Labels and groups as text: hidden differences are removed, doubtful ones are errors."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

from foldblend.errors import UserError, counted, listed
from foldblend.words import tidy

__all__ = [
    "check_spellings",
    "merge_case",
    "numbers_of",
    "numeric_order",
    "plain",
    "same_values",
    "tidied",
]

# Compared as text: a float would make equal what differs after its 16th digit.
DECIMAL = re.compile(r"([+-]?)(?:(\d+)(?:\.(\d*))?|\.(\d+))", re.ASCII)


def tidied(words: Sequence[str], what: str) -> tuple[list[str], list[str]]:
    """Return tidy words, and a note with their number if any word changed.

    Parameters
    ----------
    words
        One word per image.
    what
        What the words are, such as "labels".
    """
    tidy_N = [tidy(word) for word in words]
    changed = [
        (before, after) for before, after in zip(words, tidy_N, strict=True) if before != after
    ]
    if not changed:
        return tidy_N, []
    before, after = changed[0]
    note = (
        f"{what}: {len(changed):,} of {len(words):,} had blanks, hidden characters or letters in"
        f" another Unicode form, which were removed or composed ({before!a} -> {after!a})"
    )
    return tidy_N, [note]


def plain(word: str) -> str:
    """Return a word without its letter case and the width of its letters and digits."""
    return unicodedata.normalize("NFKC", word).casefold()


def _meaning(word: str) -> tuple[str, ...]:
    """Return a key that plain decimals of one value share, and words that differ in case only."""
    found = DECIMAL.fullmatch(plain(word))
    if not found:
        return ("word", plain(word))
    sign, whole, rest, fraction = found.groups()
    digits = (whole or "").lstrip("0")
    decimals = (rest or fraction or "").rstrip("0")
    negative = sign == "-" and bool(digits or decimals)
    return ("number", "-" if negative else "", digits, decimals)


def check_spellings(
    words: Sequence[str], *, where: str, at: Callable[[int], str], cures: tuple[str, str]
) -> None:
    """Raise UserError if two words are the same number, or the same word but for its case.

    Parameters
    ----------
    words
        Tidy words, one per row.
    where
        Start of the message.
    at
        Function that returns the place of a row, such as "line 3".
    cures
        Advice for numbers, and for words that differ in case.
    """
    first: dict[str, int] = {}
    for row, word in enumerate(words):
        first.setdefault(word, row)
    spellings: dict[tuple[str, ...], list[str]] = {}
    for word in first:
        spellings.setdefault(_meaning(word), []).append(word)
    doubtful = [(key, same) for key, same in spellings.items() if len(same) > 1]
    if not doubtful:
        return
    key, (one, other, *_) = doubtful[0]
    are = "the same number" if key[0] == "number" else "the same but for letter case or width"
    more = f" (and {counted(len(doubtful) - 1, 'more pair')})" if len(doubtful) > 1 else ""
    raise UserError(
        f"{where}: {one!r} ({at(first[one])}) and {other!r} ({at(first[other])}) are {are}{more};"
        f" {cures[key[0] != 'number']}"
    )


def merge_case(words: Sequence[str], what: str) -> tuple[list[str], list[str]]:
    """Return words of which those that differ in case only are written alike, and a note.

    The most frequent spelling is kept.
    """
    count = Counter(words)
    order = sorted(count, key=lambda word: (-count[word], word))
    kept: dict[str, str] = {}
    for word in order:
        kept.setdefault(plain(word), word)
    merged = [kept[plain(word)] for word in words]
    changed = [word for word in order if kept[plain(word)] != word]
    if not changed:
        return merged, []
    pairs = listed(f"{word} -> {kept[plain(word)]}" for word in changed)
    return merged, [f"--merge-case: {what} written alike: {pairs}"]


def numbers_of(words: Sequence[str]) -> dict[str, float] | None:
    """Return the value of each distinct word if all are finite numbers, else None.

    Examples
    --------
    >>> numbers_of(["10", "9"]), numbers_of(["10", "nine"])
    ({'10': 10.0, '9': 9.0}, None)
    """
    found = {}
    for word in dict.fromkeys(words):
        if "_" in word:  # Python reads 1_10 as 110
            return None
        try:
            found[word] = float(word)
        except ValueError:
            return None
    values = found.values()
    return found if all(abs(one) < float("inf") for one in values) else None


def numeric_order(words: Sequence[str]) -> list[str] | None:
    """Return the distinct words ordered by value if all are numbers, else None."""
    value = numbers_of(words)
    return None if value is None else sorted(value, key=lambda word: (value[word], word))


def same_values(words: Sequence[str]) -> tuple[str, str] | None:
    """Return two different words that are the same number, such as 1 and 1e0, or None."""
    value = numbers_of(words)
    ordered = numeric_order(words)
    if value is None or ordered is None:
        return None
    pairs = itertools.pairwise(ordered)
    return next(((one, other) for one, other in pairs if value[one] == value[other]), None)
