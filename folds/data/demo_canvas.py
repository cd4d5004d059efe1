"""Canvas of the synthetic faces: soft shapes and strokes on a float RGB image."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

__all__ = ["CENTRE", "HEIGHT", "SCALE", "WIDTH", "Canvas", "Colour", "arc", "merge"]

WIDTH = 384
HEIGHT = 512
CENTRE = np.array([192.0, 262.0])
# Faces are drawn at this scale and enlarged at the end, which is twice as fast and looks softer.
SCALE = 0.625
Colour = tuple[float, ...] | np.ndarray


def merge(planes: list[np.ndarray]) -> Any:
    """Return the colour planes as one image, typed so that numpy's operators apply to it."""
    return cv2.merge(planes)


class Canvas:
    """A float RGB image with methods that draw soft shapes, in coordinates relative to CENTRE."""

    def __init__(self, backdrop: np.ndarray) -> None:
        self.pixels: Any = merge(
            [
                np.full((round(HEIGHT * SCALE), round(WIDTH * SCALE)), part, np.float32)
                for part in backdrop
            ]
        )

    def _lay(
        self, points: Any, colour: Colour, alpha: float, blur: float, width: int | None
    ) -> None:
        """Draw a blurred polygon, or a line of the given width, through the points."""
        corners = (np.asarray(points, float) + CENTRE) * SCALE
        blur = blur * SCALE
        pad = int(3 * blur) + 2 + (width or 0)
        low = np.clip(np.floor(corners.min(0)) - pad, 0, self.pixels.shape[1::-1]).astype(int)
        high = np.clip(np.ceil(corners.max(0)) + pad, 0, self.pixels.shape[1::-1]).astype(int)
        if (high <= low).any():
            return
        cover = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
        # cv2 takes coordinates in sixteenths of a pixel here (shift 4).
        fixed = np.round((corners - low) * 16).astype(np.int32)
        if width is None:
            cv2.fillPoly(cover, [fixed], 255, cv2.LINE_AA, 4)
        else:
            cv2.polylines(cover, [fixed], False, 255, width, cv2.LINE_AA, 4)
        weight = cv2.GaussianBlur(cover, (0, 0), blur).astype(np.float32) * np.float32(alpha / 255)
        # Channels are computed separately and merged, because numpy's broadcasting over a last axis
        # of length 3 is several times slower.
        area = self.pixels[low[1] : high[1], low[0] : high[0]]
        area *= merge([1 - weight] * 3)
        area += merge([weight * np.float32(part) for part in colour])

    def shape(self, points: Any, colour: Colour, *, alpha: float = 1.0, blur: float = 0.8) -> None:
        self._lay(points, colour, alpha, blur, None)

    def stroke(
        self, points: Any, width: float, colour: Colour, *, alpha: float = 1.0, blur: float = 0.8
    ) -> None:
        self._lay(points, colour, alpha, blur, max(1, round(width * SCALE)))

    def oval(self, x: float, y: float, rx: float, ry: float, colour: Colour, **how: float) -> None:
        angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        self.shape(np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], 1), colour, **how)


def arc(x0: float, y0: float, x1: float, y1: float, sag: float, num: int = 12) -> np.ndarray:
    """Return points from (x0, y0) to (x1, y1) along a parabola that sags by `sag` pixels."""
    t = np.linspace(0, 1, num)
    return np.stack([x0 + (x1 - x0) * t, y0 + (y1 - y0) * t + 4 * sag * t * (1 - t)], 1)
