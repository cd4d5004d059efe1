"""Result of a reader of data: one value per image and column, not checked yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from foldblend.attributes import Attribute
from foldblend.runs.submission import SubmissionForm

__all__ = ["Cells", "ImageTable"]

Cells = Sequence[Any] | np.ndarray
"""Cells of a column, one per image."""


@dataclass(frozen=True, kw_only=True)
class ImageTable:
    """Result of a reader, for `build_manifest` to check; columns have one value per image.

    Examples
    --------
    >>> from pathlib import Path
    >>> files = sorted(Path(data).glob("train/images/*/normal.jpg"))
    >>> table = fb.ImageTable(
    ...     name="bare", root=Path(data), image_id=[f.parent.name for f in files], path=files,
    ...     group=[f.parent.name for f in files], label=[i % 2 for i in range(len(files))],
    ...     classes=["even", "odd"], answers=["even", "odd"])
    >>> fb.build_manifest(table).classes
    ('even', 'odd')
    """

    name: str
    """Short name of the data set."""
    root: Path
    """Folder (or CSV file) it was read from."""
    image_id: Sequence[str]
    """Unique id of each labelled image."""
    path: Sequence[Path]
    """File of each labelled image."""
    group: Sequence[str]
    """Group of each image (person, patient, product); a group is never split between folds."""
    label: Sequence[int]
    """Class of each image, as its index in `classes`."""
    test: Sequence[tuple[str, Path]] | None = None
    """(image_id, path) of each test image, in the order of their table."""
    classes: Sequence[str]
    """Name of each class."""
    answers: Sequence[int | str]
    """Value of each class in a submission."""
    attributes: Sequence[Attribute] = ()
    """Properties that the class implies."""
    is_demo: bool = False
    """True for the embedded demo set."""
    warnings: Sequence[str] = ()
    """Warnings of the reader, one line each."""
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Other names of groups (see Manifest)."""
    codes: Mapping[str, Callable[[str, str], int]] = field(default_factory=dict)
    """Readers of attribute values (see Manifest)."""
    group_name: str = "group"
    """What a group is, in the singular: "patient", "product"."""
    ordered: bool = False
    """Whether the classes have an order, which quadratic kappa needs."""
    submission: SubmissionForm | None = None
    """Columns, rows and order of submission.csv; None for ImageID and ans."""
    notes: Sequence[str] = ()
    """Changes that the reader made to labels and groups, one line each (see Manifest)."""
    found: Sequence[str] = ()
    """What the reader recognised, one line each (see Manifest)."""
    extra: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Further columns of the labelled images, such as `box` (see foldblend.images)."""
    test_extra: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Further columns of the test images, such as `label` (see Manifest)."""
    columns: Mapping[str, Cells] = field(default_factory=dict)
    """Columns that a blend may learn from (--meta-cols), such as age: texts, numbers or None.

    None of them may contain the class, or imply it.
    """
    test_columns: Mapping[str, Cells] = field(default_factory=dict)
    """The same columns of the test images, as far as they are known."""
