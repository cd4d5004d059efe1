"""Which data and which folds: the flags that run_cv.py and run_audit.py share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from foldblend.errors import require
from foldblend.flags import flag

__all__ = ["AuditConfig", "DataConfig", "SplitConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    GROUP: ClassVar = {"identity": False}  # the hash of the data stands for them

    data: str | None = None
    """Root of the competition's layout, or "demo". Default: $SM_CHANNEL_TRAIN, data/, or the demo
    set.
    """
    dataset: str | None = None
    """Your own reader as module:name: the data flags -> a manifest (see examples/)."""
    csv: str | None = flag(None, path=True)
    """Any CSV of labelled images instead of the layout."""
    image_col: str = flag("image", csv_only=True)
    """Column of --csv with the image's path."""
    label_col: str = flag("label", csv_only=True)
    """Column of --csv with the class, words or numbers."""
    group_col: str | None = flag(None, csv_only=True)
    """Column of --csv with the person, patient or product; default: every image for itself."""
    image_root: str | None = flag(None, csv_only=True, path=True)
    """Folder that the paths in --csv start from; default: the CSV's own."""
    test_csv: str | None = flag(None, csv_only=True, path=True)
    """CSV with the test images in --image-col."""
    attribute_cols: str | None = flag(None, csv_only=True)
    """Columns of --csv, by commas, with what the class implies, such as gender,age: scored apart
    too.
    """
    box_cols: str | None = flag(None, csv_only=True)
    """Columns of --csv and --test-csv with a box in pixels of the upright image, as x1,y1,x2,y2,
    to crop to.
    """
    corrections: str | None = flag(None, path=True)
    """CSV of corrections (target, field, value) laid over the labels; raw ones are kept and scored
    too.
    """
    old_from: float | None = None
    """Years from which people count as 60+ in training only (competition's layout)."""
    drop_ages: str | None = None
    """Ages such as 57-59 that are left out of training only (competition's layout)."""
    merge_duplicates: bool = False
    """Make groups that share an image (equal or nearly so) one group."""
    on_bad_image: Literal["stop", "skip"] = "stop"
    """What to do about a labelled image that is missing or unreadable."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitConfig:
    folds: int | None = None
    """Number of folds; default 5, or those of --fold-file."""
    repeats: int | None = None
    """How often the whole cross-validation is done, each time with other folds; default 1."""
    fold_file: str | None = flag(None, identity=False, path=True)
    """Folds from another run (its folder) or any CSV with image_id, fold and perhaps repeat."""
    split: Literal["stratified-group", "group", "stratified", "random"] = "stratified-group"
    """What folds keep: classes even and groups whole, groups whole, classes even, or neither.
    The last two let people leak between folds and exist for comparison only."""
    split_seed: int = 0
    """Seed of the folds, apart from --seed so that several seeds share folds."""

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
    page: str | None = None
    """HTML file to write; default: audit_<data set>.html in this folder."""
    quick: bool = False
    """Leave out the search for one person under two names and for swapped labels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditConfig:
    data: DataConfig = field(default_factory=DataConfig)
    """Where images and labels come from."""
    split: SplitConfig = field(default_factory=SplitConfig)
    """Who is held out when."""
    page: PageConfig = field(default_factory=PageConfig)
    """What is written."""
