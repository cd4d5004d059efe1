"""Simple statistics of an image: what tells two sources of images apart before any network
does.
"""

from __future__ import annotations

import cv2
import numpy as np

__all__ = ["STATISTICS", "statistics_of"]

STATISTICS = (
    "width (px)",
    "height (px)",
    "file size (bytes a pixel)",
    "brightness",
    "contrast",
    "green to red (Lab a)",
    "blue to yellow (Lab b)",
    "saturation",
    "sharpness",
    "dark share",
    "bright share",
    "border brightness",
)
SIDE = 128


def statistics_of(image: np.ndarray, bytes_a_pixel: float) -> np.ndarray:
    """Return the STATISTICS of an RGB image, S float64; all but the first three at one common
    size.
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
            bytes_a_pixel,
            grey.mean(),
            grey.std(),
            lab[..., 1].mean() - 128,
            lab[..., 2].mean() - 128,
            np.ptp(small.astype(np.float64), axis=2).mean(),
            np.log1p(cv2.Laplacian(grey, cv2.CV_64F).var()),
            (grey < 32).mean(),
            (grey > 223).mean(),
            border.mean(),
        ]
    )
