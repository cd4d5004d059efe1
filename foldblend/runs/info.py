"""What run.json holds, as types; docs/run.schema.json says the same for other programs."""

# No `from __future__ import annotations`: with it, Required would not be seen in __required_keys__.
from typing import Any, Literal, Required, TypedDict

__all__ = ["AttributeInfo", "DataInfo", "FoldInfo", "MemberInfo", "RunInfo"]


class AttributeInfo(TypedDict):
    """A property that each class implies (see `foldblend.attributes.Attribute`)."""

    name: str
    values: list[str]
    of_class: list[int]


class DataInfo(TypedDict, total=False):
    """The data set of a run."""

    name: Required[str]
    hash: str
    """Of labels and pixels."""
    train_ids_hash: str
    """Of the names of the images with labels, by which runs of one data set know each other."""
    num_images: int
    num_groups: int
    num_test: int
    is_demo: bool


class FoldInfo(TypedDict, total=False):
    """A fold's done.json."""

    repeat: int
    fold: int
    run_key: dict[str, str]
    environment: dict[str, Any]
    files: dict[str, str]
    """File name -> hash."""
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
    """Hash of its oof.parquet."""
    test: str
    run_key: dict[str, str]
    weight: float | None


class RunInfo(TypedDict, total=False):
    """run.json of a run, a TTA'd run or a blend. The required keys are those that every reader asks
    for.
    """

    format: Required[int]
    kind: Required[Literal["cv", "blend", "tta"]]
    status: Required[Literal["running", "done"]]
    data: Required[DataInfo]
    classes: Required[list[str]]
    """Names, in label order."""
    attributes: Required[list[AttributeInfo]]
    num_folds: Required[int]
    num_repeats: Required[int]
    metric: Required[str]
    leaks: Required[bool]
    """Whether groups are in several folds, so that the score is not honest."""
    views: Required[list[str]]
    """Of test-time augmentation; empty for a blend."""
    name: str
    run_key: dict[str, str]
    """Hashes that decide whether a run of the same name is this run."""
    answers: list[int | str]
    """What a submission writes for each class."""
    has_test: bool
    num_test_folds: int
    optimistic: bool
    """Whether epochs were chosen on the rows that are scored."""
    preprocess: dict[str, Any]
    started: int
    """Seconds since 1970, as `finished`."""
    finished: int
    seconds: float | None
    """Of compute, over all folds."""
    folds_hash: str
    files: dict[str, str]
    folds: list[FoldInfo]
    about: str
    notes: list[str]
    # Of runs made of runs.
    passes: int
    """Forward passes that one test image takes."""
    picture_seconds: float | None
    device: str | None
    members: list[MemberInfo]
    test_is_mean: bool
    of: dict[str, str]
    """The run that views were added to: name, oof (hash)."""
    tta: dict[str, Any]
    policy: dict[str, Any]
    parts: list[dict[str, Any]]
