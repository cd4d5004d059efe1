"""The one preprocessing object: training, validation, out-of-fold and test pixels all pass through it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
import torch

from folds.images import Box, read_image

__all__ = ["Preprocess"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Preprocess:
    """Picture -> uint8 at the training size -> normalised float tensor."""

    width: int
    """Pixels."""
    height: int
    """Pixels."""
    mean: tuple[float, ...]
    """Per channel, of pixels in 0..1."""
    std: tuple[float, ...]
    """Per channel, of pixels in 0..1."""

    def load(self, path: str, box: Box | None = None) -> np.ndarray:
        """Read a picture, or what `box` cuts out, and return it resized, height x width x 3 uint8 RGB.

        Raises BadImage.
        """
        return self.resize(read_image(path, box))

    def resize(self, image: np.ndarray) -> np.ndarray:
        """Return the picture at the training size; the whole of it, so the aspect may change."""
        if image.shape[:2] == (self.height, self.width):
            return image
        shrinks = image.shape[0] > self.height or image.shape[1] > self.width
        method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        return cv2.resize(image, (self.width, self.height), interpolation=method)

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Return float32 N x 3 x H x W of uint8 N x H x W x 3, on the tensor's own device."""
        mean = torch.tensor(self.mean, device=images.device).view(1, 3, 1, 1) * 255
        std = torch.tensor(self.std, device=images.device).view(1, 3, 1, 1) * 255
        return (images.permute(0, 3, 1, 2).float() - mean) / std

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain data, for run.json."""
        return asdict(self)
