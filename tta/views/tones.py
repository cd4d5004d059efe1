"""Views that change tones: pure functions on images N x 3 x H x W, float in 0..255.

The result is clipped to the same range.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["brightness", "contrast", "gamma"]


def brightness(images: Tensor, factor: float) -> Tensor:
    """Return the images with every pixel value multiplied by a factor."""
    return (images * factor).clamp_(0, 255)


def contrast(images: Tensor, factor: float) -> Tensor:
    """Return the images with contrast multiplied by a factor.

    It multiplies the differences of pixel values from the image's mean grey value (ITU-R BT.601).
    """
    grey = 0.299 * images[:, 0] + 0.587 * images[:, 1] + 0.114 * images[:, 2]
    mean = grey.mean(dim=(1, 2)).view(-1, 1, 1, 1)
    return (images * factor + mean * (1 - factor)).clamp_(0, 255)


def gamma(images: Tensor, exponent: float) -> Tensor:
    """Return the images with pixel values, scaled to 0..1, raised to a power.

    An exponent above 1 gives darker images. Values are clipped first, because a power of a
    negative number may not exist.
    """
    return (images / 255).clamp_(0, 1).pow_(exponent).mul_(255)
