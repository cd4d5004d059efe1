"""Settings of the data and the folds, shared by run_cv.py and run_audit.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from foldblend.errors import require
from foldblend.flags import flag, one_part
from foldblend.levels import parse_range, parse_window
from foldblend.limits import MAX_PIXELS, MAX_ROWS, check_limits

__all__ = ["LAYOUTS", "AuditConfig", "DataConfig", "SplitConfig"]

LAYOUTS = {
    "table": "a table",
    "class-folders": "a folder per class",
    "metadata": "a folder with metadata",
    "mask": "the mask competition's layout",
}
"""Layouts of data and what they are in words; `folds.data.source` has their readers."""
TABLES = ("table", "metadata")
ANY_CLASSES = ("table", "class-folders", "metadata")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Settings that select the images and their labels."""

    # The run key contains a hash of the data instead of these settings.
    GROUP: ClassVar = {"identity": False}

    data: str | None = flag(None, common=True)
    """Images: a folder per class (with or without train/ and test/ above them); a table (.csv,
    .tsv, .jsonl, .parquet); a folder with metadata.csv; the mask competition's layout; or "demo".
    Default: $SM_CHANNEL_TRAIN, else the folder data/ if there is one, else the demo.
    """
    dataset: str | None = flag(None, parts=one_part)
    """Your data reader, as module:name: a function from DataConfig to Manifest (see examples/)."""
    csv: str | None = flag(None, path=True, common=True)
    """Table of labelled images, one row per image; the same as --data with a table."""
    test: str | None = flag(None, path=True, common=True)
    """Test images: a table, a folder, or a pattern such as 'test/*.jpg'.
    Labels of test images are used for one score at the end, never for training.
    """
    test_csv: str | None = flag(None, path=True)
    """Table of test images; the same as --test with a table."""
    layout: Literal["auto", "table", "class-folders", "metadata", "mask"] = "auto"
    """How to read --data, where several readings fit; auto: by its files."""
    image_col: str = flag("image", layouts=TABLES, common=True)
    """Column of the table with the path of the image."""
    label_col: str = flag("label", layouts=TABLES, common=True)
    """Column of the table with the class, as words or numbers."""
    group_col: str | None = flag(None, layouts=TABLES, common=True)
    """Column of the table with the group (person, patient, product) to keep in one fold.
    Without groups, every image is a separate group.
    """
    group_regex: str | None = flag(None, layouts=ANY_CLASSES, common=True)
    """Group as a regular expression on the image's path: 'IMG_(\\d+)' takes the number."""
    group_from: Literal["none", "parent"] = flag("none", layouts=ANY_CLASSES)
    """parent: the group is the name of the image's folder."""
    label_from: Literal["auto", "top", "parent"] = flag("auto", layouts=("class-folders",))
    """Folder that is the class: the top one, or the image's own (parent), where both could be."""
    image_root: str | None = flag(None, layouts=TABLES, path=True)
    """Folder that the paths in the table are relative to.
    Paths are looked up there, then beside the table that has them.
    """
    test_image_root: str | None = flag(None, path=True)
    """Folder that the paths in the table of test images are relative to.
    Default: --image-root, then the folder of that table.
    """
    test_image_col: str | None = None
    """Column of the table of test images with the path; default: as --image-col."""
    test_group_col: str | None = None
    """Column of the table of test images with the group, for predictions and scores by group.
    Default: as --group-col, if the table has it.
    """
    image_suffix: str | None = flag(None, layouts=ANY_CLASSES)
    """Suffix of the images, such as .jpg: added to names in a table, required in folders."""
    sep: str | None = None
    """Separator of the tables; default: comma, semicolon, tab or | as the header shows."""
    encoding: str | None = None
    """Encoding of the tables, such as cp949; default: UTF-8."""
    class_order: str | None = flag(None, layouts=ANY_CLASSES)
    """Order of the classes, as mild,moderate,severe or a text file with a class per line.
    Quadratic kappa and --ordinal need it for words. Default: by value, or by alphabet.
    """
    merge_case: bool = flag(False, layouts=ANY_CLASSES)
    """Make one class or group of words that differ in letter case only."""
    # Earlier versions took all words as they are, so their runs go on with that.
    ids_as_written: bool = flag(False, before=True, layouts=ANY_CLASSES)
    """Take labels and groups as they are written, also where 1 and 1.0, or a and A, are two."""
    group_name: str | None = None
    """What a group is, for reports, such as patient; default: group."""
    data_name: str | None = None
    """Name of the data set, for reports and run folders; default: the folder's or file's name."""
    sample_submission: str | None = flag(None, path=True)
    """CSV that shows the columns, rows and order of submission.csv, with labels or probabilities.
    Default: the image column of the test table and the label column.
    """
    attribute_cols: str | None = flag(None, layouts=TABLES)
    """Columns of the table with properties that the class implies, comma-separated: gender,age.
    Reports score each property separately as well.
    """
    box_cols: str | None = flag(None, layouts=TABLES)
    """Four columns of the tables with a box to crop to, as x1,y1,x2,y2.
    Boxes are in pixels of the image after its EXIF rotation.
    """
    extra_csv: str | None = flag(None, path=True)
    """Table of further labelled images for training only, with the columns of --csv.
    They join the training rows of every fold and are never scored.
    """
    corrections: str | None = flag(None, path=True, common=True)
    """CSV of label corrections with the columns target, field and value; no file is changed.
    Reports give the score on the original labels as well.
    """
    old_from: float | None = flag(None, layouts=("mask",))
    """Age in years from which people count as 60+, in training only (mask competition's layout)."""
    drop_ages: str | None = flag(None, layouts=("mask",))
    """Ages to leave out of training but still score, such as 57-59 (mask competition's layout)."""
    merge_duplicates: bool = False
    """Merge groups that share an image (identical or nearly so)."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """What to do if a labelled image, or one of --unlabelled, is missing or unreadable: stop with
    an error, or skip it.
    """
    # Earlier versions took the upper 8 of 16 bits and dropped transparency; their runs keep that.
    pixel_range: str = flag("auto", before="off")
    """Values that become black and white in images of more than 8 bits, as LOW,HIGH.
    Images with decimal values need it. auto: the bit depth (8, 10, 12, 14 or 16) that holds the
    values of all training images, or that of DICOM headers; off: the upper 8 of 16 bits.
    """
    dicom_window: str = "full"
    """Values of DICOM images: full (--pixel-range), file (window of each file) or CENTER,WIDTH."""
    alpha_background: Literal["white", "grey", "black", "drop"] = flag("white", before="drop")
    """Background that transparent pixels are laid over; drop: keep their colours in the file."""
    max_rows: int = MAX_ROWS
    """Most rows of a table; one with more is an error, before it fills the memory."""
    max_pixels: int = MAX_PIXELS
    """Most pixels of an image; a larger one is an error, before it is decoded."""

    def __post_init__(self) -> None:
        check_limits(self.max_rows, self.max_pixels)
        parse_range(self.pixel_range)
        parse_window(self.dicom_window)


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitConfig:
    """Settings of the folds."""

    folds: int | None = flag(None, common=True)
    """Number of folds; default: 5, or as in --fold-file."""
    repeats: int | None = flag(None, common=True)
    """Number of cross-validations, each with different folds; default: 1, or as in --fold-file."""
    fold_file: str | None = flag(None, identity=False, path=True, common=True)
    """Folds to use: a run's folder, or a CSV with image_id, fold (-1: training only) and repeat."""
    split: Literal["stratified-group", "group", "stratified", "random"] = "stratified-group"
    """How to split: stratified-group (even classes, whole groups), group (whole groups),
    stratified (even classes) or random. The last two leak groups between folds: only to compare.
    """
    split_seed: int = 0
    """Seed of the folds; separate from --seed, so that runs with different seeds share folds."""

    def __post_init__(self) -> None:
        require(
            self.folds is None or self.folds >= 2,
            f"--folds {self.folds}: cross-validation needs at least 2",
        )
        require(
            self.repeats is None or self.repeats >= 1, f"--repeats {self.repeats}: pass 1 or more"
        )
        require(self.split_seed >= 0, f"--split-seed {self.split_seed}: pass 0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class PageConfig:
    """Settings of the audit's page."""

    page: str | None = None
    """HTML file to write; default: audit_<data set>.html in the current folder."""
    quick: bool = False
    """Skip the two slow checks: the same group under two names, and swapped labels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditConfig:
    """All settings of run_audit.py."""

    data: DataConfig = field(default_factory=DataConfig)
    """Images and labels."""
    split: SplitConfig = field(default_factory=SplitConfig)
    """Folds of the cross-validation."""
    page: PageConfig = field(default_factory=PageConfig)
    """The page to write and the checks to run."""
