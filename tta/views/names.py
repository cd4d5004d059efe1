"""Views of an image, by name: `name[:value[:value]]`, factors of a product joined by `*`, a list
by commas.

Names are written in one way only (`scale:1.150` is `scale:1.15`), since results are kept under
them.
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

VIEWS_VERSION = 1  # to be raised when what a view does changes: features of views are kept


@dataclass(frozen=True, slots=True)
class _Factor:
    """One factor of a name, read."""

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
    """The pipeline's, as it was given."""
    index: int
    """Which draw, from 0 on."""


def _read_factors(name: str) -> list[_Factor]:
    """Return the factors of one name, not of a list. Raises UserError that does not say where the
    name stood.
    """
    texts = [text.strip() for text in name.split("*")]
    factors = []
    for text in texts:
        if not text:
            raise UserError("there is nothing on one side of *; write products as hflip*scale:1.15")
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
            f"{drawn[0]} is drawn from the stored image, before there is a batch, so it has no"
            " products; put the other factors into a pipeline for albu:FILE.yaml"
        )
    return factors


def _expand(name: str) -> list[str]:
    """Return the canonical names of one of a list."""
    expanded = []
    for combination in itertools.product(*(factor.views for factor in _read_factors(name))):
        parts = [part for one in combination for part in one.split("*") if part != "identity"]
        words = [part.split(":")[0] for part in parts]
        twice = next((word for index, word in enumerate(words) if word in words[:index]), None)
        if (
            twice is not None
        ):  # two mirrors cancel; two of the others resample twice for what one does
            raise UserError(f"{twice} twice in one product; once is enough")
        expanded.append("*".join(parts) or "identity")
    return expanded


def _shown(text: str) -> str:
    """Return text fit for one line."""
    return "".join(one if one.isprintable() else "?" for one in text[:80]) + (
        "..." if len(text) > 80 else ""
    )


def parse_views(text: str, flag: str = "--tta") -> tuple[str, ...]:
    """Return canonical names of a list of views, short names expanded, identity first, each once.

    "none" and "" are the identity alone. Imports no torch and reads no file.
    Raises UserError, one line with flag, name and cure (near names for an unknown view).
    """
    names: list[str] = ["identity"]
    for name in [] if text.strip() in ("none", "") else text.split(","):
        if not name.strip():
            raise UserError(
                f"{flag} {_shown(text)}: a comma with no view on one side; leave it out"
            )
        try:
            names += _expand(name.strip())
        except UserError as error:
            raise UserError(f"{flag} {_shown(name.strip())}: {error}") from None
    return tuple(dict.fromkeys(names))


def is_device_view(name: str) -> bool:
    """Return whether a view is a function on a batch: `view_of` has it; else `draw_of` says what is
    to be drawn.
    """
    return all(isinstance(factor.entry, DeviceView) for factor in _read_factors(name))


def draw_of(name: str) -> Draw:
    """Return what a canonical name such as train#0 or albu:FILE.yaml#1 asks of whoever loads
    images.
    """
    (factor,) = _read_factors(name)
    assert isinstance(factor.entry, CpuView), name
    *file, draws = factor.values
    (index,) = draws
    return Draw(factor.entry.name, file[0] if file else None, index)


def view_of(name: str) -> Callable[[Tensor], Tensor]:
    """Return the function of a device view: N x 3 x H x W float in 0..255, raw pixels, to the same;
    first factor first.

    It is deterministic and never changes what it is given; the identity gives that back itself.
    Raises UserError for a name that is not one such view.
    """
    steps = []
    for factor in _read_factors(name):
        if not isinstance(factor.entry, DeviceView):
            raise UserError(f"{name}: not one function on a batch, but {factor.entry.does}")
        steps.append((factor.entry, factor.values))

    def view(images: Tensor) -> Tensor:
        for entry, values in steps:
            images = entry(images, *values)
        return images

    return view


def check_views(names: Sequence[str], *, width: int, height: int, flag: str = "--tta") -> None:
    """Try device views on an image of a run's size, in pixels.

    Raises UserError for a view that leaves no pixel of it, or that changes none.
    """
    import torch

    picture = (torch.arange(3 * height * width) * 7919 % 256).view(1, 3, height, width).float()
    for name in names:
        if name == "identity" or not is_device_view(name):
            continue
        try:
            seen = view_of(name)(picture)
        except UserError as error:
            raise UserError(f"{flag} {error}") from None
        if torch.equal(seen, picture):
            raise UserError(
                f"{flag} {name}: changes no pixel of an image of {width}x{height}; leave it out"
            )


def describe_views() -> list[str]:
    """Return a line a view for help: how it is written, what it does, an example."""
    longest = max(len(entry.form) for entry in VIEWS.values())
    return [f"{entry.form:{longest}}  {entry.does} ({entry.example})" for entry in VIEWS.values()]
