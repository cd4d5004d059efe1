"""The one preprocessing object: training, validation, out-of-fold and test pixels all pass through
it.
"""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
import torch

from foldblend.images import Box, read_image

__all__ = ["Preprocess"]


@functools.cache
def _constants(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation on the device: made once, since every copy from the CPU would stall a
    GPU.
    """
    with torch.inference_mode(False):  # training uses them too
        return (
            torch.tensor(mean, device=device).view(1, 3, 1, 1) * 255,
            torch.tensor(std, device=device).view(1, 3, 1, 1) * 255,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Preprocess:
    """Image -> uint8 at the training size -> normalised float tensor."""

    width: int
    """Pixels."""
    height: int
    """Pixels."""
    mean: tuple[float, ...]
    """Per channel, of pixels in 0..1."""
    std: tuple[float, ...]
    """Per channel, of pixels in 0..1."""
    crop_pct: float = 1.0
    """Share of an image's width and height that a crop shows; the rest is the margin for random
    crops.
    """
    decode: str = "scaled"
    """Whether a much larger JPEG is decoded at a fraction of its size ("scaled") or not
    ("full").
    """

    @property
    def stored_size(self) -> tuple[int, int]:
        """Width and height in pixels of a whole image, of which a crop has the training size."""
        return round(self.width / self.crop_pct), round(self.height / self.crop_pct)

    def load(self, path: str, box: Box | None = None, content: str | None = None) -> np.ndarray:
        """Read an image, or what `box` cuts out, and return it resized, margin included: H x W x 3
        uint8 RGB.

        Raises BadImage, also for a file that no longer has the content hash `content`.
        """
        at_least = self.stored_size if self.decode == "scaled" else None
        return self.resize(read_image(path, box, at_least=at_least, content=content))

    def resize(self, image: np.ndarray) -> np.ndarray:
        """Return the image at the stored size; the whole of it, so the aspect may change."""
        width, height = self.stored_size
        if image.shape[:2] == (height, width):
            return image
        shrinks = image.shape[0] > height or image.shape[1] > width
        method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        return cv2.resize(image, (width, height), interpolation=method)

    def crop(self, images: Any, rng: np.random.Generator | None = None) -> Any:
        """Return the training size out of stored images [N x] H x W x 3: their centre, or where
        `rng` puts it.
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
        """Return float32 N x 3 x H x W of uint8 N x H x W x 3, on the tensor's own device."""
        return self.standardise(images.permute(0, 3, 1, 2).float())

    def standardise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return pixels N x 3 x H x W in 0..255 with the backbone's mean and deviation taken
        out.
        """
        mean, std = _constants(self.mean, self.std, pixels.device)
        return (pixels - mean).div_(std)

    def pictures(self, pixels: torch.Tensor) -> np.ndarray:
        """Return N x H x W x 3 uint8 images of standardised pixels N x 3 x H x W."""
        mean, std = _constants(self.mean, self.std, pixels.device)
        images = (pixels.detach() * std + mean).round().clamp(0, 255).to(torch.uint8)
        return np.asarray(images.permute(0, 2, 3, 1).cpu().numpy())

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain data, for run.json."""
        return asdict(self)
