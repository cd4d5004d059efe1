"""Views: pure functions on a batch of pictures, N x 3 x H x W, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from folds.errors import UserError, did_you_mean

__all__ = ["VIEWS", "VIEWS_VERSION", "parse_views"]

VIEWS_VERSION = 1  # to be raised when what a view does changes: features of views are kept


def identity(images: Any) -> Any:
    """Return the pictures as they are."""
    return images


def hflip(images: Any) -> Any:
    """Return the pictures mirrored left to right."""
    return images.flip(-1)


VIEWS: dict[str, Callable[[Any], Any]] = {"identity": identity, "hflip": hflip}


def parse_views(text: str) -> tuple[str, ...]:
    """Return view names of "none" or "hflip,...", always identity first, each once.

    Raises UserError, with near names, for an unknown view.
    """
    names = [] if text in ("none", "") else [name.strip() for name in text.split(",")]
    for name in names:
        if name not in VIEWS:
            raise UserError(
                f"--tta {name}: no such view{did_you_mean(name, VIEWS) or '; there are ' + ', '.join(VIEWS)}"
            )
    return tuple(dict.fromkeys(["identity", *names]))
