"""Colour jitter of whole batches on their device."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["compiled_jitter", "jitter"]

# Shares of red, green and blue in a grey value (ITU-R BT.601).
GREY = (0.299, 0.587, 0.114)


def _grey(red: torch.Tensor, green: torch.Tensor, blue: torch.Tensor) -> torch.Tensor:
    return (red * GREY[0]).add_(green, alpha=GREY[1]).add_(blue, alpha=GREY[2])


def jitter(pixels: torch.Tensor, factors_3N: torch.Tensor, turns_N: torch.Tensor) -> torch.Tensor:
    """Change brightness, contrast, saturation and hue, in this order, and clamp after each.

    The steps are those of torchvision's and albumentations' ColorJitter. A GPU spends its time on
    reading and writing the batch, so that few operations count: the hue is turned without a way
    through HSV images.

    Parameters
    ----------
    pixels
        N x 3 x H x W in 0..255.
    factors_3N
        Factors of brightness, contrast (about the mean grey value) and saturation (about each
        pixel's grey value).
    turns_N
        Shifts of the hue, in turns of the colour circle.

    Examples
    --------
    >>> red = torch.tensor([255.0, 0, 0]).view(1, 3, 1, 1)
    >>> jitter(red, torch.ones(3, 1), torch.tensor([1 / 3])).flatten().tolist()  # green
    [0.0, 255.0, 0.0]
    """
    brightness, contrast, saturation = factors_3N.view(3, -1, 1, 1, 1)
    pixels = (pixels * brightness).clamp_(0, 255)
    mean = _grey(*pixels.mean((2, 3)).unbind(1)).view(-1, 1, 1, 1)
    pixels = torch.lerp(mean, pixels, contrast).clamp_(0, 255)
    pixels = torch.lerp(_grey(*pixels.unbind(1)).unsqueeze(1), pixels, saturation).clamp_(0, 255)
    red, green, blue = pixels.unbind(1)
    most = pixels.amax(1)
    span = most - pixels.amin(1)
    # Grey pixels have no hue; any will do.
    scale = span.clamp(min=1e-6)
    # The hue in sixths of the colour circle: 0 red, 2 green, 4 blue.
    hue = torch.where(
        red == most,
        (green - blue).div_(scale),
        torch.where(
            green == most,
            (blue - red).div_(scale).add_(2),
            (red - green).div_(scale).add_(4),
        ),
    )
    hue += (turns_N * 6).view(-1, 1, 1)
    # A channel is full within a sixth of its own hue, and empty from two sixths on. The places 5,
    # 3 and 1 bring each channel's empty half to the values around 2.
    place = 5 - 2 * torch.arange(3, device=pixels.device).view(3, 1, 1)
    away = (hue.unsqueeze(1) + place).remainder_(6).sub_(2).abs_().clamp_(1, 2)
    return torch.addcmul((most - 2 * span).unsqueeze(1), span.unsqueeze(1), away)


@functools.cache
def compiled_jitter() -> Callable[..., Any]:
    """Return `jitter` compiled by torch.compile, once per process: few passes over the batch."""
    return torch.compile(jitter, dynamic=False)
