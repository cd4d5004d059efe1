"""Kinds of entries in the registry of views.

They read the arguments of a name and return the views that it expands to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from foldblend.errors import UserError, require
from tta.views.parameters import MOST_DRAWS, Parameter, draw_number

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CpuView", "DeviceView", "Entry", "Macro"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A name in the registry of views."""

    kind: ClassVar[str]
    """Where the view is computed: device, cpu, or several for a short name."""
    name: str
    does: str
    """One line for help: what the view shows."""
    example: str
    parameters: tuple[Parameter, ...] = ()

    @property
    def form(self) -> str:
        """The syntax, name:A:B; optional values are in brackets."""
        return self.name + "".join(
            f":{one.letter}" if one.default is None else f"[:{one.letter}]"
            for one in self.parameters
        )

    def read(self, texts: Sequence[str], draw: str | None) -> tuple[Any, ...]:
        """Return the values of the parameters.

        Parameters
        ----------
        texts
            The texts between the colons.
        draw
            The text after "#", which only drawn views have, or None.

        Raises
        ------
        UserError
            With the cure, but without the view's name.
        """
        cure = f"; write {self.form}" + (f", such as {self.example}" if self.parameters else "")
        try:
            return self._read(texts, draw)
        except UserError as error:
            raise UserError(f"{error}{cure}") from None

    def _read(self, texts: Sequence[str], draw: str | None) -> tuple[Any, ...]:
        require(draw is None, f"{self.name} has no draws; leave out # and what follows it")
        return self._values(texts)

    def _values(self, texts: Sequence[str]) -> tuple[Any, ...]:
        num = len(self.parameters)
        require(
            len(texts) <= num,
            f"{self.name} takes {num or 'no'} value{'s' * (num != 1)}, not {len(texts)}",
        )
        values = []
        for index, parameter in enumerate(self.parameters):
            text = texts[index] if index < len(texts) else None
            if text == "" or (text is None and parameter.default is None):
                raise UserError(f"{parameter.letter} is missing")
            values.append(parameter.default if text is None else parameter.read(text))
        return tuple(values)

    def views(self, values: Sequence[Any]) -> tuple[str, ...]:
        """Return the canonical names of the views that an entry with these values expands to."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class DeviceView(Entry):
    """A view that is a pure function on a batch of images, on the batch's device.

    The batch is N x 3 x H x W float in 0..255.
    """

    kind = "device"
    function: Callable[..., Tensor]

    def __call__(self, images: Tensor, *values: Any) -> Tensor:
        """Return the images in this view."""
        return self.function(images, *values)

    def views(self, values: Sequence[Any]) -> tuple[str, ...]:
        parts = list(zip(self.parameters, values, strict=True))
        if any(one.neutral is not None and one.neutral == value for one, value in parts):
            return ("identity",)
        return (":".join([self.name, *(one.text(value) for one, value in parts)]),)


@dataclass(frozen=True, kw_only=True)
class Macro(Entry):
    """A short name for several views."""

    kind = "several"
    expand: Callable[..., tuple[str, ...]]

    def views(self, values: Sequence[Any]) -> tuple[str, ...]:
        return self.expand(*values)


@dataclass(frozen=True, kw_only=True)
class CpuView(Entry):
    """A view that is drawn with a seed from the stored image while that is loaded.

    The last parameter is the number of draws. Draw k of a source is named source#k, even if there
    is only one.
    """

    kind = "cpu"

    def _read(self, texts: Sequence[str], draw: str | None) -> tuple[Any, ...]:
        if draw is None:
            return self._values(texts)
        require(
            len(texts) < len(self.parameters),
            "give either the number of draws after : or one draw after #, not both",
        )
        index = draw_number(draw, 0, MOST_DRAWS - 1)
        return (*self._values([*texts, "1"])[:-1], range(index, index + 1))

    def views(self, values: Sequence[Any]) -> tuple[str, ...]:
        source = ":".join(
            [
                self.name,
                *(
                    one.text(value)
                    for one, value in zip(self.parameters[:-1], values[:-1], strict=True)
                ),
            ]
        )
        return tuple(f"{source}#{index}" for index in values[-1])
