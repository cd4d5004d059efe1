"""Names of views: `name[:value[:value]]`; products are joined by `*`, lists by commas.

Every view has one canonical name (`scale:1.150` becomes `scale:1.15`), since results are stored
under it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from foldblend.errors import UserError, did_you_mean
from tta.views.entries import CpuView, DeviceView, Entry
from tta.views.geometry import hflip, identity
from tta.views.registry import VIEWS

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "VIEWS",
    "VIEWS_VERSION",
    "Draw",
    "check_views",
    "describe_views",
    "draw_of",
    "hflip",
    "identity",
    "is_device_view",
    "parse_views",
    "view_of",
]

# Raise this when a view starts to give other pixels: logits and features of views are kept on disk.
VIEWS_VERSION = 1


@dataclass(frozen=True, slots=True)
class _Factor:
    """One parsed factor of a name."""

    entry: Entry
    values: tuple[Any, ...]

    @property
    def views(self) -> tuple[str, ...]:
        return self.entry.views(self.values)


@dataclass(frozen=True, slots=True)
class Draw:
    """One view that is drawn from the stored image."""

    source: str
    """Name in the registry: train or albu."""
    file: str | None
    """Path of the albumentations file as it was given; None for train."""
    index: int
    """Number of the draw, from 0 on."""


def _read_factors(name: str) -> list[_Factor]:
    """Return the factors of one name. Raises UserError without the flag and the name."""
    texts = [text.strip() for text in name.split("*")]
    factors = []
    for text in texts:
        if not text:
            raise UserError("one side of * is empty; write products as hflip*scale:1.15")
        head, mark, draw = text.partition("#")
        word, *values = head.split(":")
        if word not in VIEWS:
            which = f" as {_shown(text)}" if len(texts) > 1 else ""
            near = did_you_mean(word.lower(), VIEWS)
            raise UserError(f"no such view{which}{near or '; there are ' + ', '.join(VIEWS)}")
        factors.append(_Factor(VIEWS[word], VIEWS[word].read(values, draw if mark else None)))
    drawn = [factor.entry.name for factor in factors if isinstance(factor.entry, CpuView)]
    if drawn and len(factors) > 1:
        raise UserError(
            f"{drawn[0]} is drawn from the stored image, before batches are made, so it cannot be"
            " part of a product; put the other factors into a pipeline for albu:FILE.yaml"
        )
    return factors


def _expand(name: str) -> list[str]:
    """Return the canonical names that one item of a list expands to."""
    expanded = []
    for combination in itertools.product(*(factor.views for factor in _read_factors(name))):
        parts = [part for one in combination for part in one.split("*") if part != "identity"]
        words = [part.split(":")[0] for part in parts]
        twice = next((word for index, word in enumerate(words) if word in words[:index]), None)
        # Two mirrors cancel, and two of any other view resample twice for the effect of one.
        if twice is not None:
            raise UserError(f"{twice} twice in one product; give it once")
        expanded.append("*".join(parts) or "identity")
    return expanded


def _shown(text: str) -> str:
    """Return the text shortened and printable, for one line of a message."""
    return "".join(one if one.isprintable() else "?" for one in text[:80]) + (
        "..." if len(text) > 80 else ""
    )


def parse_views(text: str, flag: str = "--tta") -> tuple[str, ...]:
    """Return the canonical names of a list of views, identity first, each once.

    Short names are expanded. "none" and "" give identity only. Imports no torch and reads no file.

    Parameters
    ----------
    text
        Names of views, separated by commas.
    flag
        The flag it was given to, for messages.

    Raises
    ------
    UserError
        One line with flag, name and cure; for an unknown view, with similar names.

    Examples
    --------
    >>> parse_views("hflip,five:0.80")[:3]
    ('identity', 'hflip', 'crop:0.8:tl')
    """
    names: list[str] = ["identity"]
    for name in [] if text.strip() in ("none", "") else text.split(","):
        if not name.strip():
            raise UserError(
                f"{flag} {_shown(text)}: a comma has no view on one side; leave the comma out"
            )
        try:
            names += _expand(name.strip())
        except UserError as error:
            raise UserError(f"{flag} {_shown(name.strip())}: {error}") from None
    return tuple(dict.fromkeys(names))


def is_device_view(name: str) -> bool:
    """Return whether a view is computed on batches.

    If so, `view_of` returns its function; if not, `draw_of` describes the draw.
    """
    return all(isinstance(factor.entry, DeviceView) for factor in _read_factors(name))


def draw_of(name: str) -> Draw:
    """Return the draw that a canonical name such as train#0 or albu:FILE.yaml#1 describes."""
    (factor,) = _read_factors(name)
    assert isinstance(factor.entry, CpuView), name
    *file, draws = factor.values
    (index,) = draws
    return Draw(factor.entry.name, file[0] if file else None, index)


def view_of(name: str) -> Callable[[Tensor], Tensor]:
    """Return the function of a device view.

    It takes and returns images N x 3 x H x W, float in 0..255, before they are standardised, and
    applies the factors of a product from left to right. It is deterministic and does not modify its
    input; identity returns the input itself.

    Raises
    ------
    UserError
        For a name that is not a single device view.
    """
    steps = []
    for factor in _read_factors(name):
        if not isinstance(factor.entry, DeviceView):
            raise UserError(
                f"{name}: is not a single view computed on batches, but {factor.entry.does}"
            )
        steps.append((factor.entry, factor.values))

    def view(images: Tensor) -> Tensor:
        for entry, values in steps:
            images = entry(images, *values)
        return images

    return view


def check_views(names: Sequence[str], *, width: int, height: int, flag: str = "--tta") -> None:
    """Check that each device view changes an image of this size and leaves pixels of it.

    Parameters
    ----------
    names
        Canonical names; drawn views are skipped.
    width, height
        Size of the run's images, in pixels.
    flag
        The flag the names were given to, for messages.

    Raises
    ------
    UserError
        For a view that leaves no pixel or changes none.
    """
    import torch

    image = (torch.arange(3 * height * width) * 7919 % 256).view(1, 3, height, width).float()
    for name in names:
        if name == "identity" or not is_device_view(name):
            continue
        try:
            seen = view_of(name)(image)
        except UserError as error:
            raise UserError(f"{flag} {error}") from None
        if torch.equal(seen, image):
            raise UserError(
                f"{flag} {name}: changes no pixel of an image of {width}x{height} pixels; leave it"
                " out"
            )


def describe_views() -> list[str]:
    """Return a line of help for each view: its syntax, its effect and an example.

    A view without values has no example, since its syntax is one.
    """
    longest = max(len(entry.form) for entry in VIEWS.values())
    return [
        f"{entry.form:{longest}}  {entry.does}"
        + (f" (such as {entry.example})" if entry.example != entry.form else "")
        for entry in VIEWS.values()
    ]
