"""The one checked table that every data source becomes: images, groups and labels."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from foldblend.attributes import Attribute
from foldblend.errors import UserError, listed
from foldblend.runs.folder import ids_hash

__all__ = ["ImageTable", "Manifest", "build_manifest", "extra_columns", "slug"]

TRAIN_COLUMNS = ["image_id", "path", "group", "label", "label_raw"]
TEST_COLUMNS = ["image_id", "path"]


def extra_columns(train: pd.DataFrame) -> list[str]:
    """Return the columns of a training table that its reader added, such as age in years."""
    return [
        str(name) for name in train if name not in {*TRAIN_COLUMNS, "label_fit", "box", "content"}
    ]


def slug(text: str) -> str:
    """Return the text as part of a file name: letters, digits and . _ + - only."""
    return re.sub(r"[^\w.+-]+", "-", text).lstrip(".+-")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A data set as tables; made by `build_manifest`, which checks it."""

    name: str
    """Short name of the data set, used for run folders and messages."""
    root: Path
    """Folder (or CSV file) it was read from."""
    train: pd.DataFrame
    """image_id, path, group, label, label_raw; one row a labelled image, sorted by image_id."""
    test: pd.DataFrame | None
    """image_id, path in the order of the submission; None where there is no test set."""
    classes: tuple[str, ...]
    """Name of each class, in label order."""
    answers: tuple[int | str, ...]
    """What a submission writes for each class."""
    attributes: tuple[Attribute, ...] = ()
    """Properties implied by the class, scored apart in reports."""
    is_demo: bool = False
    """True for the embedded, drawn data set."""
    warnings: tuple[str, ...] = ()
    """What the reader passed over, one line each."""
    notes: tuple[str, ...] = ()
    """What was done to the labels, one line each; for the report."""
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Other names of groups, such as a person's id; a name that several share lists them all."""
    codes: Mapping[str, Callable[[str, str], int]] = field(default_factory=dict)
    """(text, where) -> value of an attribute, for those that are written otherwise than their
    values.
    """

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def label_to_learn(self) -> np.ndarray:
        """The class that training takes each row for, -1 where it leaves the row out; no score goes
        by it.
        """
        return self.train["label_fit" if "label_fit" in self.train else "label"].to_numpy()

    def training_rows(self, chosen_N: np.ndarray) -> pd.DataFrame:
        """Return the chosen rows as a model is to learn them: relabelled or left out where that was
        asked for.
        """
        learnt = self.label_to_learn
        return self.train.assign(label=learnt)[chosen_N & (learnt >= 0)].reset_index(drop=True)

    def overlay_hash(self) -> str | None:
        """Hash of what the labels became by corrections or for training; None where they stayed
        raw.
        """
        columns = [name for name in ("label", "label_fit") if name in self.train]
        if columns == ["label"] and (self.train["label"] == self.train["label_raw"]).all():
            return None
        return hashlib.blake2b(
            json.dumps(self.train[columns].to_numpy().tolist()).encode(), digest_size=16
        ).hexdigest()

    def ids_hash(self) -> str:
        """Hash of the names of the images with labels, by which runs of one data set know each
        other.
        """
        return ids_hash(self.train["image_id"])

    def labels_hash(self) -> str:
        """Hash of everything but the pixels: ids, groups, raw labels, classes and test ids."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(json.dumps(self.classes).encode())
        for column in ("image_id", "group", "label_raw"):
            digest.update(json.dumps(self.train[column].tolist()).encode())
        digest.update(
            json.dumps([] if self.test is None else self.test["image_id"].tolist()).encode()
        )
        for table in (self.train, self.test):
            if table is not None and "box" in table:
                digest.update(json.dumps(table["box"].tolist()).encode())
        return digest.hexdigest()


def _check_ids(table: pd.DataFrame, source: str) -> None:
    twice = table.loc[table["image_id"].duplicated(), "image_id"].unique()
    if len(twice):
        raise UserError(
            f"{source}: image id {listed(twice)} occurs more than once; keep one row (and box) each"
        )


def _check_files(table: pd.DataFrame, source: str) -> None:
    missing = [path for path in table["path"] if not Path(path).is_file()]
    if missing:
        raise UserError(
            f"{source}: {len(missing)} of {len(table)} images are missing: {listed(missing)}; "
            "put the files back or take the rows out"
        )


@dataclass(frozen=True, kw_only=True)
class ImageTable:
    """What a reader found: images with labels as plain columns of length N; `build_manifest` checks
    it.
    """

    name: str
    """Short name of the data set."""
    root: Path
    """Folder (or CSV file) it was read from."""
    image_id: Sequence[str]
    path: Sequence[Path]
    group: Sequence[str]
    """What must never be split between folds."""
    label: Sequence[int]
    """Places in `classes`."""
    test: Sequence[tuple[str, Path]] | None = None
    """(image_id, path) of the test set, in the order of the submission."""
    classes: Sequence[str]
    answers: Sequence[int | str]
    """What a submission writes for each class."""
    attributes: Sequence[Attribute] = ()
    is_demo: bool = False
    warnings: Sequence[str] = ()
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    codes: Mapping[str, Callable[[str, str], int]] = field(default_factory=dict)
    extra: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Further columns of the labelled images, such as `box` (see foldblend.images)."""
    test_extra: Mapping[str, Sequence[Any]] = field(default_factory=dict)


