"""Check that losses and gradients are finite, without waiting for a GPU in each step."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import torch

from foldblend.errors import UserError

__all__ = ["FiniteCheck", "NotFiniteError"]


class NotFiniteError(UserError):
    """A loss or gradient that is not finite; `epoch` and `step` count from 0."""

    def __init__(self, what: str, epoch: int, step: int) -> None:
        super().__init__(f"epoch {epoch + 1} step {step + 1}: the {what} is not finite")
        self.what = what
        self.epoch = epoch
        self.step = step


class FiniteCheck:
    """Check that losses and gradients are finite.

    On the CPU a bad value is found before the update. On a GPU the values are copied while later
    steps are queued, because waiting for them would leave the GPU idle. `settle` waits for all
    values and must be called before a state is saved or scored.
    """

    def __init__(self) -> None:
        self.waiting: deque[tuple[Any, torch.Tensor, int, int]] = deque()

    def check(self, values_2: torch.Tensor, epoch: int, step: int) -> None:
        """Raise NotFiniteError if a loss or gradient norm so far is not finite."""
        if not values_2.is_cuda:
            self._require_finite(values_2, epoch, step)
            return
        here = torch.empty(2, pin_memory=True)
        here.copy_(values_2, non_blocking=True)
        self.waiting.append(
            (torch.cuda.current_stream(values_2.device).record_event(), here, epoch, step)
        )
        while self.waiting and self.waiting[0][0].query():
            self._require_finite(*self.waiting.popleft()[1:])

    def settle(self) -> None:
        """Wait for the values of all steps and check them."""
        while self.waiting:
            event, values_2, epoch, step = self.waiting.popleft()
            event.synchronize()
            self._require_finite(values_2, epoch, step)

    def _require_finite(self, values_2: torch.Tensor, epoch: int, step: int) -> None:
        for what, value in zip(("loss", "gradient"), values_2.tolist(), strict=True):
            if not math.isfinite(value):
                raise NotFiniteError(what, epoch, step)
