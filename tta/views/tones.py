"""Views that change tones: pure functions on N x 3 x H x W float in 0..255; the result is clipped
to that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["brightness", "contrast", "gamma"]


def brightness(images: Tensor, factor: float) -> Tensor:
    """Return the images with every value multiplied."""
    return (images * factor).clamp_(0, 255)


def contrast(images: Tensor, factor: float) -> Tensor:
    """Return the images with values' distances from their own mean grey (ITU-R BT.601)
    multiplied.
    """
    grey = 0.299 * images[:, 0] + 0.587 * images[:, 1] + 0.114 * images[:, 2]
    mean = grey.mean(dim=(1, 2)).view(-1, 1, 1, 1)
    return (images * factor + mean * (1 - factor)).clamp_(0, 255)


def gamma(images: Tensor, exponent: float) -> Tensor:
    """Return the images with values, as shares of 255, raised to a power: above 1 is darker.

    They are clipped first, since a power of a negative share has no value.
    """
    return (images / 255).clamp_(0, 1).pow_(exponent).mul_(255)
