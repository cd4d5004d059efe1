"""Types of the key "preprocess" of run.json: all steps from a file to the model's input."""

# `from __future__ import annotations` would hide Required from __required_keys__.
from typing import Annotated, Literal, Required, TypedDict

from foldblend.runs.checked import between, length

__all__ = ["PreprocessInfo", "RegionInfo", "ResizeInfo", "ScaledDecodeInfo"]

# A larger size is no size of an image.
MOST_PIXELS = 100_000

# As --img-size takes it.
Side = Annotated[int, between(16, 4096)]
Size = Annotated[int, between(1, MOST_PIXELS)]
Mean = Annotated[float, between(-1e6, 1e6)]
# A value that images are divided by.
Std = Annotated[float, between(1e-6, 1e6)]


class RegionInfo(TypedDict, total=False):
    """The part of each image that is used, before it is resized."""

    kind: str
    """whole, box (boxes of the data), center or face."""
    boxes: str
    """Place of the boxes: x1, y1, x2, y2 in pixels of the upright image."""
    rounding: str
    """Rounding of boxes to whole pixels."""
    share: Annotated[float, between(0, 1)]
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

    width: Required[Side]
    height: Required[Side]
    """Size of the model's input."""
    mean: Required[Annotated[list[Mean], length(3, 3)]]
    std: Required[Annotated[list[Std], length(3, 3)]]
    crop_pct: Required[Annotated[float, between(0.001, 10)]]
    decode: Required[str]
    library: str
    """The library that decodes and resizes."""
    version: str
    color: str
    """Order of the channels."""
    grey: str
    pixel_range: Annotated[list[float], length(2, 2)] | None
    """Values that become 0 and 255 in images of more than 8 bits; null: the upper 8 of 16 bits.

    The value of a DICOM image is the stored one after rescaling.
    """
    range_is_decided: bool
    """Whether `pixel_range` was decided on the training images, all of integers, and not typed.
    Images of decimal values are then refused.
    """
    dicom_window: str
    """Values of DICOM images that become black and white: those of `pixel_range` ("full"), those of
    the window in each file ("file"), or those of the window with this centre and width.
    """
    background: Literal["white", "grey", "black"] | None
    """Background of transparent pixels: white (255), grey (128) or black; null: dropped."""
    alpha: str
    """Treatment of transparency. Where it is dropped, the stored colours stay."""
    bits: str
    orientation: str
    frame: str
    """The frame or page that is used of several."""
    scaled_decode: ScaledDecodeInfo
    region: RegionInfo
    stored_size: Annotated[list[Size], length(2, 2)]
    """Width and height that the region is resized to."""
    aspect: str
    resize: ResizeInfo
    crop: str
    """Part of the stored size that is the model's input; offsets are rounded down."""
    value_range: list[int]
    normalize: str
    layout: str
