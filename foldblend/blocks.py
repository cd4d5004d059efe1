"""Tables in blocks of rows, so that memory holds one block beside the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

__all__ = ["ROWS_AT_ONCE", "block_starts", "in_blocks"]

ROWS_AT_ONCE = 2**20
"""Rows of a block. A row group of a file has as many by default."""


def block_starts(num_rows: int, size: int | None = None) -> Iterator[slice]:
    """Yield the slices of the blocks of a table; an empty one has one empty block.

    Examples
    --------
    >>> [*block_starts(5, 2)]
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    size = ROWS_AT_ONCE if size is None else size
    for start in range(0, max(num_rows, 1), size):
        yield slice(start, min(start + size, num_rows))


def in_blocks(
    function: Callable[..., np.ndarray],
    *arrays: np.ndarray,
    out: np.ndarray | None = None,
    size: int | None = None,
) -> np.ndarray:
    """Return a function of rows, computed block by block.

    Parameters
    ----------
    function
        Function of arrays with equally many rows, which gives an array with as many. Each row of
        it depends on the same row of the arguments only.
    arrays
        Its arguments.
    out
        Array for the result, which may be one of the arguments.
    size
        Rows of a block (default: ROWS_AT_ONCE).

    Examples
    --------
    >>> in_blocks(np.add, np.arange(3), np.arange(3)).tolist()
    [0, 2, 4]
    """
    num_rows = len(arrays[0])
    for rows in block_starts(num_rows, size):
        part = function(*(one[rows] for one in arrays))
        if len(part) == num_rows and out is None:
            return part
        if out is None:
            # Memory of the same layout: sums over classes depend on it in their last bits.
            is_fortran = part.ndim > 1 and part.flags.f_contiguous
            shape = (num_rows, *part.shape[1:])
            out = np.empty(shape, part.dtype, order="F" if is_fortran else "C")
        out[rows] = part
    assert out is not None
    return out
