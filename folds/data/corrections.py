"""Label corrections, read from a CSV; the files of the data set stay unchanged.

The CSV has the columns target, field and value. The target is an image (with or without the suffix
of its name), a group or another id of a group. Examples:

    000225,gender,female                  a value of an attribute, by its name
    001009,age,<30                        or as the data set writes it (here 29 would do as well)
    000225,gender,flip                    the other one of two values
    cat_07.jpg,label,dog                  the class
    000020,swap,incorrect_mask normal     two images of a group exchange their labels

Every line must match an image, and no two lines may set the same field of the same image.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from foldblend.errors import UserError, counted, did_you_mean, listed
from foldblend.tables import read_text_table
from foldblend.words import tidy
from folds.data.manifest import Manifest, extra_columns

__all__ = ["apply_corrections"]

SWAP = "swap"
LABEL = "label"
FLIP = "flip"


def _matches(manifest: Manifest, target: str, where: str) -> np.ndarray:
    """Return the row numbers that a target matches."""
    train = manifest.train
    # Copies of a data set may differ in the format of an image, so the suffix is optional.
    stems = train["image_id"].str.rsplit(".", n=1).str[0]
    for names in (train["image_id"], train["group"], stems, train["image_id"].map(tidy)):
        rows = np.flatnonzero(names == target)
        if len(rows):
            return rows
    groups = manifest.aliases.get(target, ())
    if len(groups) > 1:
        raise UserError(
            f"{where}: {target} is an id of {counted(len(groups), manifest.group_name)}"
            f" ({listed(groups)}); write the {manifest.group_name} (folder) instead"
        )
    if not groups:
        near = did_you_mean(
            target, [*manifest.aliases, *train["group"].unique(), *train["image_id"]]
        )
        raise UserError(
            f"{where}: {target!r} matches no image, {manifest.group_name} or id"
            f"{near or '; correct or remove the line'}"
        )
    return np.flatnonzero(train["group"] == groups[0])


def _with_value(manifest: Manifest, label: int, attribute: int, code: int) -> int | None:
    """Return the class that differs from `label` in one attribute, or None.

    None means that no class or several classes have these values.
    """
    wanted = [one.of_class[label] for one in manifest.attributes]
    if wanted[attribute] == code:
        return label
    wanted[attribute] = code
    values_C = list(zip(*[one.of_class for one in manifest.attributes], strict=True))
    like = [index for index, values in enumerate(values_C) if values == tuple(wanted)]
    return like[0] if len(like) == 1 else None


def _new_label(manifest: Manifest, label: int, field: str, value: str, where: str) -> int:
    """Return the class that a line of the CSV gives to a row of class `label`."""
    if field == LABEL:
        if value not in manifest.classes:
            near = did_you_mean(value, manifest.classes)
            raise UserError(
                f"{where}: no class"
                f" {value!r}{near or f'; there are {listed(manifest.classes, most=9)}'}"
            )
        return manifest.classes.index(value)
    names = [one.name for one in manifest.attributes]
    if field not in names:
        known = [LABEL, SWAP, *names]
        raise UserError(
            f"{where}: unknown field"
            f" {field!r}{did_you_mean(field, known) or f'; use {listed(known, most=9)}'}"
        )
    index = names.index(field)
    attribute = manifest.attributes[index]
    if value == FLIP:
        if len(attribute.values) != 2:
            raise UserError(
                f"{where}: {field} has {len(attribute.values)} values, so it cannot be flipped;"
                " write a value"
            )
        code = 1 - attribute.of_class[label]
    elif value in attribute.values:
        code = attribute.values.index(value)
    elif field in manifest.codes:
        code = manifest.codes[field](value, where)
    else:
        raise UserError(
            f"{where}: no {field} {value!r}; there are {listed(attribute.values, most=9)}"
        )
    found = _with_value(manifest, label, index, code)
    if found is None:
        raise UserError(
            f"{where}: no class, or more than one, equals {manifest.classes[label]!r} except for"
            f" {field} {value!r}; write the class, with the field {LABEL}"
        )
    return found


def _swap_rows(manifest: Manifest, rows: np.ndarray, value: str, where: str) -> np.ndarray:
    """Return the two rows of a swap line, given by file names without suffix."""
    stems = [PurePosixPath(manifest.train["image_id"].iloc[row]).stem for row in rows]
    names = value.split()
    found = [
        int(row) for name in names for row, stem in zip(rows, stems, strict=True) if stem == name
    ]
    if len(names) != 2 or len(found) != 2 or found[0] == found[1]:
        raise UserError(
            f"{where}: swap needs two images of this {manifest.group_name}, from"
            f" {listed(stems, most=9)}; not {value!r}"
        )
    return np.array(found)


def _can_hold(column: pd.Series, value: str) -> bool:
    """Return False for text in a numeric column, such as an age group in a column of years."""
    return not is_numeric_dtype(column) or bool(pd.notna(pd.to_numeric(value, errors="coerce")))


def apply_corrections(manifest: Manifest, file: str | Path) -> Manifest:
    """Return the manifest with corrected labels; label_raw and all files stay unchanged.

    A note of the manifest gives the number of changed labels.

    Raises
    ------
    UserError
        For a line that matches nothing, has an unknown field or value, or contradicts another line.
    """
    columns = ["target", "field", "value"]
    table = read_text_table(file).filled(columns)
    train = manifest.train.copy()
    label_N = train["label"].to_numpy().copy()
    # For each row, the fields that are set and the lines that set them.
    lines_of: dict[int, dict[str, int]] = {}
    cells = table[columns].map(tidy)
    lines = [
        (int(line), str(target), str(field), str(value))
        for line, (target, field, value) in zip(cells.index, cells.to_numpy(), strict=True)
    ]
    # Swaps come first, because they exchange the original labels; other lines then correct
    # attributes of either image.
    for line, target, field, value in sorted(lines, key=lambda one: (one[2] != SWAP, one[0])):
        where = f"{file}: line {line}"
        rows = _matches(manifest, target, where)
        if field == SWAP:
            rows = _swap_rows(manifest, rows, value, where)
            label_N[rows] = label_N[rows[::-1]]
        for row in rows:
            given = lines_of.setdefault(int(row), {})
            image = train["image_id"].iloc[row]
            earlier = given.setdefault(field, line)
            if earlier != line:
                raise UserError(
                    f"{file}: lines {earlier} and {line} both set {field} of {image}; keep one"
                )
            # A class determines all attributes, so it cannot be combined with other fields.
            if LABEL in given and len(given) > 1:
                other = next(name for name in given if name != LABEL)
                both = " and ".join(str(one) for one in sorted((given[LABEL], given[other])))
                raise UserError(
                    f"{file}: lines {both} set both the class and {other} of {image}; keep one"
                )
            if field != SWAP:
                label_N[row] = _new_label(manifest, int(label_N[row]), field, value, where)
        if field in extra_columns(train) and value != FLIP:
            # The exact value is then unknown, and --old-from and --drop-ages ignore the row.
            if not _can_hold(train[field], value):
                train[field] = train[field].astype(float)
                value = "nan"
            train.loc[train.index[rows], field] = pd.Series([value]).astype(train[field].dtype)[0]
    train["label"] = label_N
    changed = int((label_N != train["label_raw"]).sum())
    change = "changes" if len(lines) == 1 else "change"
    note = (
        f"{file}: {counted(len(lines), 'correction')} {change} {changed:,} of {len(train):,} labels"
    )
    return dataclasses.replace(manifest, train=train, notes=(*manifest.notes, note))
