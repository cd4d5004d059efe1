"""Layers of a model whose outputs still have places in the image: a grid of positions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["Grid", "Layer", "layers_with_places"]

# Fewer positions a side do not tell where.
LEAST_SIDE = 4
# A layer in the first part of a model shows edges and colours, not what was recognised.
FIRST_PART = 1 / 3
# Height and width of a grid may differ by this factor from those of the image, since small grids
# are rounded.
MOST_STRETCH = 1.5


@dataclass(frozen=True, slots=True)
class Grid:
    """Place of an image's positions in the output of a layer."""

    height: int
    width: int
    channels_last: bool = False
    num_prefix: int | None = None
    """Tokens before those of the positions, such as the class token; None: the output has a height
    and a width.
    """

    def of(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return outputs as N x H x W x C.

        Examples
        --------
        >>> Grid(2, 3, num_prefix=1).of(torch.zeros(5, 7, 8)).shape
        torch.Size([5, 2, 3, 8])
        """
        if self.num_prefix is not None:
            tokens = outputs[:, self.num_prefix :]
            return tokens.reshape(len(outputs), self.height, self.width, -1)
        return outputs if self.channels_last else outputs.permute(0, 2, 3, 1)


@dataclass(frozen=True, slots=True)
class Layer:
    """A module of a model, with its name and the grid of its output."""

    name: str
    module: torch.nn.Module
    grid: Grid


@dataclass(frozen=True, slots=True)
class _Tokens:
    """Positions of a model that cuts images into patches."""

    height: int
    width: int
    num_prefix: int
    num_features: int | None

    @property
    def number(self) -> int:
        return self.num_prefix + self.height * self.width


def _tokens_of(model: torch.nn.Module) -> _Tokens | None:
    """Return the patches of a model by the attributes that timm's models have, or None."""
    for owner in model.modules():
        for part in owner.children():
            grid: Any = getattr(part, "grid_size", None)
            if isinstance(grid, tuple) and len(grid) == 2:
                return _Tokens(
                    int(grid[0]),
                    int(grid[1]),
                    int(getattr(owner, "num_prefix_tokens", 0)),
                    getattr(owner, "num_features", None),
                )
    return None


def _fits(height: int, width: int, size: tuple[int, int]) -> bool:
    """Return whether a grid may be the positions of an image of this height and width."""
    if min(height, width) < LEAST_SIDE or 2 * height > size[0] or 2 * width > size[1]:
        return False
    stretch = (size[0] / height) / (size[1] / width)
    return 1 / MOST_STRETCH <= stretch <= MOST_STRETCH


def grid_of(shape: torch.Size, size: tuple[int, int], tokens: _Tokens | None) -> Grid | None:
    """Return the grid of outputs of a shape, or None if they have no positions.

    `size` is the height and width of the image.

    Examples
    --------
    >>> grid_of(torch.Size([8, 64, 7, 5]), (224, 168), None)
    Grid(height=7, width=5, channels_last=False, num_prefix=None)
    >>> grid_of(torch.Size([8, 64, 1, 1]), (224, 168), None)
    """
    if len(shape) == 3 and tokens is not None:
        is_whole = tokens.num_features in (None, shape[2])
        if shape[1] == tokens.number and is_whole:
            return Grid(tokens.height, tokens.width, num_prefix=tokens.num_prefix)
    if len(shape) != 4:
        return None
    # The rows and columns of an attention matrix are tokens, not places.
    if tokens is not None and tokens.number in shape[1:]:
        return None
    if _fits(shape[2], shape[3], size):
        return Grid(shape[2], shape[3])
    if _fits(shape[1], shape[2], size):
        return Grid(shape[1], shape[2], channels_last=True)
    return None


def layers_with_places(model: torch.nn.Module, images: torch.Tensor) -> Iterator[Layer]:
    """Yield the layers of a model whose outputs have positions, the last one first.

    Parameters
    ----------
    model
        The model, in evaluation mode.
    images
        Standardised pixels, N x 3 x H x W.
    """
    seen: list[tuple[str, torch.nn.Module, torch.Size | None]] = []

    def watch(name: str, module: torch.nn.Module) -> torch.utils.hooks.RemovableHandle:
        def hook(module: torch.nn.Module, _: Any, outputs: Any) -> None:
            shape = outputs.shape if isinstance(outputs, torch.Tensor) else None
            seen.append((name, module, shape))

        return module.register_forward_hook(hook)

    handles = [watch(name, module) for name, module in model.named_modules() if name]
    try:
        with torch.no_grad():
            model(images[:1])
    finally:
        for handle in handles:
            handle.remove()
    tokens = _tokens_of(model)
    # A module that is used twice has two outputs.
    times = Counter(name for name, _, _ in seen)
    size = (images.shape[2], images.shape[3])
    for name, module, shape in reversed(seen[int(FIRST_PART * len(seen)) :]):
        grid = None if shape is None or times[name] > 1 else grid_of(shape, size, tokens)
        if grid is not None:
            yield Layer(name, module, grid)
