"""Training augmentation by name: albumentations pipelines on the resized uint8 picture."""

from __future__ import annotations

import os
from collections.abc import Callable

import cv2
import numpy as np

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # before the import: it asks the network otherwise

import albumentations

__all__ = ["AUGMENTATIONS", "Augmentation"]


class Augmentation:
    """A pipeline whose draw depends on the seed given with each picture, not on order or worker."""

    def __init__(self, transforms: list[albumentations.BasicTransform]) -> None:
        self._compose = albumentations.Compose(transforms)

    def __call__(self, image: np.ndarray, seed: int) -> np.ndarray:
        """Return an augmented copy of a height x width x 3 uint8 picture."""
        self._compose.set_random_seed(seed)
        return self._compose(image=image)["image"]


def _default() -> Augmentation:
    return Augmentation(
        [
            albumentations.HorizontalFlip(p=0.5),
            albumentations.Affine(
                scale=(0.9, 1.1),
                translate_percent=(-0.06, 0.06),
                rotate=(-12, 12),
                border_mode=cv2.BORDER_REFLECT_101,
                p=0.8,
            ),
            albumentations.ColorJitter(
                brightness=(0.8, 1.2), contrast=(0.8, 1.2), saturation=(0.8, 1.2), hue=(-0.02, 0.02), p=0.8
            ),
        ]
    )


AUGMENTATIONS: dict[str, Callable[[], Augmentation | None]] = {"default": _default, "none": lambda: None}
