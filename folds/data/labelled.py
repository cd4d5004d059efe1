"""Labelled images as a reader finds them, and the checks that are the same for all readers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foldblend.attributes import Attribute
from foldblend.delimited import read_text
from foldblend.errors import UserError, listed
from foldblend.files import home, is_file
from foldblend.tables import Categories
from foldblend.words import tidy
from folds.config import DataConfig
from folds.data.groups import NO_GROUPS, groups_by_regex, groups_from_parent, largest_groups
from folds.data.image_table import Cells
from folds.data.single_label import check_classes
from folds.data.words import (
    check_spellings,
    merge_case,
    numeric_order,
    plain,
    same_values,
    tidied,
)

__all__ = [
    "SPELLING_CURES",
    "Classes",
    "Labelled",
    "attribute_of",
    "class_codes",
    "classes_of",
    "group_words",
    "spelt",
]

AS_WRITTEN = "or pass --ids-as-written if they are different"
SPELLING_CURES = (
    f"write it one way, {AS_WRITTEN}",
    f"pass --merge-case to make them one, {AS_WRITTEN}",
)
"""Advice for words that are the same number, and for words that differ in case."""


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Labelled images as words and paths; every list has one value per image."""

    source: Path
    """The table or folder that was read."""
    image_id: Sequence[str]
    path: Sequence[Path]
    word: Sequence[str]
    """Label of each image."""
    label_where: str
    """Where labels come from, for messages: file and column, or the folder."""
    at: Callable[[int], str]
    """Function that returns the place of a row, such as "line 3"."""
    group: Sequence[str] | None = None
    group_where: str = ""
    attributes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Further properties by column."""
    categories: Mapping[str, Categories] = field(default_factory=dict)
    """Declared values of the labels ("") and of attributes (by their name)."""
    extra: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Further columns of the manifest, such as `box`."""
    columns: Mapping[str, Cells] = field(default_factory=dict)
    """Texts of the other columns of the table, which blends may learn from."""
    id_column: str = "image"
    label_column: str = "label"
    warnings: Sequence[str] = ()
    notes: Sequence[str] = ()
    found: Sequence[str] = ()
    """Sentences on what was recognised, for the log."""


@dataclass(frozen=True)
class Classes:
    """Names of the classes in order, the class of each row, and notes on changed labels."""

    names: tuple[str, ...]
    label: list[int]
    ordered: bool
    notes: list[str]


def _checked_words(
    words: Sequence[str], config: DataConfig, *, what: str, where: str, at: Callable[[int], str]
) -> tuple[list[str], list[str]]:
    """Return labels or groups after the checks of their spelling, and notes on changes."""
    if config.ids_as_written:
        return [word.strip() for word in words], []
    tidy_N, notes = tidied(words, what)
    if config.merge_case:
        tidy_N, more = merge_case(tidy_N, what)
        notes += more
    check_spellings(tidy_N, where=where, at=at, cures=SPELLING_CURES)
    return tidy_N, notes


def _given_order(text: str) -> list[str]:
    """Return the classes of --class-order: a comma-separated list, or a file of lines."""
    file = home(text)
    parts = read_text(file).splitlines() if is_file(file) else text.split(",")
    return [word for part in parts if (word := tidy(part))]


def _order(words: Sequence[str], declared: Categories | None) -> tuple[list[str], bool]:
    """Return the distinct words in order, and whether the order has a meaning."""
    if declared is not None and set(words) <= set(declared.names):
        return [word for word in declared.names if word in set(words)], declared.is_order
    numbers = numeric_order(words)
    if numbers is None:
        return sorted(set(words)), False
    return numbers, True


