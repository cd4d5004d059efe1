"""Batches as the model sees them: augmented, mixed, standardised, with boxes erased."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.data.preprocess import Preprocess
from pipeline.seeding import derive_rng
from pipeline.training.mixing import Mixing, erase

__all__ = ["Augmenter", "BatchPixels"]

Augmenter = Callable[[torch.Tensor, np.random.Generator], torch.Tensor]


@dataclass(frozen=True, slots=True)
class BatchPixels:
    """Preparation of batches on the device."""

    preprocess: Preprocess
    augment: Augmenter | None
    """Changes and standardises images; None: they were augmented before."""
    mixing: Mixing | None
    reprob: float
    """Probability of erasing a box of an image."""

    @property
    def sees_batch(self) -> bool:
        """Return whether pixels depend on the batch: on other images, or on the place in it."""
        return self.augment is not None or self.mixing is not None or self.reprob > 0

    def __call__(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        label_N: np.ndarray | None,
        place: tuple[int, ...],
        share_NC: np.ndarray | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return N x 3 x H x W pixels, and the labels, or shares of classes N x C.

        They are shares where rows have them, or where images are mixed.

        Parameters
        ----------
        images
            N x H x W x 3 uint8.
        labels
            N class numbers on the device.
        label_N
            The same in memory, if they are known there: copying them from a GPU would stall it.
        place
            What random numbers are derived from: parts of the seed, the epoch and the step.
        share_NC
            Shares of classes that the rows learn; None: each learns its label.
        """
        target = labels if share_NC is None else _on(labels.device, share_NC)
        if self.augment is None:
            pixels = images.permute(0, 3, 1, 2).float()
        else:
            # Standardised, which changes mixing by no more than rounding.
            pixels = self.augment(images, derive_rng("augment", *place))
        if self.mixing is not None:
            known_N = labels.cpu().numpy() if label_N is None else label_N
            rng = derive_rng("mix", *place)
            pixels, mixed_NC = self.mixing(pixels, known_N, rng, share_NC)
            if mixed_NC is not None:
                target = _on(labels.device, mixed_NC)
        if self.augment is None:
            pixels = self.preprocess.standardise(pixels)
        if self.reprob:
            pixels = erase(pixels, self.reprob, derive_rng("erase", *place))
        return pixels, target


def _on(device: torch.device, share_NC: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(share_NC).to(device, non_blocking=True)
