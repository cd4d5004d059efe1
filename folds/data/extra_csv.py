"""Reader of --extra-csv: labelled images for training only, beside any data set."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from foldblend.errors import UserError, counted, did_you_mean, listed
from foldblend.files import home
from folds.config import DataConfig
from folds.data.generic import checked_table, read_labelled_table, read_user_table
from folds.data.labelled import SPELLING_CURES, Labelled, class_codes, group_words, spelt
from folds.data.manifest import Manifest, check_files
from folds.data.words import check_spellings

__all__ = ["check_extra", "with_extra"]

FLAG = "--extra-csv"
# A column of this name is taken where the layout has no flag that names one.
GROUP = "group"


def _own_config(config: DataConfig) -> tuple[DataConfig, list[str]]:
    """Return the settings with which the table is read, and notes; its groups are optional.

    What a class implies is known from the data set, so the table need not have it.
    """
    assert config.extra_csv is not None
    columns = read_user_table(home(config.extra_csv), config).cells.columns
    column = config.group_col
    notes = []
    if column is not None and column not in columns:
        column = None
        notes.append(
            f"{config.extra_csv} ({FLAG}): no column {config.group_col!r} (--group-col), so each"
            " image is a group of its own"
        )
    elif column is None and config.group_regex is None and config.group_from == "none":
        column = GROUP if GROUP in columns else None
    return dataclasses.replace(config, group_col=column, attribute_cols=None), notes


def check_extra(config: DataConfig) -> None:
    """Raise UserError for a table without the columns that it needs."""
    if config.extra_csv is not None:
        checked_table(home(config.extra_csv), _own_config(config)[0])


def _labels(found: Labelled, manifest: Manifest, config: DataConfig, source: str) -> list[int]:
    """Return the class of each image; raise UserError for words that are no class."""
    words = spelt(found.word, manifest.classes, config)
    codes = class_codes(words, manifest.classes)
    if all(code < 0 for code in codes):
        # Tables of competitions have the number of a class instead of its name.
        codes = class_codes(words, [str(one) for one in manifest.answers])
    unknown = [row for row, code in enumerate(codes) if code < 0]
    if unknown:
        word = words[unknown[0]]
        more = f" ({len(unknown) - 1} more like it)" if len(unknown) > 1 else ""
        cure = did_you_mean(word, manifest.classes)
        raise UserError(
            f"{source}: {word!r} in {found.at(unknown[0])}{more} is no class of the data, which has"
            f" {listed(manifest.classes, most=9)}{cure or '; correct or remove the row'}"
        )
    return codes


def _groups(
    found: Labelled, words: Sequence[str], manifest: Manifest, config: DataConfig, source: str
) -> tuple[list[str], dict[str, list[str]]]:
    """Return the group of each image as the data write it, and sentences by their kind.

    Raises UserError for a group that the data write in another way: its images would be trained on
    where the group is held out.
    """
    groups, texts = group_words(found, words, config, manifest.group_name)
    if found.group is None and config.group_regex is None and config.group_from == "none":
        return groups, texts
    known = manifest.train["group"].drop_duplicates().tolist()
    groups = spelt(groups, known, config)
    if not config.ids_as_written:
        check_spellings(
            [*known, *groups],
            where=f"{source}: groups",
            at=lambda row: "the data" if row < len(known) else found.at(row - len(known)),
            cures=SPELLING_CURES,
        )
    return groups, texts


def _check_ids(found: Labelled, known: Sequence[str], source: str) -> None:
    """Raise UserError for an image that the data have as well, or that occurs twice."""
    data = {*known}
    both = [row for row, name in enumerate(found.image_id) if name in data]
    if both:
        name = found.image_id[both[0]]
        more = f" ({len(both) - 1} more like it)" if len(both) > 1 else ""
        raise UserError(
            f"{source}: image {name!r} in {found.at(both[0])}{more} is in the data as well; remove"
            " the row, or write another path to a different image"
        )
    for what, names in (
        ("image", found.image_id),
        ("file", [os.path.normpath(one) for one in found.path]),
    ):
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise UserError(f"{source}: {what} {listed(twice)} occurs more than once; keep one row")


def with_extra(manifest: Manifest, config: DataConfig) -> Manifest:
    """Return the data set with the images of --extra-csv for training only.

    Raises
    ------
    UserError
        For a table that cannot be read, an image that the data have as well, or an unknown class.
    """
    if config.extra_csv is None:
        return manifest
    file = home(config.extra_csv)
    source = f"{config.extra_csv} ({FLAG})"
    own, notes = _own_config(config)
    found = read_labelled_table(file, own)
    _check_ids(found, manifest.train["image_id"].tolist(), source)
    label_N = np.asarray(_labels(found, manifest, own, source), np.int64)
    words = [manifest.classes[label] for label in label_N]
    groups, texts = _groups(found, words, manifest, own, source)
    table = pd.DataFrame(
        {
            "image_id": np.asarray(found.image_id, dtype=object),
            "path": [str(one) for one in found.path],
            "group": np.asarray(groups, dtype=object),
            "label": label_N,
            "label_raw": label_N,
        }
    ).assign(**found.extra)
    if ("box" in manifest.train) != ("box" in table):
        raise UserError(f"{source}: the data have boxes; name the columns with --box-cols")
    check_files(table, source)
    num = counted(len(table), "image")
    return dataclasses.replace(
        manifest,
        train_only=table.sort_values("image_id", ignore_index=True),
        notes=(*manifest.notes, *notes, *texts.get("notes", []), *found.notes),
        found=(*manifest.found, f"{source}: {num} for training only", *found.found),
    )
