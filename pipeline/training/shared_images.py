"""Decoded images in the memory of a GPU, held by one process and read by others on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.multiprocessing.reductions import reduce_tensor

from foldblend.errors import in_a_line

__all__ = ["SharedImages"]


@dataclass(frozen=True, kw_only=True)
class SharedImages:
    """A way to a tensor of another process, which must stay alive meanwhile.

    torch shares the memory itself (cudaIpcGetMemHandle), so that nothing is copied. Each receiver
    needs an object of its own.
    """

    rebuild: Callable[..., torch.Tensor]
    parts: tuple[Any, ...]

    @staticmethod
    def of(pixels: torch.Tensor) -> SharedImages:
        """Return the way to a tensor of this process.

        Raises RuntimeError where the system cannot share the memory of a GPU, as in WSL.
        """
        rebuild, parts = reduce_tensor(pixels)
        return SharedImages(rebuild=rebuild, parts=parts)

    def open(self, say: Callable[[str], None]) -> torch.Tensor | None:
        """Return the tensor, None where this process cannot reach it, which is said."""
        try:
            return self.rebuild(*self.parts)
        except (RuntimeError, OSError) as error:
            say(
                f"images of another process cannot be read on the GPU ({in_a_line(error)}); this"
                " process reads them from the cache"
            )
            return None
