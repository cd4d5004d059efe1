"""Training augmentation of whole batches on their device: one resampling and one linear map.

Its ranges are those of the augmentation of single images (`pipeline.data.augment.Recipe`).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipeline.data.augment import RECIPES, Recipe
from pipeline.data.colours import change_colours
from pipeline.data.preprocess import Preprocess

__all__ = ["DeviceAugmentation", "device_augmentation"]


def _matrices(num: int, *entries: Any) -> np.ndarray:
    """Return num x 3 x 3 matrices from nine entries, row by row: numbers or arrays of `num`."""
    return np.stack([np.broadcast_to(one, num).astype(float) for one in entries], axis=1).reshape(
        num, 3, 3
    )


@dataclass(frozen=True)
class DeviceAugmentation:
    """Flip, affine transform, random crop and colour jitter of a whole batch on its device.

    All geometry is one resampling by torch, and all colours are one linear map per image, which
    also standardises the pixels. Random numbers are drawn on the CPU from the caller's generator,
    and copied without waiting for the device.
    """

    recipe: Recipe | None
    """Probabilities and ranges; None only crops."""
    preprocess: Preprocess
    """Training size, and mean and deviation of the pixels."""
    memory_format: torch.memory_format = torch.contiguous_format
    """Memory layout of the result: that of the model."""

    def __call__(self, images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Return augmented, standardised pixels at the training size, N x 3 x height x width.

        `images` are N x H x W x 3 uint8 at the stored size.
        """
        height, width = images.shape[1:3]
        target = (self.preprocess.width, self.preprocess.height)
        pixels = images.permute(0, 3, 1, 2).float()
        if self.recipe is not None or (width, height) != target:
            theta = self.placement(len(pixels), (width, height), rng)
            theta_N23 = torch.from_numpy(theta).to(pixels.device, non_blocking=True)
            pixels = torch.nn.functional.grid_sample(
                pixels,
                _grid(theta_N23, *target),
                padding_mode="reflection",
                align_corners=False,
            )
        if self.recipe is None:
            pixels = self.preprocess.standardise(pixels)
            return pixels.contiguous(memory_format=self.memory_format)
        factors_3N, turns_N = self.colours(len(pixels), rng)
        return change_colours(pixels, factors_3N, turns_N, self.preprocess, self.memory_format)

    def placement(self, num: int, full: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        """Draw affine transforms from output to stored pixels, N x 2 x 3 float32 for affine_grid.

        `full` is the width and height of the stored images.
        """
        width, height = full
        recipe = self.recipe
        crop_width = self.preprocess.width
        crop_height = self.preprocess.height
        left = rng.integers(width - crop_width + 1, size=num)
        top = rng.integers(height - crop_height + 1, size=num)
        # First from the output's coordinates in -1..1 to pixels of the stored image ...
        where = _matrices(
            num,
            crop_width / 2,
            0,
            crop_width / 2 + left,
            0,
            crop_height / 2,
            crop_height / 2 + top,
            0,
            0,
            1,
        )
        if recipe is not None:
            moves = rng.random(num) < recipe.affine
            angle = np.radians(rng.uniform(-recipe.rotate, recipe.rotate, num)) * moves
            scale_x, scale_y = np.where(moves, rng.uniform(*recipe.scale, (2, num)), 1.0)
            shift = rng.uniform(-recipe.shift, recipe.shift, (2, num)) * moves * [[width], [height]]
            cos = np.cos(angle)
            sin = np.sin(angle)
            back = _matrices(
                num, 1, 0, -width / 2 - shift[0], 0, 1, -height / 2 - shift[1], 0, 0, 1
            )
            turn = _matrices(
                num, cos / scale_x, sin / scale_x, 0, -sin / scale_y, cos / scale_y, 0, 0, 0, 1
            )
            to = _matrices(num, 1, 0, width / 2, 0, 1, height / 2, 0, 0, 1)
            where = to @ turn @ back @ where
            sign = np.where(rng.random(num) < recipe.flip, -1.0, 1.0)
            where = _matrices(num, sign, 0, (1 - sign) * width / 2, 0, 1, 0, 0, 0, 1) @ where
        # ... then from these pixels to the stored image's coordinates in -1..1.
        return (_matrices(num, 2 / width, 0, -1, 0, 2 / height, -1, 0, 0, 1) @ where)[:, :2].astype(
            np.float32
        )

    def colours(self, num: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw factors 3 x N of brightness, contrast, saturation, and shifts N of hue in turns."""
        assert self.recipe is not None
        changes = rng.random(num) < self.recipe.colour
        factors = np.where(changes, rng.uniform(*self.recipe.jitter, (3, num)), 1.0)
        return factors.astype(np.float32), (
            rng.uniform(-1, 1, num) * self.recipe.hue * changes
        ).astype(np.float32)


@functools.cache
def _centres(side: int, device: torch.device) -> torch.Tensor:
    """Return the centres of `side` pixels in -1..1."""
    # Training uses the same tensor, and inference tensors have no autograd.
    with torch.inference_mode(False):
        return (2 * torch.arange(side, device=device) + 1) / side - 1


def _grid(theta_N23: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """Return the places that output pixels are read from, N x height x width x 2 in -1..1.

    torch's affine_grid does the same with a matrix product, which takes four times as long on a GPU
    and may round the places by TF32.
    """
    across, down = (_centres(side, theta_N23.device) for side in (width, height))
    of_x, of_y, offset = theta_N23.unsqueeze(-1).unbind(2)
    row_N2W = of_x * across
    column_N2H = torch.addcmul(offset, of_y, down)
    return row_N2W.transpose(1, 2)[:, None] + column_N2H.transpose(1, 2)[:, :, None]


def device_augmentation(
    name: str,
    preprocess: Preprocess,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> DeviceAugmentation:
    """Return the augmentation of a name for batches on the device.

    `memory_format` is the layout that the model wants.
    """
    return DeviceAugmentation(RECIPES[name], preprocess, memory_format)