def classes_of(found: Labelled, config: DataConfig) -> Classes:
    """Return the classes of labelled images.

    Their order is that of --class-order, else the one that the file declares, else by value if all
    are numbers, else by alphabet.

    Raises
    ------
    UserError
        For labels that are no classes, doubtful spellings, a single class, or an order that does
        not have the classes of the data.
    """
    where = found.label_where
    words, notes = _checked_words(found.word, config, what="labels", where=where, at=found.at)
    if not config.ids_as_written:
        check_classes(words, where=where)
    names, ordered = _order(words, found.categories.get(""))
    if config.class_order is not None:
        given = _given_order(config.class_order)
        absent = [word for word in names if word not in given]
        unknown = [word for word in given if word not in set(names)]
        if absent or unknown or len(set(given)) < len(given):
            problem = (
                f"lacks {listed(absent)}"
                if absent
                else f"has {listed(unknown)}, which no image has"
                if unknown
                else "names a class twice"
            )
            raise UserError(
                f"--class-order {config.class_order}: {problem}; name each of"
                f" {listed(names, most=9)} once"
            )
        names = given
        ordered = True
    if len(names) < 2:
        raise UserError(f"{where} has 1 class; a classifier needs at least two")
    return Classes(tuple(names), class_codes(words, names), ordered, notes)


def spelt(words: Sequence[str], classes: Sequence[str], config: DataConfig) -> list[str]:
    """Return words of test images in the spelling of the classes of the training set."""
    if config.ids_as_written:
        return [word.strip() for word in words]
    tidy_N = [tidy(word) for word in words]
    if not config.merge_case:
        return tidy_N
    kept = {plain(name): name for name in classes}
    return [kept.get(plain(word), word) for word in tidy_N]


def class_codes(words: Sequence[str], names: Sequence[str]) -> list[int]:
    """Return the index of each word in `names`, or -1 where it is not among them."""
    code = {word: index for index, word in enumerate(names)}
    return [code.get(word, -1) for word in words]


def group_words(
    found: Labelled, words: Sequence[str], config: DataConfig, noun: str
) -> tuple[list[str], dict[str, list[str]]]:
    """Return the group of each image, and sentences by their kind: warnings, notes, found.

    Raises UserError for doubtful spellings, or several sources of groups.
    """
    sources = {
        "--group-col": found.group is not None,
        "--group-regex": config.group_regex is not None,
        "--group-from": config.group_from != "none",
    }
    given = [flag for flag, is_given in sources.items() if is_given]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)}: groups are given twice; pass one")
    if not given:
        return list(found.image_id), {"warnings": [NO_GROUPS]}
    where = found.group_where
    groups = found.group
    if config.group_regex is not None:
        groups = groups_by_regex(config.group_regex, found.image_id)
        where = f"--group-regex {config.group_regex}: groups"
    elif groups is None:
        groups = groups_from_parent(found.image_id, words)
        where = "--group-from parent: groups"
    checked, notes = _checked_words(groups, config, what="groups", where=where, at=found.at)
    preview = [] if found.group is not None else [largest_groups(checked, noun)]
    return checked, {"notes": notes, "found": preview}


def attribute_of(found: Labelled, name: str, classes: Classes, config: DataConfig) -> Attribute:
    """Return an attribute, after a check that each class has a single value of it.

    Values are ordered as numbers, as declared, or, with --class-order, as they first occur along
    the classes; otherwise by alphabet.
    """
    where = f"{found.source}: column {name!r} (--attribute-cols)"
    cells = [tidy(word) for word in found.attributes[name]]
    values, ordered = _order(cells, found.categories.get(name))
    if (pair := same_values(cells)) is not None:
        raise UserError(
            f"{where}: labels {pair[0]!r} and {pair[1]!r} are the same number; write it one way"
        )
    if len(values) < 2:
        raise UserError(f"{where} has only {len(values)} value; leave it out")
    of_class: dict[int, tuple[str, int]] = {}
    for row, (label, cell) in enumerate(zip(classes.label, cells, strict=True)):
        first, first_row = of_class.setdefault(label, (cell, row))
        if cell != first:
            raise UserError(
                f"{where} has several values for one class: of class"
                f" {classes.names[label]!r}, {found.at(first_row)} has {first!r} and"
                f" {found.at(row)} has {cell!r}; correct the lines or leave the column out"
            )
    by_class = [of_class[label][0] for label in range(len(classes.names))]
    if config.class_order is not None and not ordered:
        values = list(dict.fromkeys(by_class))
        ordered = True
    codes = class_codes(by_class, values)
    return Attribute(name=name, values=tuple(values), of_class=tuple(codes), ordered=ordered)
