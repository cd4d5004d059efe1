"""Mixup, CutMix and random erasing of batches.

Random numbers are drawn on the CPU, so that they are the same on every device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipeline.config.train import AugmentConfig

__all__ = ["Mixing", "erase", "random_boxes"]


def random_boxes(
    share_N: np.ndarray, width: int, height: int, rng: np.random.Generator, aspect: Any = 1.0
) -> Any:
    """Return random boxes that cover given shares of the image area, clipped at its edges.

    Parameters
    ----------
    share_N
        Share of the area that each box covers before it is clipped.
    width, height
        Size of the image in pixels.
    rng
        Generator for the centres, which are uniform over the image.
    aspect
        Height / width of the boxes, relative to that of the image; a number or N numbers.

    Returns
    -------
    ndarray
        N x 4 integers (x1, y1, x2, y2) with exclusive ends.

    Examples
    --------
    >>> random_boxes(np.array([0.25]), 8, 4, np.random.default_rng(0))
    array([[4, 1, 8, 3]])
    """
    num = len(share_N)
    half_w = width * np.sqrt(share_N / aspect) / 2
    half_h = height * np.sqrt(share_N * aspect) / 2
    x = rng.integers(width, size=num)
    y = rng.integers(height, size=num)
    boxes = np.stack([x - half_w, y - half_h, x + half_w, y + half_h], axis=1)
    return np.clip(np.rint(boxes), 0, [width, height, width, height]).astype(np.int64)


def _masks(boxes_N4: np.ndarray, pixels: torch.Tensor) -> torch.Tensor:
    """Return N x 1 x height x width on the pixels' device, True inside the boxes."""
    x1, y1, x2, y2 = torch.from_numpy(boxes_N4.T.copy()).to(pixels.device, non_blocking=True)[
        :, :, None
    ]
    across, down = (
        torch.arange(side, device=pixels.device) for side in (pixels.shape[3], pixels.shape[2])
    )
    in_x = (across >= x1) & (across < x2)
    in_y = (down >= y1) & (down < y2)
    return (in_y[:, :, None] & in_x[:, None, :])[:, None]


@dataclass(frozen=True)
class Mixing:
    """Mixup and CutMix within a batch.

    `rarity_C` is the weight with which --cutmix-mode half draws an image of each class as partner.

    References
    ----------
    Zhang et al. (2018): mixup: Beyond Empirical Risk Minimization.
    Yun et al. (2019): CutMix: Regularization Strategy to Train Strong Classifiers.
    """

    config: AugmentConfig
    rarity_C: np.ndarray

    @staticmethod
    def of(config: AugmentConfig, count_C: np.ndarray) -> Mixing | None:
        """Return the mixing for a fold with `count_C` training images per class, None if off."""
        if not (config.mixup or config.cutmix):
            return None
        return Mixing(config, 1 / np.maximum(count_C, 1))

    def __call__(
        self,
        pixels: torch.Tensor,
        label_N: np.ndarray,
        rng: np.random.Generator,
        share_NC: np.ndarray | None = None,
    ) -> tuple[torch.Tensor, np.ndarray | None]:
        """Return N x 3 x H x W pixels and N x C class shares; None if the batch stays unmixed.

        `share_NC` are the class shares of the images before they are mixed; None: their labels.
        """
        config = self.config
        if rng.random() >= config.mixup_prob:
            return pixels, None
        cuts = config.cutmix > 0 and (config.mixup == 0 or rng.random() < 0.5)
        partner_N = self.partners(label_N, rng, cutmix=cuts)
        other = pixels[torch.from_numpy(partner_N).to(pixels.device, non_blocking=True)]
        if cuts:
            keep_N, boxes_N4 = self.cut(pixels.shape, rng)
            pixels = torch.where(_masks(boxes_N4, pixels), other, pixels)
        else:
            keep_N = self.blend(len(label_N), rng)
            weight = (
                torch.from_numpy(keep_N.astype(np.float32))
                .to(pixels.device, non_blocking=True)
                .view(-1, 1, 1, 1)
            )
            pixels = pixels * weight + other * (1 - weight)
        own_NC = share_NC
        if own_NC is None:
            own_NC = np.eye(len(self.rarity_C), dtype=np.float32)[label_N]
        keep_N1 = keep_N[:, None].astype(np.float32)
        return pixels, own_NC * keep_N1 + own_NC[partner_N] * (1 - keep_N1)

    def partners(
        self, label_N: np.ndarray, rng: np.random.Generator, *, cutmix: bool
    ) -> np.ndarray:
        """Return, for each row of the batch, the row that it is mixed with."""
        mode = self.config.cutmix_mode if cutmix else "any"
        num = len(label_N)
        if mode == "any":
            return rng.permutation(num)
        if mode == "half":
            odds_N = self.rarity_C[label_N]
            return rng.choice(num, num, p=odds_N / odds_N.sum())
        partner_N = np.arange(num)
        for value in np.unique(label_N):
            rows = np.flatnonzero(label_N == value)
            partner_N[rows] = rng.permutation(rows)
        return partner_N

    def blend(self, num: int, rng: np.random.Generator) -> np.ndarray:
        """Return the weight of each image itself under mixup, drawn from a beta distribution."""
        return rng.beta(self.config.mixup, self.config.mixup, num)

    def cut(self, shape: Any, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return the area share that each image keeps and the N x 4 boxes that are replaced."""
        num, _, height, width = shape
        if self.config.cutmix_mode == "half":
            left_N = rng.random(num) < 0.5
            middle = width // 2
            start_N = np.where(left_N, 0, middle)
            end_N = np.where(left_N, middle, width)
            boxes_N4 = np.stack([start_N, np.zeros(num, int), end_N, np.full(num, height)], axis=1)
        else:
            boxes_N4 = random_boxes(
                1 - rng.beta(self.config.cutmix, self.config.cutmix, num), width, height, rng
            )
        # The share follows from the clipped box, not from the share that was drawn.
        x1, y1, x2, y2 = boxes_N4.T
        return 1 - (x2 - x1) * (y2 - y1) / (width * height), boxes_N4


def erase(pixels: torch.Tensor, prob: float, rng: np.random.Generator) -> torch.Tensor:
    """Replace a random box of some images by noise (random erasing).

    Parameters
    ----------
    pixels
        N x 3 x H x W standardised pixels.
    prob
        Probability that an image is changed.
    rng
        Generator of the boxes and of the noise.

    Returns
    -------
    Tensor
        N x 3 x H x W. A box covers 2 to 40 % of the area, its aspect ratio is between 0.3 and
        1 / 0.3, and each of its pixels is standard normal noise.

    References
    ----------
    Zhong et al. (2020): Random Erasing Data Augmentation.
    """
    num, channels, height, width = pixels.shape
    hits = np.flatnonzero(rng.random(num) < prob)
    share_N = rng.uniform(0.02, 0.4, len(hits))
    aspect_N = np.exp(rng.uniform(np.log(0.3), -np.log(0.3), len(hits))) * width / height
    boxes_N4 = random_boxes(share_N, width, height, rng, aspect_N)
    # A separate generator leaves torch's global one unchanged.
    noise_of = torch.Generator(pixels.device).manual_seed(int(rng.integers(2**62)))
    noise = torch.randn(
        (len(hits), channels, height, width), generator=noise_of, device=pixels.device
    )
    where = torch.from_numpy(hits).to(pixels.device, non_blocking=True)
    # A clone keeps the memory layout, which `index_copy` does not.
    return pixels.clone().index_copy_(
        0, where, torch.where(_masks(boxes_N4, pixels), noise, pixels[where])
    )
