"""Colour jitter of whole batches on their device, as one linear map per image."""

from __future__ import annotations

import functools

import numpy as np
import torch

from pipeline.data.preprocess import Preprocess

__all__ = ["change_colours", "colour_maps"]

# Shares of red, green and blue in a grey value (ITU-R BT.601).
GREY = np.array([0.299, 0.587, 0.114])


def colour_maps(factors_3N: np.ndarray, turns_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the linear maps that change brightness, contrast, saturation and hue, in this order.

    A pixel becomes the matrix times its red, green and blue, plus the weight times the image's mean
    grey value. The hue is turned by a rotation about the axis of greys, which equals a shift of the
    hue in HSV for thirds of the circle and is near it for other angles. (The rotation in YIQ that
    other libraries use differs from HSV 1.4 times as much, on photos of faces.)

    Parameters
    ----------
    factors_3N
        Factors of brightness, contrast (about the mean grey value) and saturation (about each
        pixel's grey value).
    turns_N
        Shifts of the hue, in turns of the colour circle.

    Returns
    -------
    matrix_N33, weight_N
        float64; the rows of a matrix are the new red, green and blue.

    Examples
    --------
    >>> matrix_N33, weight_N = colour_maps(np.ones((3, 1)), np.array([1 / 3]))
    >>> matrix_N33[0].round(9) @ [255, 0, 0] + 0  # red becomes green
    array([  0., 255.,   0.])
    """
    brightness_N, contrast_N, saturation_N = np.asarray(factors_3N, float)
    angle_N11 = 2 * np.pi * np.asarray(turns_N, float).reshape(-1, 1, 1)
    # Rodrigues' formula: the cross product with the axis (1, 1, 1) / sqrt(3), and its square.
    across = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    turn_N33 = np.eye(3) + np.sin(angle_N11) * across + (1 - np.cos(angle_N11)) * across @ across
    grey_N33 = (1 - saturation_N)[:, None, None] * np.broadcast_to(GREY, (3, 3))
    saturate_N33 = saturation_N[:, None, None] * np.eye(3) + grey_N33
    scale_N11 = (brightness_N * contrast_N)[:, None, None]
    # Neither saturation nor hue changes greys, and so not the mean that contrast adds.
    return scale_N11 * (turn_N33 @ saturate_N33), brightness_N * (1 - contrast_N)


@functools.cache
def _bounds(preprocess: Preprocess, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the standardised values of 0 and 255; each copy from the CPU could stall a GPU."""
    # Training uses the same tensors, and inference tensors have no autograd.
    with torch.inference_mode(False):
        blank = torch.zeros((1, 3, 1, 1), device=device)
        return preprocess.standardise(blank), preprocess.standardise(blank + 255)


def change_colours(
    pixels: torch.Tensor,
    factors_3N: np.ndarray,
    turns_N: np.ndarray,
    preprocess: Preprocess,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> torch.Tensor:
    """Return pixels with changed colours, clamped and standardised.

    Clamping once, at the end, and linear maps are what differs from albumentations' ColorJitter.
    A GPU spends its time on reading and writing the batch: here it is read once for the mean, and
    once for each of its channels. A matrix product would need fewer passes, but may be rounded
    by TF32.

    Parameters
    ----------
    pixels
        N x 3 x H x W in 0..255.
    factors_3N, turns_N
        See `colour_maps`.
    preprocess
        Mean and deviation of each channel.
    memory_format
        Memory layout of the result.
    """
    num = len(pixels)
    matrix_N33, weight_N = colour_maps(factors_3N, turns_N)
    std_31 = 255 * np.array(preprocess.std)[:, None]
    # One table, and so one copy to the device.
    table = np.concatenate(
        [(matrix_N33 / std_31).reshape(num, 9), weight_N[:, None] * GREY], axis=1
    ).astype(np.float32)
    table_NX = torch.from_numpy(table).to(pixels.device, non_blocking=True)
    matrix_N3311 = table_NX[:, :9].view(num, 3, 3, 1, 1)
    added_N = (table_NX[:, 9:] * pixels.mean((2, 3))).sum(1)
    offset_N311 = preprocess.standardise(added_N.view(num, 1, 1, 1))
    changed = torch.empty_like(pixels, memory_format=memory_format)
    torch.addcmul(offset_N311, pixels[:, :1], matrix_N3311[:, :, 0], out=changed)
    changed.addcmul_(pixels[:, 1:2], matrix_N3311[:, :, 1])
    changed.addcmul_(pixels[:, 2:], matrix_N3311[:, :, 2])
    return changed.clamp_(*_bounds(preprocess, pixels.device))
