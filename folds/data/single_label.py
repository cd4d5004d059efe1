"""Checks that a column of labels has one class per image, and not amounts or several classes."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

import pandas as pd

from foldblend.errors import UserError, listed
from folds.data.words import numbers_of

__all__ = ["check_classes", "one_hot_columns"]

# Separators of several labels in one cell. A blank is weaker evidence, as names have blanks too.
MARKS = (r"\s*;\s*", r"\s*\|\s*", r"\s*,\s*")
BLANK = r"\s+"
# As Python and JSON write lists and mappings; other words in brackets are names.
LIST = re.compile(r"\[\s*['\"\d].*\]|\[\s*\]|\{\s*['\"].*\}", re.DOTALL)
# Columns of 0 and 1 with fewer rows than this are one-hot by chance too often.
LEAST_ROWS = 4


def _several(words: Sequence[str]) -> tuple[str, str] | None:
    """Return a word that is made of several labels, and one of these, or None.

    A cell such as "rust;scab" whose parts are all labels makes the case. So does a part that joins
    several of the other labels: with "rust", "scab", "rust complex" and "scab complex", "complex"
    does. "red oak", "white oak" and "oak" are three classes.
    """
    distinct = set(words)
    for sep in (*MARKS, BLANK):
        joined: dict[str, set[str]] = defaultdict(set)
        example: dict[str, tuple[str, str]] = {}
        for word in sorted(distinct):
            parts = [part for part in re.split(sep, word) if part]
            known = [part for part in parts if part in distinct]
            if len(parts) < 2 or not known:
                continue
            if sep != BLANK and len(known) == len(parts):
                return word, known[0]
            for part in parts:
                joined[part].update(one for one in known if one != part)
                example.setdefault(part, (word, next(o for o in known)))
        for part, others in joined.items():
            if len(others) > 1:
                return example[part]
    return None


def check_classes(words: Sequence[str], *, where: str) -> None:
    """Raise UserError if the labels are no classes: amounts, unique values, or several in a cell.

    Parameters
    ----------
    words
        Tidy label of each row.
    where
        Start of the message: file and column.
    """
    distinct = dict.fromkeys(words)
    value = numbers_of(words)
    if value is not None and len(distinct) > len(words) / 2 and len(words) >= LEAST_ROWS:
        fractions = [word for word, number in value.items() if number != int(number)]
        if fractions:
            raise UserError(
                f"{where} has {len(distinct):,} different numbers in {len(words):,} rows"
                f" ({listed(distinct)}); these are amounts, not classes: pass a column of classes,"
                " or make classes of ranges"
            )
    if len(distinct) == len(words) > LEAST_ROWS:
        raise UserError(
            f"{where} has a different value in each of {len(words):,} rows"
            f" ({listed(distinct)}); pass a column of classes"
        )
    lists = [word for word in distinct if LIST.fullmatch(word)]
    if lists:
        raise UserError(
            f"{where} has a list in a cell, such as {lists[0]!r}; a classifier needs one class per"
            " image: keep one label, or make each combination a class of its own as a plain word"
        )
    found = _several(words)
    if found is not None:
        raise UserError(
            f"{where} has several labels in one cell, such as {found[0]!r} beside {found[1]!r};"
            " a classifier needs one class per image: keep one label, or make each combination a"
            " class of its own and pass --ids-as-written"
        )


def one_hot_columns(cells: pd.DataFrame) -> list[str]:
    """Return the columns that together look like one-hot labels: 0 and 1, with a 1 in each row."""
    if len(cells) < LEAST_ROWS:
        return []
    flags = [
        str(name)
        for name in cells
        if set(cells[name].str.strip().str.removesuffix(".0")) == {"0", "1"} and name
    ]
    if len(flags) < 2:
        return []
    ones = cells[flags].apply(lambda column: column.str.strip().str.startswith("1"))
    return flags if (ones.sum(axis=1) >= 1).all() else []
