"""Input sizes of a plan's runs, from the shape of the images and of a backbone's usual input."""

from __future__ import annotations

import math

__all__ = ["fitted_size"]

LEAST = 32


def fitted_size(pixels: float, image: tuple[float, float], *, multiple: int) -> tuple[int, int]:
    """Return the width and height of an input of about so many pixels, in the images' shape.

    It is not larger than the images, since enlarging them adds nothing, and not smaller than 32.

    Parameters
    ----------
    pixels
        Pixels that the input may have.
    image
        Median width and height of the images.
    multiple
        Width and height are multiples of it.

    Examples
    --------
    >>> fitted_size(224 * 224, (384, 512), multiple=8)
    (192, 256)
    >>> fitted_size(224 * 224, (64, 64), multiple=8)
    (64, 64)
    """
    width, height = image
    scale = min(1.0, math.sqrt(pixels / (width * height)))

    def fitted(side: float) -> int:
        return max(LEAST, multiple, round(side * scale / multiple) * multiple)

    return fitted(width), fitted(height)
