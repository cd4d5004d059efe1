"""Memory of a model's passes, counted with fake tensors: no GPU and no computation is needed.

Fake tensors have shapes and types, but no values. A forward and a backward pass on them take a
second or two, whatever the number and size of the images. What they allocate is what a GPU
allocates, except for the working memory of its libraries.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from foldblend.errors import in_a_line
from pipeline.models.backbones import start_training

__all__ = ["CannotCount", "LiveBytes", "peak_of", "size_of", "state_per_weight"]

# The allocator of a GPU gives out memory in blocks of this size.
BLOCK = 512


class CannotCount(Exception):
    """A model that fails on fake tensors, such as one that looks at values in `forward`."""


def size_of(tensors: Iterable[torch.Tensor]) -> int:
    """Return the bytes of tensors, in blocks as a GPU allocates them.

    Examples
    --------
    >>> size_of([torch.zeros(3), torch.zeros(200)])
    1536
    """
    return sum(_blocks(one.numel() * one.element_size()) for one in tensors)


def _blocks(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


class LiveBytes(TorchDispatchMode):
    """Counter of the memory that is in use, of all tensors made while it is active.

    Examples
    --------
    >>> with LiveBytes() as live:
    ...     first = torch.zeros(1000)
    ...     second = first + 1
    ...     del first
    ...     view = second[:10]
    >>> live.now, live.peak
    (4096, 8192)
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        """Bytes in use."""
        self.peak = 0
        """Largest number of bytes that were in use at a time."""
        self._known: Any = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count the memory of its results."""
        results = func(*args, **(kwargs or {}))
        for one in tree_leaves(results):
            if isinstance(one, torch.Tensor):
                self._count(one.untyped_storage())
        return results

    def _count(self, storage: Any) -> None:
        # Views share the memory of another tensor.
        if storage in self._known:
            return
        self._known.add(storage)
        size = _blocks(storage.nbytes())
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.now -= size


def peak_of(
    model: torch.nn.Module,
    shape: tuple[int, int, int, int],
    *,
    trains: bool,
    amp_dtype: torch.dtype | None,
    memory_format: torch.memory_format = torch.channels_last,
) -> int:
    """Count the memory that a pass of a model needs in addition to its weights and its input.

    Parameters
    ----------
    model
        The model, on the CPU. It is not changed, except for its mode (training or evaluation).
    shape
        Shape of the input, N x 3 x H x W.
    trains
        Count a forward and a backward pass, with the gradients; otherwise a pass for inference.
    amp_dtype
        Type of mixed precision; None for float32.
    memory_format
        Memory layout of the input.

    Returns
    -------
    int
        The largest number of bytes in use at a time.

    Raises
    ------
    CannotCount
        If the model fails on fake tensors.

    Examples
    --------
    >>> layer = torch.nn.Conv2d(3, 8, 1, bias=False)
    >>> model = torch.nn.Sequential(layer, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    >>> peak_of(model, (2, 3, 64, 64), trains=False, amp_dtype=None) // (2 * 8 * 64 * 64 * 4)
    1
    """
    if trains:
        start_training(model)
    else:
        model.eval()
    try:
        return _count_pass(model, shape, trains, amp_dtype, memory_format)
    except Exception as error:  # models of users and libraries may do anything with a tensor
        raise CannotCount(in_a_line(error)) from error


def _count_pass(
    model: torch.nn.Module,
    shape: tuple[int, int, int, int],
    trains: bool,
    amp_dtype: torch.dtype | None,
    memory_format: torch.memory_format,
) -> int:
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake:
        state: dict[str, torch.Tensor] = {
            name: torch.nn.Parameter(fake.from_tensor(one.detach()), one.requires_grad)
            for name, one in model.named_parameters()
        }
        state |= {name: fake.from_tensor(one.detach()) for name, one in model.named_buffers()}
        pixels = torch.empty(shape).contiguous(memory_format=memory_format)
        # torch without CUDA has no mixed precision of CUDA; that of the CPU has the same effect on
        # convolutions and matrix products, which is where the memory is.
        autocast = torch.autocast("cpu", dtype=amp_dtype, enabled=amp_dtype is not None)
        with LiveBytes() as live, torch.set_grad_enabled(trains):
            with autocast:
                logits = torch.func.functional_call(model, state, (pixels,)).float()
            if trains:
                target_N = torch.zeros(shape[0], dtype=torch.long)
                torch.nn.functional.cross_entropy(logits, target_N).backward()
        return live.peak


def state_per_weight(optimizer: torch.optim.Optimizer, width: int) -> float:
    """Return how many numbers an optimiser keeps per weight, from one step on a small matrix.

    `optimizer` has one parameter of width x width, which the step changes.

    Examples
    --------
    >>> weight = torch.nn.Parameter(torch.zeros(64, 64))
    >>> round(state_per_weight(torch.optim.AdamW([weight]), 64))
    2
    """
    weight = optimizer.param_groups[0]["params"][0]
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    kept = sum(
        one.numel()
        for state in optimizer.state.values()
        for one in tree_leaves(state)
        if isinstance(one, torch.Tensor)
    )
    return kept / width**2
