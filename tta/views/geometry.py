"""Views that move pixels: pure functions on images N x 3 x H x W, float in 0..255.

They work on any device and memory layout. Pixels from outside the image are filled with its mirror
image: that looks natural, while black or stripes of repeated border pixels do not, and the training
augmentation does the same. Torch is imported inside the functions, since names of views are also
read by code that must start without it.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

from foldblend.errors import require

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["PLACES", "crop", "hflip", "identity", "rotate", "scale", "vflip", "xshift", "yshift"]

# Offsets (y, x) of a crop, in halves of the pixels that are left over.
PLACES = {
    "tl": (0, 0),
    "tr": (0, 2),
    "bl": (2, 0),
    "br": (2, 2),
    "center": (1, 1),
}


def identity(images: Tensor) -> Tensor:
    """Return the images unchanged."""
    return images


def hflip(images: Tensor) -> Tensor:
    """Return the images mirrored left to right."""
    return images.flip(-1)


def vflip(images: Tensor) -> Tensor:
    """Return the images mirrored top to bottom."""
    return images.flip(-2)


def scale(images: Tensor, factor: float) -> Tensor:
    """Return the images zoomed in (factor above 1) or out (below 1) about their centre.

    To zoom out, the images are first extended by whole pixels on each side, so the factor is exact
    only to within one pixel of the extended width and height.
    """
    from torch.nn import functional as F  # noqa: N812

    # Zooming in moves no two pixels closer, so no smoothing is needed.
    if factor >= 1:
        return _resampled(images, (1 / factor, 0.0, 0.0, 1 / factor))
    height, width = images.shape[-2:]
    y, x = (round((1 / factor - 1) * side / 2) for side in (height, width))
    wider = F.pad(images, (x, x, y, y), mode="reflect")
    return F.interpolate(
        wider, size=(height, width), mode="bilinear", align_corners=False, antialias=True
    )


def xshift(images: Tensor, share: float) -> Tensor:
    """Return the images moved right by a share of their width.

    The shift is rounded to whole pixels, so that nothing is blurred.
    """
    return _shifted(images, round(share * images.shape[-1]), 0)


def yshift(images: Tensor, share: float) -> Tensor:
    """Return the images moved down by a share of their height.

    The shift is rounded to whole pixels, so that nothing is blurred.
    """
    return _shifted(images, 0, round(share * images.shape[-2]))


def _shifted(images: Tensor, x: int, y: int) -> Tensor:
    from torch.nn import functional as F  # noqa: N812

    height, width = images.shape[-2:]
    wider = F.pad(images, (max(x, 0), max(-x, 0), max(y, 0), max(-y, 0)), mode="reflect")
    top = max(-y, 0)
    left = max(-x, 0)
    return wider[..., top : top + height, left : left + width]


def crop(images: Tensor, share: float, where: str) -> Tensor:
    """Return a crop of the images, resized to the original size.

    Parameters
    ----------
    images
        Images N x 3 x H x W.
    share
        The crop's share of width and height, above 0 and up to 1.
    where
        A key of `PLACES`.

    Raises
    ------
    UserError
        If no pixel is left.
    """
    from torch.nn import functional as F  # noqa: N812

    height, width = images.shape[-2:]
    rows = round(share * height)
    columns = round(share * width)
    require(
        min(rows, columns) >= 1,
        f"crop:{share:g}:{where}: leaves no pixel of an image of {width}x{height} pixels; pass a"
        " larger share",
    )
    y, x = PLACES[where]
    top = y * (height - rows) // 2
    left = x * (width - columns) // 2
    part = images[..., top : top + rows, left : left + columns]
    return F.interpolate(part, size=(height, width), mode="bilinear", align_corners=False)


def rotate(images: Tensor, degrees: float) -> Tensor:
    """Return the images rotated anticlockwise about their centre, without distortion."""
    height, width = images.shape[-2:]
    cos = math.cos(math.radians(degrees))
    sin = math.sin(math.radians(degrees))
    return _resampled(images, (cos, -sin * height / width, sin * width / height, cos))


def _resampled(images: Tensor, matrix: tuple[float, float, float, float]) -> Tensor:
    """Return the images resampled at the places that a 2 x 2 matrix maps each pixel to.

    The matrix is given row by row; coordinates run from -1 to 1 across the image.
    """
    from torch.nn import functional as F  # noqa: N812

    height, width = images.shape[-2:]
    grid = _grid(matrix, height, width, images.dtype, images.device).expand(len(images), -1, -1, -1)
    return F.grid_sample(
        images, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )


@functools.lru_cache(maxsize=32)
def _grid(
    matrix: tuple[float, float, float, float],
    height: int,
    width: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Return the sampling grid of a matrix, 1 x H x W x 2.

    It is kept between batches, since a copy from the CPU would make the GPU wait. It is computed in
    float64 on the CPU: torch's affine_grid is a matrix product, which a GPU may compute in TF32
    with a mantissa of 10 bits.
    """
    import torch

    with torch.inference_mode(False):
        a, b, c, d = matrix
        theta = torch.tensor([[[a, b, 0.0], [c, d, 0.0]]], dtype=torch.float64)
        grid = torch.nn.functional.affine_grid(theta, [1, 1, height, width], align_corners=False)
        return grid.to(device=device, dtype=dtype)
