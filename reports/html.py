"""Self-contained HTML pages: one file, no network, every name escaped."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import cache
from typing import Any

import cv2
import jinja2
import numpy as np

__all__ = ["render_page", "thumbnail"]


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render_page(template: str, **context: Any) -> str:
    """Return a page from `reports/templates`. Figures come as Markup; all else is shown as text."""
    return _environment().get_template(template).render(**context)


def thumbnail(image: np.ndarray, *, height: int = 128, quality: int = 70) -> str:
    """Return an RGB picture as a small JPEG in a data URI, at most four times as wide as high."""
    scale = height / image.shape[0]
    width = int(np.clip(round(image.shape[1] * scale), 1, 4 * height))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(image, (width, height), interpolation=method)
    options: Sequence[int] = [cv2.IMWRITE_JPEG_QUALITY, quality]
    data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), options)[1]
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
