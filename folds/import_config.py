"""Settings of import_run.py."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from foldblend.cli import check_name
from foldblend.errors import require
from foldblend.flags import check_lengths, expand_home
from foldblend.limits import MAX_ROWS, check_limits
from foldblend.scores.by_group import GROUP, check_pool, check_pool_is_used
from foldblend.scores.metrics import check_metric
from folds.config import DataConfig

__all__ = ["ImportConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportConfig:
    """Settings of an import: the predictions, the data that they are of, and where it is written.

    Those of the data have the names and texts of DataConfig.
    """

    oof: str | None = None
    """Table of out-of-fold predictions: one row per image (and repeat), and one column per class
    with the name of the class.
    """
    test: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FILE [FILE ...]")] = ()
    """Tables of predictions of the test images, one for each fold, such as test_fold_*.csv, or one
    with their mean; then nothing is fitted with this run where test images are blended.
    """
    labels: str | None = None
    """Labelled images: a table, a folder of images, "demo", or the folder of a run on the same
    data, whose folds are then used. Images need not be there for a table.
    """
    name: str | None = None
    """Name of the run."""
    output: str = "outputs"
    """Folder in which the run is written."""
    folds: str | None = None
    """Folds of the images: a run's folder, or a CSV with columns image_id, fold and optionally
    repeat. Default: the column "fold" of --oof, or the folds of the run in --labels.
    """
    kind: Literal["auto", "probabilities", "logits"] = "auto"
    """What the predictions are; auto: probabilities, if all rows sum to 1, and an error if not."""
    id_col: str | None = None
    """Column of the predictions with the image; default: image_id, or as --image-col."""
    columns: Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="CLASS [CLASS ...]")] = None
    """Classes of the columns of numbers, in their order, for columns that do not have the names of
    the classes: a name each, or a text file with a class per line.
    """
    metric: str = "f1_macro"
    """Metric of the report; see run_cv.py --help."""
    score_by: Literal["image", "group"] = "image"
    """What the main score counts: images, or groups, whose images' predictions are pooled."""
    group_pool: str = "mean"
    """How a group's images become one prediction: mean, max or noisy-or."""
    optimistic: bool = False
    """Mark the score as too high: epochs or settings were chosen on the rows that are scored."""
    image_col: str = "image"
    """Column of --labels with the image."""
    label_col: str = "label"
    """Column of --labels with the class."""
    group_col: str | None = None
    """Column of --labels with the group (person, patient, product) that is in one fold."""
    group_regex: str | None = None
    """Group as a regular expression on the image's path: 'IMG_(\\d+)' takes the number."""
    group_from: Literal["none", "parent"] = "none"
    """parent: the group is the name of the image's folder."""
    group_name: str | None = None
    """What a group is, for reports, such as patient; default: group."""
    attribute_cols: str | None = None
    """Columns of --labels with properties that the class implies, comma-separated: gender,age."""
    class_order: str | None = None
    """Order of the classes, as mild,moderate,severe or a text file with a class per line."""
    merge_case: bool = False
    """Make one class or group of words that differ in letter case only."""
    ids_as_written: bool = False
    """Take labels and groups as they are written, also where 1 and 1.0, or a and A, are two."""
    test_csv: str | None = None
    """Table of the test images: their order, and labels for one score at the end."""
    test_image_col: str | None = None
    """Column of --test-csv with the image; default: as --image-col."""
    test_group_col: str | None = None
    """Column of --test-csv with the group, for scores by group; default: as --group-col."""
    sample_submission: str | None = None
    """CSV that shows the columns, rows and order of submission.csv."""
    data_name: str | None = None
    """Name of the data set, for reports; default: the name of --labels."""
    sep: str | None = None
    """Separator of the tables; default: comma, semicolon, tab or | as the header shows."""
    encoding: str | None = None
    """Encoding of the tables, such as cp949; default: UTF-8."""
    max_rows: int = MAX_ROWS
    """Most rows of a table; one with more is an error, before it fills the memory."""
    overwrite: bool = False
    """Replace an imported run of this name that was made from other predictions."""
    safe_csv: bool = False
    """Put an apostrophe before file and class names in submission and predictions that a
    spreadsheet would take for a formula (they start with = + - @).
    """
    page: bool = True
    """Write report.html too."""
    report: Literal["short", "full"] = "short"
    """What is printed at the end: a first screen, or all of report.txt."""

    def __post_init__(self) -> None:
        expand_home(self, "oof", "test", "labels", "folds", "output", "test_csv")
        expand_home(self, "sample_submission")
        check_lengths(self, "output")
        for name, what in (
            ("oof", "the table of out-of-fold predictions"),
            ("labels", "the table of labelled images, or the folder of a run"),
            ("name", "a name of the run"),
        ):
            require(getattr(self, name), f"--{name}: missing; pass {what}")
        check_name(self.name)
        check_metric(self.metric)
        check_pool(self.group_pool)
        check_pool_is_used(self.group_pool, by_group=self.score_by == GROUP)
        check_limits(self.max_rows, None)

    @property
    def data(self) -> DataConfig:
        """The settings of the data, as readers of data take them."""
        known = {one.name for one in dataclasses.fields(DataConfig)} - {"test"}
        own = [one.name for one in dataclasses.fields(self) if one.name in known]
        return DataConfig(data=self.labels, **{name: getattr(self, name) for name in own})