def build_manifest(table: ImageTable | None = None, /, **columns: Any) -> Manifest:
    """Check what a reader found and return it as a Manifest.

    Rows are put in the order of their image_id, so that nothing downstream depends on file order.

    Parameters
    ----------
    table
        What was found.
    columns
        The same as keywords, instead of the table.

    Raises
    ------
    UserError
        For a doubled id, a missing file, no rows at all, or an empty test set.

    Examples
    --------
    >>> from pathlib import Path
    >>> files = sorted(Path(data).glob("train/images/*/normal.jpg"))
    >>> manifest = fb.build_manifest(
    ...     name="bare", root=Path(data), image_id=[f.parent.name for f in files], path=files,
    ...     group=[f.parent.name for f in files], label=[i % 2 for i in range(len(files))],
    ...     test=None, classes=["even", "odd"], answers=["even", "odd"])
    >>> manifest.num_classes, len(manifest.train)
    (2, 12)
    """
    return _checked(ImageTable(**columns) if table is None else table)


def _checked(found: ImageTable) -> Manifest:
    source = str(found.root)
    if not len(found.image_id):
        raise UserError(
            f"{source}: no labelled image found; point --data or --csv at one with rows"
        )
    train = pd.DataFrame(
        {
            "image_id": np.asarray(found.image_id, dtype=object),
            "path": [str(one) for one in found.path],
            "group": np.asarray(found.group, dtype=object),
            "label": np.asarray(found.label, dtype=np.int64),
        }
    )
    train["label_raw"] = train["label"]
    train = train[TRAIN_COLUMNS].assign(**found.extra)
    assert train["label"].between(0, len(found.classes) - 1).all()
    _check_ids(train, source)
    _check_files(train, source)
    files = train["path"].map(os.path.normpath)
    if files.duplicated().any():
        twice = train.loc[files.duplicated(keep=False), "image_id"]
        raise UserError(f"{source}: {listed(twice)} are the same file; keep one row an image")
    test_table = None
    if found.test is not None:
        if not len(found.test):
            raise UserError(
                f"{source}: the test set lists no image; fill it, or remove it to run without"
            )
        test_table = pd.DataFrame(
            [(one, str(file)) for one, file in found.test], columns=TEST_COLUMNS
        )
        test_table = test_table.assign(**found.test_extra)
        _check_ids(test_table, f"{source} (test set)")
        _check_files(test_table, f"{source} (test set)")
    return Manifest(
        name=found.name,
        root=found.root,
        train=train.sort_values("image_id", ignore_index=True),
        test=test_table,
        classes=tuple(found.classes),
        answers=tuple(found.answers),
        attributes=tuple(found.attributes),
        is_demo=found.is_demo,
        warnings=tuple(found.warnings),
        aliases=dict(found.aliases),
        codes=dict(found.codes),
    )
