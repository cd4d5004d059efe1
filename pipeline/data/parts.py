"""Parts of batches and of tables that one of several processes takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import BatchSampler

from foldblend.errors import UserError, counted

__all__ = ["WHOLE", "Part", "PartBatches"]


@dataclass(frozen=True, slots=True)
class Part:
    """The part of one process: an equal share of each training batch, and whole other batches."""

    rank: int = 0
    size: int = 1

    def of_step(self, num: int, batch_size: int) -> list[np.ndarray]:
        """Return the rows of this process in each forward pass of a step.

        Passes are as long as those of one process, and each is shared by all processes.

        Parameters
        ----------
        num
            Number of rows of the step.
        batch_size
            Images of one forward pass of all processes.

        Examples
        --------
        >>> [rows.tolist() for rows in Part(1, 2).of_step(8, 4)]
        [[2, 3], [6, 7]]
        """
        passes = np.array_split(np.arange(num), -(-num // batch_size))
        return [np.array_split(rows, self.size)[self.rank] for rows in passes]

    def rows(self, num: int, batch_size: int) -> np.ndarray:
        """Return the rows of this process in a step of `num` rows (see `of_step`)."""
        return np.concatenate(self.of_step(num, batch_size))

    def of_table(self, num: int, batch_size: int) -> np.ndarray:
        """Return the rows of a table that this process predicts: every `size`-th whole batch.

        Each batch is one that a single process would predict too, so its logits have equal bits.

        Examples
        --------
        >>> Part(0, 2).of_table(5, 2).tolist(), Part(1, 2).of_table(5, 2).tolist()
        ([0, 1, 4], [2, 3])
        """
        row_N = np.arange(num)
        return row_N[row_N // batch_size % self.size == self.rank]

    def check(self, num_rows: int, batch_size: int, accumulated: int) -> None:
        """Raise UserError where a step has too few training rows for each process to have one."""
        num = min(num_rows, batch_size * accumulated)
        if self.size > 1 and num // -(-num // batch_size) < self.size:
            raise UserError(
                f"--nproc-per-node {self.size}: a fold has {counted(num_rows, 'training row')}, so"
                " that a process would have none; start fewer processes"
            )


WHOLE = Part()


class PartBatches:
    """Batches of a sampler's keys, of which a process loads its own part."""

    def __init__(
        self, sampler: Any, size: int, part: Part, *, drop_last: bool, split: int | None
    ) -> None:
        """Take batches of `size` keys; `split` is the length of a forward pass in training.

        None: whole batches are shared out, as at inference.
        """
        self.sampler = sampler
        self.size = size
        self.part = part
        self.drop_last = drop_last
        self.split = split

    def __len__(self) -> int:
        num = len(self.sampler)
        full = num // self.size if self.drop_last else -(-num // self.size)
        return full if self.split is not None else len(range(self.part.rank, full, self.part.size))

    def __iter__(self) -> Iterator[list[Any]]:
        batches = BatchSampler(self.sampler, self.size, self.drop_last)
        for number, keys in enumerate(batches):
            if self.split is not None:
                yield [keys[row] for row in self.part.rows(len(keys), self.split)]
            elif number % self.part.size == self.part.rank:
                yield keys
