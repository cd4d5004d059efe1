"""Preprocessing of images: one object for training, validation, out-of-fold and test images."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
import torch

from foldblend.images import AS_BEFORE, SCALED, Box, Levels, Size, read_with_size
from foldblend.levels import Background
from foldblend.limits import MAX_PIXELS
from foldblend.runs.preprocess_info import PreprocessInfo, RegionInfo

__all__ = ["Preprocess", "region_of"]

# What cv2.IMREAD_COLOR does with transparency, for run.json.
DROPPED = (
    "dropped; colour TIFF with unassociated alpha: colours are multiplied by alpha;"
    " GIF: transparent pixels have the background colour"
)
LAID = "laid over {}; dropped in grey TIFF, BMP and JPEG 2000"
UPPER = "8; the upper 8 of 16"
RANGE = "8; values of more bits: {:g} to {:g} become 0 to 255, rounded and clipped"
LEVELS = ("pixel_range", "dicom_window", "background")


@functools.cache
def _constants(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation on the device.

    They are made only once, since each copy from the CPU would stall the GPU.
    """
    # Training uses the same tensors, and inference tensors have no autograd.
    with torch.inference_mode(False):
        return (
            torch.tensor(mean, device=device).view(1, 3, 1, 1) * 255,
            torch.tensor(std, device=device).view(1, 3, 1, 1) * 255,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Preprocess:
    """Steps from an image file to a normalised float tensor at the training size."""

    width: int
    """Training width in pixels."""
    height: int
    """Training height in pixels."""
    mean: tuple[float, ...]
    """Mean per channel, of pixels in 0..1."""
    std: tuple[float, ...]
    """Standard deviation per channel, of pixels in 0..1."""
    crop_pct: float = 1.0
    """Share of width and height that a crop has; the rest is the margin for random crops."""
    decode: str = "scaled"
    """The mode "scaled" decodes large JPEGs at a fraction of their size, "full" at full size."""
    pixel_range: tuple[float, float] | None = None
    """Values that become 0 and 255 in images of more than 8 bits; None: the upper 8 of 16 bits."""
    dicom_window: str = "full"
    """Values of DICOM images that are used (see `foldblend.levels.Levels`)."""
    background: Background | None = None
    """Background of transparent pixels; None: their colours in the file are used."""
    range_is_decided: bool = False
    """Whether `pixel_range` was decided on images of integers, so that others are refused."""

    @property
    def levels(self) -> Levels:
        """Treatment of values of more than 8 bits, and of transparency."""
        return Levels(self.pixel_range, self.dicom_window, self.background, self.range_is_decided)

    @property
    def stored_size(self) -> tuple[int, int]:
        """Width and height in pixels of a stored image, whose crops have the training size."""
        return round(self.width / self.crop_pct), round(self.height / self.crop_pct)

    def load(
        self,
        path: str,
        box: Box | None = None,
        content: str | None = None,
        *,
        checked: bool = True,
    ) -> np.ndarray:
        """Read an image, or the part in `box`, and return it at the stored size.

        Parameters
        ----------
        path
            Image file.
        box
            x1, y1, x2, y2 in pixels of the upright image; None for the whole image.
        content
            Hash that the file must have; None to leave it unchecked.
        checked
            Whether the file was searched for damage before.

        Returns
        -------
        np.ndarray
            H x W x 3 uint8 RGB, including the margin for random crops.

        Raises
        ------
        BadImage
            If the file cannot be read, or does not have the hash.
        """
        return self.load_with_size(path, box, content, checked=checked)[0]

    def load_with_size(
        self,
        path: str,
        box: Box | None = None,
        content: str | None = None,
        *,
        checked: bool = True,
        max_pixels: int = MAX_PIXELS,
    ) -> tuple[np.ndarray, Size]:
        """Return an image as `load` does, and the width and height of the upright file.

        `max_pixels` applies to files that were not checked before.
        """
        at_least = self.stored_size if self.decode == "scaled" else None
        image, size = read_with_size(
            path,
            box,
            at_least=at_least,
            content=content,
            checked=checked,
            max_pixels=max_pixels,
            levels=self.levels,
        )
        return self.resize(image), size

    def resize(self, image: np.ndarray) -> np.ndarray:
        """Return the whole image at the stored size; its aspect ratio may change."""
        width, height = self.stored_size
        if image.shape[:2] == (height, width):
            return image
        shrinks = image.shape[0] > height or image.shape[1] > width
        method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        return cv2.resize(image, (width, height), interpolation=method)

    def crop(self, images: Any, rng: np.random.Generator | None = None) -> Any:
        """Return crops of the training size from stored images, [N x] H x W x 3.

        They are central, or with `rng` at one random place for all images.
        """
        left = images.shape[-2] - self.width
        top = images.shape[-3] - self.height
        if not (left or top):
            return images
        x, y = (
            (left // 2, top // 2)
            if rng is None
            else (rng.integers(left + 1), rng.integers(top + 1))
        )
        return images[..., y : y + self.height, x : x + self.width, :]

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Return normalised float32 N x 3 x H x W from uint8 N x H x W x 3, on the same device."""
        return self.standardise(images.permute(0, 3, 1, 2).float())

    def standardise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return pixels N x 3 x H x W in 0..255, minus the mean and divided by the deviation."""
        mean, std = _constants(self.mean, self.std, pixels.device)
        return (pixels - mean).div_(std)

    def to_images(self, pixels: torch.Tensor) -> np.ndarray:
        """Return N x H x W x 3 uint8 images from standardised pixels N x 3 x H x W."""
        mean, std = _constants(self.mean, self.std, pixels.device)
        images = (pixels.detach() * std + mean).round().clamp(0, 255).to(torch.uint8)
        return np.asarray(images.permute(0, 2, 3, 1).cpu().numpy())

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain data; `Preprocess(**settings)` is the inverse.

        Levels of earlier versions are left out, as those versions had no settings for them.
        """
        found = asdict(self)
        if self.levels == AS_BEFORE:
            for name in LEVELS:
                del found[name]
        if not self.range_is_decided:
            del found["range_is_decided"]
        return found

    def of_pixels(self, *, needs_levels: bool) -> dict[str, Any]:
        """Return the settings that decide the pixels of images, for the names of cache entries.

        Parameters
        ----------
        needs_levels
            Whether there are images of more than 8 bits, or with transparency.
        """
        # Whether the range was typed decides which images are refused, but no pixel.
        told = dataclasses.replace(self, range_is_decided=False)
        plain = dataclasses.replace(told, pixel_range=None, dicom_window="full", background=None)
        return (told if needs_levels else plain).to_dict()

    def record(self, region: RegionInfo) -> PreprocessInfo:
        """Return the settings and all that they leave open, for run.json.

        The record is enough to make the same pixels without foldblend (see docs/training.md).

        Parameters
        ----------
        region
            Which part of each image is used (see `region_of`).
        """
        return PreprocessInfo(
            width=self.width,
            height=self.height,
            mean=list(self.mean),
            std=list(self.std),
            crop_pct=self.crop_pct,
            decode=self.decode,
            library="opencv",
            version=cv2.__version__,
            color="RGB",
            grey="repeated in three channels",
            pixel_range=None if self.pixel_range is None else [*self.pixel_range],
            range_is_decided=self.range_is_decided,
            dicom_window=self.dicom_window,
            background=self.background,
            alpha=DROPPED if self.background is None else LAID.format(self.background),
            bits=UPPER if self.pixel_range is None else RANGE.format(*self.pixel_range),
            orientation="upright by EXIF, except AVIF",
            frame="first",
            scaled_decode={
                "formats": ["JPEG"] if self.decode == "scaled" else [],
                "factors": list(SCALED),
                "at_least": list(self.stored_size),
                "of_boxed_images": False,
            },
            region=region,
            stored_size=list(self.stored_size),
            aspect="stretched",
            resize={"equal": "none", "a_side_shrinks": "area", "otherwise": "cubic"},
            crop="center",
            value_range=[0, 255],
            normalize="(value - 255 * mean) / (255 * std)",
            layout="NCHW float32",
        )


def region_of(crop: str, share: float, *, has_boxes: bool) -> RegionInfo:
    """Return the record of which part of each image is used, for run.json.

    Parameters
    ----------
    crop, share
        The settings --crop and --crop-share.
    has_boxes
        Whether the images have boxes, of the data or made by --crop.
    """
    if not has_boxes:
        return RegionInfo(kind="whole")
    kind = "box" if crop == "auto" else crop
    region = RegionInfo(
        kind=kind, boxes="column box of pictures.parquet", rounding="outwards, inside the image"
    )
    return region if kind == "box" else region | RegionInfo(share=share)
