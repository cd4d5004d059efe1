"""Training augmentation by name: albumentations on the CPU, image by image, or whole batches.

A name's augmentation of single images and that of batches on the device have the same ranges
(`Recipe`).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
import torch

# Before the import, which would otherwise ask the network for a newer version.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations

from foldblend.errors import UserError, in_a_line
from foldblend.files import home
from foldblend.plugins import find_part, is_custom, source_hash
from foldblend.reading import read_yaml_file
from pipeline.data.colours import change_colours
from pipeline.data.preprocess import Preprocess

__all__ = [
    "AUGMENTATIONS",
    "RECIPES",
    "Augment",
    "Augmentation",
    "DeviceAugmentation",
    "albu_augmentation",
    "build_augmentation",
    "check_augmentation",
    "describe_augmentation",
    "device_augmentation",
]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Probabilities and ranges of an augmentation, for the CPU and the device alike."""

    flip: float = 0.5
    """Probability of a horizontal flip."""
    affine: float = 0.8
    """Probability of the affine transform (scale, shift and rotation)."""
    scale: tuple[float, float] = (0.9, 1.1)
    """Range of the factors of width and height, which are drawn separately."""
    shift: float = 0.06
    """Largest shift, as a share of width and height."""
    rotate: float = 12.0
    """Largest rotation in degrees, in either direction."""
    colour: float = 0.8
    """Probability of the colour jitter."""
    jitter: tuple[float, float] = (0.8, 1.2)
    """Range of the factors of brightness, contrast and saturation."""
    hue: float = 0.02
    """Largest shift of the hue, in turns of the colour circle."""


RECIPES: dict[str, Recipe | None] = {"default": Recipe(), "none": None}


class Augment(Protocol):
    """Protocol of an augmentation of single images; one is made per fold, without arguments."""

    def __call__(self, image: np.ndarray, seed: int) -> np.ndarray:
        """Return a changed copy, of the same size, of a height x width x 3 uint8 image.

        All random numbers must come from `seed`. The result then does not depend on the order of
        images, the number of workers or a restart.
        """
        ...


class Augmentation:
    """Albumentations pipeline that takes a seed with each image."""

    def __init__(self, transforms: list[Any]) -> None:
        self._compose = albumentations.Compose(transforms)

    def __call__(self, image: np.ndarray, seed: int) -> np.ndarray:
        """Return an augmented copy of a height x width x 3 uint8 image."""
        self._compose.set_random_seed(seed)
        return self._compose(image=image)["image"]


def _default() -> Augmentation:
    recipe = Recipe()
    return Augmentation(
        [
            albumentations.HorizontalFlip(p=recipe.flip),
            albumentations.Affine(
                scale=recipe.scale,
                translate_percent=(-recipe.shift, recipe.shift),
                rotate=(-recipe.rotate, recipe.rotate),
                border_mode=cv2.BORDER_REFLECT_101,
                p=recipe.affine,
            ),
            albumentations.ColorJitter(
                brightness=recipe.jitter,
                contrast=recipe.jitter,
                saturation=recipe.jitter,
                hue=(-recipe.hue, recipe.hue),
                p=recipe.colour,
            ),
        ]
    )


def albu_augmentation(
    file: str, *, width: int, height: int, saved: dict[str, Any] | None = None
) -> Augment:
    """Return an albumentations pipeline from a YAML file that albumentations.save wrote.

    Its results are resized to width x height. With `saved`, the content of the file, it is not
    read.

    Raises
    ------
    UserError
        If the file is not a pipeline, or its result is not a uint8 image with 3 channels.
    """
    try:
        if saved is None:
            saved = read_yaml_file(home(file), cure="write one with albumentations.save")
        loaded = albumentations.from_dict(saved)
        pipeline = Augmentation([loaded])
    except UserError as error:
        raise UserError(f"albu:{error}") from None
    except Exception as error:  # a file can fail in any way
        raise UserError(
            f"albu:{file}: not a pipeline ({in_a_line(error)}); write one with albumentations.save"
        ) from None

    def augment(image: np.ndarray, seed: int) -> np.ndarray:
        changed = np.asarray(pipeline(image, seed))
        if changed.shape[:2] != (height, width):
            changed = cv2.resize(changed, (width, height), interpolation=cv2.INTER_AREA)
        return changed

    try:
        trial = augment(np.zeros((height, width, 3), np.uint8), 0)
        if trial.shape != (height, width, 3) or trial.dtype != np.uint8:
            raise ValueError(
                f"it returns {trial.dtype} {trial.shape}; leave out Normalize and conversions to"
                " tensors"
            )
    except Exception as error:
        raise UserError(
            f"albu:{file}: a trial on a blank image failed ({in_a_line(error)})"
        ) from None
    return augment


AUGMENTATIONS: dict[str, Callable[[], Augment | None]] = {"default": _default, "none": lambda: None}


def build_augmentation(name: str) -> Augment | None:
    """Return the augmentation of a name (--augment), None for "none".

    Raises UserError for an unknown name.
    """
    augment: Augment | None = find_part(name, AUGMENTATIONS, "--augment")()
    return augment


def check_augmentation(name: str, *, width: int, height: int) -> None:
    """Check the name of an augmentation, and try a user's own one on a random image.

    Raises UserError if the result is not an image, or depends on more than image and seed.
    """
    if not is_custom(name):
        find_part(name, AUGMENTATIONS, "--augment")
        return
    image = np.random.default_rng(0).integers(256, size=(height, width, 3), dtype=np.uint8)
    why = ""
    try:
        first, second = (np.asarray(build_augmentation(name)(image.copy(), 7)) for _ in range(2))  # type: ignore[misc]
        if first.shape != image.shape or first.dtype != np.uint8:
            why = f"returns {first.dtype} {first.shape} for uint8 {image.shape}"
        elif not np.array_equal(first, second):
            why = "two calls with the same seed differ: use np.random.default_rng(seed)"
    except UserError:
        raise
    except Exception as error:  # a user's code can raise anything
        why = f"a trial failed ({in_a_line(error)})"
    if why:
        raise UserError(f"--augment {name}: {why}; see examples/")


def describe_augmentation(name: str) -> str:
    """Return text that differs between augmentations, for keys of caches."""
    return f"{name} {source_hash([name])}" if is_custom(name) else str(RECIPES[name])


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
