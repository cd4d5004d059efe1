"""Simple statistics of an image that reveal differences between two sources of images."""

from __future__ import annotations

import cv2
import numpy as np

__all__ = ["STATISTICS", "statistics_of"]

STATISTICS = (
    "width (px)",
    "height (px)",
    "file size (bytes per pixel)",
    "brightness",
    "contrast",
    "green to red (Lab a)",
    "blue to yellow (Lab b)",
    "saturation",
    "sharpness",
    "share of dark pixels",
    "share of bright pixels",
    "border brightness",
)
SIDE = 128


def statistics_of(image: np.ndarray, bytes_per_pixel: float) -> np.ndarray:
    """Return the STATISTICS of an RGB image as float64, length S.

    All but the first three are computed on the image resized to 128 x 128.
    """
    height, width = image.shape[:2]
    small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float64)
    lab = cv2.cvtColor(small, cv2.COLOR_RGB2LAB).astype(np.float64)
    edge = SIDE // 16
    border = np.concatenate(
        [grey[:edge].ravel(), grey[-edge:].ravel(), grey[:, :edge].ravel(), grey[:, -edge:].ravel()]
    )
    return np.array(
        [
            width,
            height,
            bytes_per_pixel,
            grey.mean(),
            grey.std(),
            lab[..., 1].mean() - 128,
            lab[..., 2].mean() - 128,
            np.ptp(small.astype(np.float64), axis=2).mean(),
            # The variance ranges over orders of magnitude, so its logarithm is used.
            np.log1p(cv2.Laplacian(grey, cv2.CV_64F).var()),
            (grey < 32).mean(),
            (grey > 223).mean(),
            border.mean(),
        ]
    )
