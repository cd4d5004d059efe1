"""The manifest: a checked table of images, groups and labels, made by every reader."""

from __future__ import annotations

import dataclasses
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
from foldblend.levels import AS_BEFORE, Levels
from foldblend.runs.folder import ids_hash
from foldblend.runs.submission import SubmissionForm
from folds.data.image_table import ImageTable
from folds.data.kept_columns import names_in, table_of_columns

__all__ = ["ImageTable", "Manifest", "build_manifest", "check_files", "extra_columns", "slug"]

TRAIN_COLUMNS = ["image_id", "path", "group", "label", "label_raw"]
TEST_COLUMNS = ["image_id", "path"]


def extra_columns(train: pd.DataFrame) -> list[str]:
    """Return the columns that a reader added to the training table, such as age in years."""
    return [
        str(name) for name in train if name not in {*TRAIN_COLUMNS, "label_fit", "box", "content"}
    ]


def slug(text: str) -> str:
    """Return a text as part of a file name, with letters, digits and . _ + - only.

    Examples
    --------
    >>> slug("my faces (new)")
    'my-faces-new-'
    """
    return re.sub(r"[^\w.+-]+", "-", text).lstrip(".+-")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A checked data set as tables; `build_manifest` makes it."""

    name: str
    """Short name of the data set, for run folders and messages."""
    root: Path
    """Folder (or CSV file) it was read from."""
    train: pd.DataFrame
    """Labelled images with image_id, path, group, label and label_raw, sorted by image_id."""
    train_only: pd.DataFrame | None = None
    """Labelled images for training only, which are never scored, or None.

    Columns are those of `train`, and `held_with`: the groups of `train` with which the image is
    held out (its own group, and those that have the same image).
    """
    test: pd.DataFrame | None
    """Test images with image_id and path, in the order of their table, or None.

    An optional column `label` has the class where it is known and -1 elsewhere. It is for a score
    at the end, never for training.
    """
    unlabelled: pd.DataFrame | None = None
    """Images without labels that models label for training (--unlabelled), or None.

    Columns are image_id, path, group, content, `held_with` as of `train_only`, and maybe box.
    """
    classes: tuple[str, ...]
    """Name of each class, in label order."""
    answers: tuple[int | str, ...]
    """Value of each class in a submission."""
    attributes: tuple[Attribute, ...] = ()
    """Properties that the class implies; reports score each of them."""
    is_demo: bool = False
    """True for the embedded demo set of synthetic images."""
    warnings: tuple[str, ...] = ()
    """Warnings of the reader, one line each."""
    notes: tuple[str, ...] = ()
    """Changes to labels and groups, one line each, for the report."""
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Other names of groups, such as a person's id, with all groups of that name."""
    codes: Mapping[str, Callable[[str, str], int]] = field(default_factory=dict)
    """For attributes that files do not write as their values: a function (text, where) -> value."""
    group_name: str = "group"
    """What a group is, in the singular: "patient", "product"."""
    ordered: bool = False
    """Whether the classes have an order, which quadratic kappa needs."""
    submission: SubmissionForm | None = None
    """Columns, rows and order of submission.csv; None for ImageID and ans."""
    found: tuple[str, ...] = ()
    """Sentences on what was recognised in the data, for the log."""
    levels: Levels = AS_BEFORE
    """Treatment of values of more than 8 bits, and of transparency."""
    needs_levels: bool = False
    """Whether there are such images, whose pixels depend on `levels`."""
    columns: pd.DataFrame | None = None
    """Columns that blends may learn from, as columns.parquet has them, or None.

    No training sees them, so they are in no hash.
    """

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def labelled(self) -> pd.DataFrame:
        """All labelled images: those of `train`, then those for training only."""
        if self.train_only is None:
            return self.train
        alone = self.train_only.reindex(columns=self.train.columns)
        return pd.concat([self.train, alone], ignore_index=True)

    @property
    def tables(self) -> tuple[pd.DataFrame, ...]:
        """The tables that are there, whose images a run reads."""
        every = (self.train, self.test, self.train_only, self.unlabelled)
        return tuple(one for one in every if one is not None)

    def with_tables(self, tables: Sequence[pd.DataFrame]) -> Manifest:
        """Return the manifest with other tables in place of those of `tables`."""
        left = iter(tables)
        return dataclasses.replace(
            self,
            train=next(left),
            test=None if self.test is None else next(left),
            train_only=None if self.train_only is None else next(left),
            unlabelled=None if self.unlabelled is None else next(left),
        )

    @property
    def label_to_learn(self) -> np.ndarray:
        """The class of each row of `labelled` in training, or -1 for rows left out."""
        table = self.labelled
        return table["label_fit" if "label_fit" in table else "label"].to_numpy()

    def learns(self, chosen_N: np.ndarray) -> np.ndarray:
        """Return which rows of `labelled` a model sees that trains on the chosen rows of `train`.

        An image for training only is left out with any of the groups that it is held out with.
        """
        if self.train_only is None:
            return chosen_N
        away = {*self.train["group"][~chosen_N]}
        free = [away.isdisjoint(groups) for groups in self.train_only["held_with"]]
        return np.concatenate([chosen_N, np.array(free, bool)])

    def free_unlabelled(self, chosen_N: np.ndarray) -> np.ndarray:
        """Return which rows of `unlabelled` may be learned with the chosen rows of `train`."""
        assert self.unlabelled is not None
        away = {*self.train["group"][~chosen_N]}
        free = [away.isdisjoint(groups) for groups in self.unlabelled["held_with"]]
        return np.array(free, bool)

    def unlabelled_hash(self) -> str | None:
        """Return the hash of the images without labels and what they are held out with, or None."""
        if self.unlabelled is None:
            return None
        told = [name for name in self.unlabelled if name != "path"]
        return hashlib.blake2b(
            json.dumps(self.unlabelled[told].to_numpy().tolist()).encode(), digest_size=16
        ).hexdigest()

    def training_rows(self, chosen_N: np.ndarray) -> pd.DataFrame:
        """Return the rows to train on, with their labels for training, without rows left out."""
        learnt = self.label_to_learn
        chosen = self.learns(chosen_N) & (learnt >= 0)
        return self.labelled.assign(label=learnt)[chosen].reset_index(drop=True)

    def num_training_rows(self, num_folds: int) -> int:
        """Return how many rows a model trains on, for folds of equal size."""
        num_alone = 0 if self.train_only is None else len(self.train_only)
        return len(self.train) * (num_folds - 1) // num_folds + num_alone

    def train_only_hash(self) -> str | None:
        """Return the hash of the images for training only and their labels, or None."""
        if self.train_only is None:
            return None
        columns = (*TRAIN_COLUMNS, "label_fit", "box", "content", "held_with")
        told = [name for name in columns if name in self.train_only and name != "path"]
        return hashlib.blake2b(
            json.dumps(self.train_only[told].to_numpy().tolist()).encode(), digest_size=16
        ).hexdigest()

    def overlay_hash(self) -> str | None:
        """Return the hash of labels changed by corrections or for training, or None."""
        columns = [name for name in ("label", "label_fit") if name in self.train]
        if columns == ["label"] and (self.train["label"] == self.train["label_raw"]).all():
            return None
        return hashlib.blake2b(
            json.dumps(self.train[columns].to_numpy().tolist()).encode(), digest_size=16
        ).hexdigest()

    def ids_hash(self) -> str:
        """Return the hash of the labelled images' ids, which runs on one data set share."""
        return ids_hash(self.train["image_id"])

    def labels_hash(self) -> str:
        """Return the hash of ids, groups, original labels, classes, test ids and boxes."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(json.dumps(self.classes).encode())
        for column in ("image_id", "group", "label_raw"):
            digest.update(json.dumps(self.train[column].tolist()).encode())
        digest.update(
            json.dumps([] if self.test is None else self.test["image_id"].tolist()).encode()
        )
        # Without boxes nothing is added, so that hashes from before boxes existed stay valid.
        for table in (self.train, self.test):
            if table is not None and "box" in table:
                digest.update(json.dumps(table["box"].tolist()).encode())
        return digest.hexdigest()


def _check_ids(table: pd.DataFrame, source: str) -> None:
    twice = table.loc[table["image_id"].duplicated(), "image_id"].unique()
    if len(twice):
        raise UserError(
            f"{source}: image id {listed(twice)} occurs more than once; keep one row (and box)"
        )


def check_files(table: pd.DataFrame, source: str) -> None:
    """Raise UserError for images of a table that are missing."""
    # A Path takes much longer than the look at the disk, and there may be millions of images.
    missing = [path for path in table["path"] if not os.path.isfile(path)]  # noqa: PTH113
    if missing:
        raise UserError(
            f"{source}: {len(missing)} of {len(table)} images are missing: {listed(missing)}; "
            "restore the files, remove the rows, or pass --on-bad-image skip for labelled ones"
        )


def build_manifest(table: ImageTable | None = None, /, **columns: Any) -> Manifest:
    """Check the result of a reader and return it as a Manifest.

    Rows are sorted by image_id, so that results do not depend on the order of files.

    Parameters
    ----------
    table
        Result of the reader.
    columns
        Fields of an ImageTable as keywords, instead of `table`.

    Returns
    -------
    Manifest
        The checked data set.

    Raises
    ------
    UserError
        For a duplicate id or file, a missing file, no rows, or an empty test set.

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


