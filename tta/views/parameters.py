"""Parameters of views: they are read from text and written in one canonical way."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from foldblend.errors import UserError, require

__all__ = ["MOST_DRAWS", "Draws", "File", "Number", "Parameter", "Place", "draw_number"]

# Draws of one source: each is a forward pass over all images.
MOST_DRAWS = 100
# Stricter than float(), which accepts nan, inf and 1_0 as well.
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A parameter of a view."""

    letter: str
    """Its name in help."""
    default: Any = None
    """The value if none is given; None means that a value is required."""
    neutral: Any = None
    """The value at which the view changes nothing, if there is one."""

    def read(self, text: str) -> Any:
        """Return the value. Raises UserError without the flag and the view's name."""
        raise NotImplementedError

    def text(self, value: Any) -> str:
        """Return the canonical text of a value."""
        return str(value)


@dataclass(frozen=True, kw_only=True)
class Number(Parameter):
    """A number between two bounds."""

    low: float
    high: float
    with_low: bool = True
    """Whether `low` itself is allowed."""

    def read(self, text: str) -> float:
        require(_NUMBER.fullmatch(text) is not None, f"{text[:40]!r} is not a number")
        value = float(text)
        allowed = (
            f"{self.low:g} to {self.high:g}"
            if self.with_low
            else f"more than {self.low:g}, up to {self.high:g}"
        )
        within = self.low <= value <= self.high and (self.with_low or value != self.low)
        require(within, f"{self.letter} is {text[:40]}, but must be {allowed}")
        return value

    def text(self, value: float) -> str:
        # Adding 0.0 turns minus zero into zero.
        return repr(value + 0.0).removesuffix(".0")


@dataclass(frozen=True, kw_only=True)
class Place(Parameter):
    """A word of a fixed list."""

    places: tuple[str, ...]

    def read(self, text: str) -> str:
        if text not in self.places:
            raise UserError(f"no such place as {text[:40]!r}; there are {', '.join(self.places)}")
        return text


@dataclass(frozen=True, kw_only=True)
class File(Parameter):
    """The path of a YAML file; whether it exists is checked later."""

    def read(self, text: str) -> str:
        require(text.endswith((".yaml", ".yml")), f"{text[:40]!r} is not a .yaml file")
        return text


def draw_number(text: str, low: int, high: int) -> int:
    """Return a whole number. Raises UserError unless it is between low and high."""
    fits = text.isascii() and text.isdecimal() and len(text) < 9 and low <= int(text) <= high
    require(fits, f"{text[:40]!r} is not a whole number from {low} to {high}")
    return int(text)


@dataclass(frozen=True, kw_only=True)
class Draws(Parameter):
    """The number of draws; its value is the range of their indices."""

    def read(self, text: str) -> range:
        return range(draw_number(text, 1, MOST_DRAWS))
