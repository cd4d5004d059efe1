"""What stands after a colon in a view's name: read from text, and written in one way only."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from foldblend.errors import UserError, require

__all__ = ["MOST_DRAWS", "Draws", "File", "Number", "Parameter", "Place", "draw_number"]

MOST_DRAWS = 100  # of one source: each is a forward pass over everything
_NUMBER = re.compile(
    r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII
)  # float() takes nan, inf and 1_0 as well


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A value of a view."""

    letter: str
    """What it is called in help."""
    default: Any = None
    """Its value where none is given; None: it must be."""
    neutral: Any = None
    """The value at which the view is the identity, if there is one."""

    def read(self, text: str) -> Any:
        """Return the value. Raises UserError that says what is wrong with it, but not where it
        stood.
        """
        raise NotImplementedError

    def text(self, value: Any) -> str:
        """Return the one way in which a value is written."""
        return str(value)


@dataclass(frozen=True, kw_only=True)
class Number(Parameter):
    """A number between two bounds."""

    low: float
    high: float
    with_low: bool = True
    """Whether `low` itself will do."""

    def read(self, text: str) -> float:
        require(_NUMBER.fullmatch(text) is not None, f"{text[:40]!r} is no number")
        value = float(text)
        said = (
            f"{self.low:g} to {self.high:g}"
            if self.with_low
            else f"more than {self.low:g}, up to {self.high:g}"
        )
        within = self.low <= value <= self.high and (self.with_low or value != self.low)
        require(within, f"{self.letter} is {text[:40]}, but must be {said}")
        return value

    def text(self, value: float) -> str:
        return repr(value + 0.0).removesuffix(".0")  # + 0.0: minus zero is zero


@dataclass(frozen=True, kw_only=True)
class Place(Parameter):
    """One of a few words."""

    places: tuple[str, ...]

    def read(self, text: str) -> str:
        if text not in self.places:
            raise UserError(f"no such place as {text[:40]!r}; there are {', '.join(self.places)}")
        return text


@dataclass(frozen=True, kw_only=True)
class File(Parameter):
    """Path of a YAML file, which is not looked for here."""

    def read(self, text: str) -> str:
        require(text.endswith((".yaml", ".yml")), f"{text[:40]!r} is no .yaml file")
        return text


def draw_number(text: str, low: int, high: int) -> int:
    """Return a whole number. Raises UserError unless it is within low to high."""
    fits = text.isascii() and text.isdecimal() and len(text) < 9 and low <= int(text) <= high
    require(fits, f"{text[:40]!r} is no whole number from {low} to {high}")
    return int(text)


@dataclass(frozen=True, kw_only=True)
class Draws(Parameter):
    """How many draws: their numbers, from 0 on."""

    def read(self, text: str) -> range:
        return range(draw_number(text, 1, MOST_DRAWS))
