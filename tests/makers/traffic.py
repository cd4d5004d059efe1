"""Counts of operations and of the memory traffic of torch code."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["Traffic"]

# Operations that only take memory.
ALLOCATING = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
# Operations in place that do not read what they write to.
OVERWRITING = ("copy_", "fill_", "zero_")


def bytes_in(value: Any) -> int:
    """Return the bytes of the tensors in a value, without repetitions (a stride of 0)."""
    num = 0
    for one in tree_leaves(value):
        if isinstance(one, torch.Tensor):
            sides = zip(one.shape, one.stride(), strict=True)
            num += math.prod(side for side, stride in sides if stride) * one.element_size()
    return num


@dataclass
class Traffic(TorchDispatchMode):
    """Count of the operations within a `with` block, and of the bytes that they read and write.

    Each operation reads its inputs once and writes its results once, as if nothing stayed in a
    cache. Views are free. Tensors on the device "meta" have no data and cost no time.
    """

    operations: Counter[str] = field(default_factory=Counter)
    """Number of calls by name."""
    bytes: Counter[str] = field(default_factory=Counter)
    """Bytes read and written by name."""

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = func._schema.name.removeprefix("aten::")
        if func.is_view or name in ALLOCATING:
            return result
        num = 0
        given = {one.name: value for one, value in zip(func._schema.arguments, args, strict=False)}
        for argument in func._schema.arguments:
            value = kwargs.get(argument.name, given.get(argument.name))
            written = argument.alias_info is not None and argument.alias_info.is_write
            read = not written or not (argument.is_out or name in OVERWRITING)
            num += (written + read) * bytes_in(value)
        if not any(one.alias_info for one in func._schema.returns):
            num += bytes_in(result)
        self.operations[name] += 1
        self.bytes[name] += num
        return result
