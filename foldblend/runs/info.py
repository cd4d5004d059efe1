"""Types of the content of run.json; docs/run.schema.json is generated from them."""

# `from __future__ import annotations` would hide Required from __required_keys__.
from typing import Any, Literal, Required, TypedDict

__all__ = [
    "AttributeInfo",
    "DataInfo",
    "FoldInfo",
    "FormInfo",
    "MemberInfo",
    "PreprocessInfo",
    "RegionInfo",
    "ResizeInfo",
    "RunInfo",
    "ScaledDecodeInfo",
]


class AttributeInfo(TypedDict, total=False):
    """A property that each class implies (see `foldblend.attributes.Attribute`)."""

    name: Required[str]
    values: Required[list[str]]
    of_class: Required[list[int]]
    ordered: bool
    """Whether the values have an order."""


class DataInfo(TypedDict, total=False):
    """The data set of a run."""

    name: Required[str]
    hash: str
    """Hash of labels and pixels."""
    train_ids_hash: str
    """Hash of the names of the labelled images; equal for runs on the same data set."""
    num_images: int
    num_groups: int
    group_name: str
    """What a group is, in the singular; "group" where the key is absent."""
    num_test: int
    is_demo: bool


class FoldInfo(TypedDict, total=False):
    """A finished fold (its done.json)."""

    repeat: int
    fold: int
    run_key: dict[str, str]
    environment: dict[str, Any]
    padded: bool
    """Whether short batches were filled up; they were not where the key is absent."""
    files: dict[str, str]
    """Hash of each file of the fold, by file name."""
    score: float | None
    seconds: float
    train_images_per_s: float
    infer_images_per_s: float | None
    micro_batch: int
    epoch: int
    l2: float


class MemberInfo(TypedDict, total=False):
    """A member of a blend."""

    name: Required[str]
    oof: Required[str]
    """Hash of the member's oof.parquet."""
    test: str
    run_key: dict[str, str]
    weight: float | None


class FormInfo(TypedDict):
    """Columns of submission.csv; submission_ids.csv lists the rows where they are given."""

    id_column: str
    columns: list[str]
    """Names of the columns of values."""
    kind: Literal["labels", "probabilities"]
    classes: list[int]
    """For probabilities, the class of each column of values."""


class RegionInfo(TypedDict, total=False):
    """The part of each image that is used, before it is resized."""

    kind: str
    """whole, box (boxes of the data), center or face."""
    boxes: str
    """Place of the boxes: x1, y1, x2, y2 in pixels of the upright image."""
    rounding: str
    """Rounding of boxes to whole pixels."""
    share: float
    """Width and height of a centre crop, and of the crop where no face is found, as a share."""


class ScaledDecodeInfo(TypedDict):
    """Decoding at a fraction of the size, by the largest factor that leaves `at_least`."""

    formats: list[str]
    """Formats that are decoded so, by Pillow's names."""
    factors: list[int]
    at_least: list[int]
    """Width and height of the upright image."""
    of_boxed_images: bool


class ResizeInfo(TypedDict):
    """Filters of the resize to `stored_size`, by OpenCV's names."""

    equal: str
    """The filter for an image that has this size."""
    a_side_shrinks: str
    otherwise: str


class PreprocessInfo(TypedDict, total=False):
    """All steps from an image file to the model's input, in their order.

    Runs of earlier versions have the first six keys only.
    """

    width: Required[int]
    height: Required[int]
    """Size of the model's input."""
    mean: Required[list[float]]
    std: Required[list[float]]
    crop_pct: Required[float]
    decode: Required[str]
    library: str
    """The library that decodes and resizes."""
    version: str
    color: str
    """Order of the channels."""
    grey: str
    alpha: str
    """Treatment of transparency. Where it is dropped, the stored colours stay."""
    bits: str
    orientation: str
    frame: str
    """The frame or page that is used of several."""
    scaled_decode: ScaledDecodeInfo
    region: RegionInfo
    stored_size: list[int]
    """Width and height that the region is resized to."""
    aspect: str
    resize: ResizeInfo
    crop: str
    """Part of the stored size that is the model's input; offsets are rounded down."""
    value_range: list[int]
    normalize: str
    layout: str


class RunInfo(TypedDict, total=False):
    """Content of run.json of a run, a TTA'd run or a blend.

    Required keys are those that every reader of a run needs.
    """

    format: Required[int]
    kind: Required[Literal["cv", "blend", "tta"]]
    status: Required[Literal["running", "done"]]
    data: Required[DataInfo]
    classes: Required[list[str]]
    """Names of the classes, in label order."""
    attributes: Required[list[AttributeInfo]]
    num_folds: Required[int]
    num_repeats: Required[int]
    metric: Required[str]
    """Name of the metric of the run."""
    leaks: Required[bool]
    """Whether groups are split between folds, so that the score is too optimistic."""
    views: Required[list[str]]
    """Views of test-time augmentation; empty for a blend."""
    fewest_repeats: int
    """Repeats of the member of a blend that has fewest; its rows stand for further repeats too."""
    name: str
    run_key: dict[str, str]
    """Hashes that identify the run: another run of the same name has other hashes."""
    answers: list[int | str]
    """Value that a submission has for each class."""
    ordered: bool
    """Whether the classes have an order; unknown where the key is absent."""
    submission: FormInfo
    """Form of submission.csv; the columns are ImageID and ans where the key is absent."""
    has_test: bool
    num_test_folds: int
    optimistic: bool
    """Whether epochs were chosen on the rows that are scored, so that the score is optimistic."""
    preprocess: PreprocessInfo
    started: int
    """Start time in seconds since 1970; `finished` is the end time."""
    finished: int
    seconds: float | None
    """Seconds of computation, over all folds."""
    padded: bool
    """Whether short batches are filled up for logits that are kept; they are not where absent."""
    folds_hash: str
    files: dict[str, str]
    folds: list[FoldInfo]
    about: str
    notes: list[str]
    # Keys of blends and TTA'd runs only.
    costs: list[list[float]]
    """Cost of each predicted class (column) for each true class (row); only for mean_cost."""
    passes: int
    """Forward passes per test image, over all models and views."""
    picture_seconds: float | None
    """Seconds per test image, over all models and views; null where not measured."""
    device: str | None
    members: list[MemberInfo]
    test_is_mean: bool
    of: dict[str, str]
    """The run that was augmented: its name and the hash of its oof.parquet."""
    tta: dict[str, Any]
    policy: dict[str, Any]
    parts: list[dict[str, Any]]
