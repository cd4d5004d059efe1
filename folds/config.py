"""Settings of the data and the folds, shared by run_cv.py and run_audit.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from foldblend.errors import require
from foldblend.flags import flag

__all__ = ["AuditConfig", "DataConfig", "SplitConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Settings that select the images and their labels."""

    # The run key contains a hash of the data instead of these settings.
    GROUP: ClassVar = {"identity": False}

    data: str | None = flag(None, common=True)
    """Folder that holds train/train.csv and train/images/, or "demo" for synthetic faces.
    Default: $SM_CHANNEL_TRAIN, else the folder data/ if there is one, else the demo.
    """
    dataset: str | None = None
    """Your data reader, as module:name: a function from DataConfig to Manifest (see examples/)."""
    csv: str | None = flag(None, path=True, common=True)
    """CSV of labelled images, one row per image; replaces --data."""
    image_col: str = flag("image", csv_only=True, common=True)
    """Column of --csv with the path of the image."""
    label_col: str = flag("label", csv_only=True, common=True)
    """Column of --csv with the class, as words or numbers."""
    group_col: str | None = flag(None, csv_only=True, common=True)
    """Column of --csv with the group (person, patient, product) to keep in one fold.
    Default: every image is a separate group.
    """
    image_root: str | None = flag(None, csv_only=True, path=True, common=True)
    """Folder that the paths in --csv are relative to; default: the folder of the CSV."""
    test_csv: str | None = flag(None, csv_only=True, path=True, common=True)
    """CSV of test images, with their paths in the column --image-col."""
    attribute_cols: str | None = flag(None, csv_only=True)
    """Columns of --csv with properties that the class implies, comma-separated: gender,age.
    Reports score each property separately as well.
    """
    box_cols: str | None = flag(None, csv_only=True)
    """Four columns of --csv and --test-csv with a box to crop to, as x1,y1,x2,y2.
    Boxes are in pixels of the image after its EXIF rotation.
    """
    corrections: str | None = flag(None, path=True, common=True)
    """CSV of label corrections with the columns target, field and value; no file is changed.
    Reports give the score on the original labels as well.
    """
    old_from: float | None = None
    """Age in years from which people count as 60+, in training only (mask competition's layout)."""
    drop_ages: str | None = None
    """Ages to leave out of training but still score, such as 57-59 (mask competition's layout)."""
    merge_duplicates: bool = False
    """Merge groups that share an image (identical or nearly so)."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """What to do if a labelled image is missing or unreadable: stop with an error, or skip it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitConfig:
    """Settings of the folds."""

    folds: int | None = flag(None, common=True)
    """Number of folds; default: 5, or as in --fold-file."""
    repeats: int | None = flag(None, common=True)
    """Number of cross-validations, each with different folds; default: 1, or as in --fold-file."""
    fold_file: str | None = flag(None, identity=False, path=True, common=True)
    """Folds to use: a run's folder, or a CSV with columns image_id, fold and optionally repeat."""
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
