"""Random views of new images, which are drawn from stored images as the TTA stage draws them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.data.augment import Augment, albu_augmentation, build_augmentation
from pipeline.predict.recipe import Recipe
from pipeline.seeding import derive_rng, derive_seed
from tta.views.names import draw_of

__all__ = ["DrawnViews"]


class DrawnViews:
    """Random views of a run; the augmentation of each is built once."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._augments: dict[str, Augment | None] = {}

    def _augment(self, view: str) -> Augment | None:
        if view not in self._augments:
            file = draw_of(view).file
            width, height = self.recipe.preprocess.stored_size
            saved = self.recipe.pipelines
            self._augments[view] = (
                build_augmentation(self.recipe.augment)
                if file is None
                else albu_augmentation(file, width=width, height=height, saved=saved.get(file))
            )
        return self._augments[view]

    def images(self, stored_NHWC: np.ndarray, ids: Sequence[str], view: str) -> np.ndarray:
        """Return a view of stored images, N x H x W x 3, cropped for the model.

        The draw of an image is seeded by its name.
        """
        draw = draw_of(view)
        augment = self._augment(view)
        found = []
        for image, name in zip(stored_NHWC, ids, strict=True):
            parts = ("view", self.recipe.seed, draw.index, 0, name)
            changed = image if augment is None else augment(image, derive_seed("augment", *parts))
            rng = derive_rng("crop", *parts) if draw.file is None else None
            found.append(self.recipe.preprocess.crop(changed, rng))
        return np.stack(found)
