"""Training augmentation by name: of single images on the CPU, by albumentations.

That of whole batches on a device (`pipeline.data.device_augment`) has the same ranges (`Recipe`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np

from foldblend.errors import UserError, in_a_line
from foldblend.files import home
from foldblend.plugins import find_part, is_custom, source_hash
from foldblend.reading import read_yaml_file

# Before albumentations is imported, which would otherwise ask the network for a newer version. The
# processes that load images inherit it. It is imported by the first augmentation, as that takes
# half a second, and neither predictions nor heads on a frozen backbone need it.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

__all__ = [
    "AUGMENTATIONS",
    "RECIPES",
    "Augment",
    "Augmentation",
    "albu_augmentation",
    "build_augmentation",
    "check_augmentation",
    "describe_augmentation",
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
        import albumentations

        self._compose = albumentations.Compose(transforms)

    def __call__(self, image: np.ndarray, seed: int) -> np.ndarray:
        """Return an augmented copy of a height x width x 3 uint8 image."""
        self._compose.set_random_seed(seed)
        return self._compose(image=image)["image"]


def _default() -> Augmentation:
    import albumentations

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
        import albumentations

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
