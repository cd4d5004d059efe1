"""Batches that are split when memory runs out, and limits that keep it from running out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from foldblend.errors import UserError

__all__ = ["Chunks", "Limits", "OutOfMemory", "is_out_of_memory"]

# Errors of CUDA's libraries that are no torch.OutOfMemoryError. cuDNN finds no algorithm when the
# working memory of all of them is too large.
WORDS = (
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    # Both libraries say so where there is no memory for their working memory.
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_NOT_INITIALIZED",
    "unable to find an engine to execute this computation",
)


class OutOfMemory(UserError):
    """Error for memory that is too small even for the smallest passes."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out.

    Examples
    --------
    >>> is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling ..."))
    True
    >>> is_out_of_memory(RuntimeError("shape '[2]' is invalid for input of size 3"))
    False
    """
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in WORDS)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a fold on its device."""

    micro_batch: int | None = None
    """Images per forward pass in training; None: the batch size."""
    chunk: int | None = None
    """Images per forward pass in inference; None: the validation batch size."""
    releases: bool = False
    """Whether training and inference give their memory back to the GPU at the end."""


class Chunks:
    """Parts of batches that fit into memory, for passes without gradients.

    A part is a whole batch until memory runs out. The number of images per pass is then halved, and
    stays so for later batches.
    """

    def __init__(
        self, say: Callable[[str], None] = lambda _: None, *, most: int | None = None
    ) -> None:
        self.say = say
        self.most = most
        """Images per pass, None for whole batches."""

    def map(
        self, images: torch.Tensor, forward: Callable[[torch.Tensor], torch.Tensor]
    ) -> list[torch.Tensor]:
        """Return the results of consecutive parts of a batch.

        Raises OutOfMemory if a single image does not fit.

        Examples
        --------
        >>> [len(part) for part in Chunks().map(torch.zeros(5, 2), lambda part: part)]
        [5]
        """
        found: list[torch.Tensor] = []
        start = 0
        while start < len(images):
            part = images[start : start + (self.most or len(images))]
            try:
                found.append(forward(part))
                start += len(part)
                continue
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if len(part) == 1:
                    raise OutOfMemory(
                        "out of memory with one image at a time; pass a smaller --img-size"
                    ) from None
            # Not within the handler: the error's traceback keeps the tensors of the pass alive.
            if images.is_cuda:
                torch.cuda.empty_cache()
            self.most = -(-len(part) // 2)
            self.say(
                f"out of memory: continuing with {self.most} images per forward pass at inference"
            )
        return found