def _check_text(found: ImageTable, source: str) -> None:
    """Raise UserError for a name that is not valid Unicode, as files of old archives have."""
    tested = [] if found.test is None else [image_id for image_id, _ in found.test]
    for word in (*found.image_id, *map(str, found.path), *tested, *found.group, *found.classes):
        try:
            str(word).encode()
        except UnicodeEncodeError:
            raise UserError(
                f"{source!a}: {word!a} is not valid UTF-8 text; rename the file or folder,"
                " or correct the cell"
            ) from None


def _checked(found: ImageTable) -> Manifest:
    source = str(found.root)
    _check_text(found, source)
    if not len(found.image_id):
        raise UserError(
            f"{source}: no labelled image found; pass data with images to --data or --csv"
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
    check_files(train, source)
    # The same file under two spellings of its path would count twice.
    files = train["path"].map(os.path.normpath)
    if files.duplicated().any():
        twice = train.loc[files.duplicated(keep=False), "image_id"]
        raise UserError(f"{source}: {listed(twice)} are the same file; keep one row per image")
    test_table = None
    if found.test is not None:
        if not len(found.test):
            raise UserError(
                f"{source}: the test set has no image; add images or remove the test set"
            )
        test_table = pd.DataFrame(
            [(one, str(file)) for one, file in found.test], columns=TEST_COLUMNS
        )
        test_table = test_table.assign(**found.test_extra)
        if "label" in test_table:
            test_table["label"] = test_table["label"].astype(np.int64)
            assert test_table["label"].between(-1, len(found.classes) - 1).all()
        _check_ids(test_table, f"{source} (test set)")
        check_files(test_table, f"{source} (test set)")
    columns = table_of_columns(found)
    kept = (
        [] if columns is None else [f"columns kept for blends (--meta-cols): {names_in(columns)}"]
    )
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
        group_name=found.group_name,
        ordered=found.ordered,
        submission=found.submission,
        notes=tuple(found.notes),
        found=(*found.found[:1], *kept, *found.found[1:]),
        columns=columns,
    )
