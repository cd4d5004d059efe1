"""Learning rate range test (Smith 2017): train a moment with a rising rate and watch the loss.

    L. N. Smith, Cyclical learning rates for training neural networks, WACV 2017

The rate rises exponentially, a step at a time. The test ends where the mean of the last `WINDOW`
losses is `DIVERGED` times the lowest such mean, a loss is not finite, or all steps are taken. A
third of the rate at the lowest loss is taken, since the loss is about to rise there. fastai's rule
"minimum" takes a tenth, which was too low where it could be compared with measured rates
(docs/training.md).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d

from pipeline.training.finite import NotFiniteError
from pipeline.training.fit import Fit

__all__ = ["Curve", "choose_rate", "num_steps", "range_test", "rates_around"]

# The test goes from a hundredth of the rate of --lr auto to a hundred times it.
SPAN = 100.0
MOST_STEPS = 100
LEAST_STEPS = 20
# As in fastai, which also compares smoothed losses: those of single small batches are noise.
DIVERGED = 4.0
WINDOW = 10
# Share of the steps over which the loss is smoothed (standard deviation of a Gaussian).
SMOOTHED = 0.03
# The loss has to fall by this share of its value at the start.
LEAST_FALL = 0.02
# And by this many standard errors of the difference of two smoothed losses.
NOISE = 3.0
SAFETY = 3.0
# The rate that is taken is within this factor of that of --lr auto.
BOUND = 10.0


@dataclass(frozen=True, slots=True)
class Curve:
    """The training losses of a range test."""

    lr_L: np.ndarray
    """Peak learning rate of each step."""
    loss_L: np.ndarray
    """Training loss of the batch of each step, before the step."""


def num_steps(all_steps: int) -> int:
    """Return how many steps a test has where training has `all_steps`; 0: too few for a test.

    A test takes no more than half as long as training.
    """
    steps = min(MOST_STEPS, all_steps // 2)
    return steps if steps >= LEAST_STEPS else 0


class _Rising:
    """Schedule whose rate rises exponentially; a step returns to no earlier rate."""

    def __init__(self, optimizer: torch.optim.Optimizer, lr_L: np.ndarray) -> None:
        self.optimizer = optimizer
        # Layer-wise decay scales the groups of parameters.
        self.shares = [group["lr"] / lr_L[0] for group in optimizer.param_groups]
        self.lr_L = lr_L
        self.taken = 0

    def step(self) -> None:
        self.taken += 1
        rate = float(self.lr_L[min(self.taken, len(self.lr_L) - 1)])
        for group, share in zip(self.optimizer.param_groups, self.shares, strict=True):
            group["lr"] = share * rate

    def state_dict(self) -> dict[str, Any]:
        return {"taken": self.taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.taken = state["taken"]


def rates_around(rate: float, steps: int) -> np.ndarray:
    """Return the learning rates of a test around the rate of --lr auto."""
    return np.geomspace(rate / SPAN, rate * SPAN, steps)


class _Ended(Exception):
    """Signal that a test needs no further steps."""


def _has_diverged(losses: Sequence[float]) -> bool:
    """Return whether a test ends, given the losses of its steps so far."""
    if not np.isfinite(losses[-1]):
        return True
    if len(losses) < WINDOW:
        return False
    mean_X = np.convolve(losses, np.full(WINDOW, 1 / WINDOW), mode="valid")
    return bool(mean_X[-1] > DIVERGED * mean_X.min())


def range_test(fit: Fit, loader: Any, lr_L: np.ndarray) -> Curve:
    """Train a model with rising learning rates and return its losses.

    Parameters
    ----------
    fit
        A new model in training, whose peak learning rate is the first of `lr_L` and whose settings
        have enough epochs for all of them.
    loader
        Training batches.
    lr_L
        Learning rate of each step.
    """
    fit.schedule = _Rising(fit.optimizer, lr_L)
    losses: list[float] = []
    # Sum of the losses of the epoch so far, and its number of images.
    before = (0.0, 0)

    def after_step() -> None:
        nonlocal before
        total = float(fit.loss_sum)
        start = (0.0, 0) if fit.step == 1 else before
        losses.append((total - start[0]) / (fit.images_seen - start[1]))
        before = (total, fit.images_seen)
        if len(losses) >= len(lr_L) or _has_diverged(losses):
            raise _Ended

    with contextlib.suppress(_Ended, NotFiniteError):
        for _ in fit.epochs(loader, after_step=after_step):
            pass
    return Curve(lr_L[: len(losses)], np.array(losses))


def _standard_error(loss_L: np.ndarray, width: float) -> float:
    """Return the standard error of the difference of two losses that a Gaussian has smoothed.

    The noise is estimated from successive losses, by their median so that a rise at the end does
    not count.
    """
    deviation = np.median(np.abs(np.diff(loss_L))) / (np.sqrt(2) * 0.6745)
    return float(deviation / np.sqrt(np.sqrt(np.pi) * width))


def choose_rate(curve: Curve, *, around: float) -> tuple[float | None, str]:
    """Return the learning rate that a test finds, or None, and the reason in words.

    Parameters
    ----------
    curve
        The losses.
    around
        The rate of --lr auto, of which the answer is at most `BOUND` times or the same part.

    Examples
    --------
    >>> lr_L = np.geomspace(1e-5, 1e-1, 81)
    >>> valley_L = 1 + np.log10(lr_L / 1e-2) ** 2
    >>> choose_rate(Curve(lr_L, valley_L), around=1e-3)
    (0.0033, 'a third of the rate with the lowest loss')
    """
    finite = np.isfinite(curve.loss_L)
    loss_L = curve.loss_L[finite]
    if len(loss_L) < LEAST_STEPS // 2:
        return None, f"the loss diverged after {len(loss_L)} steps"
    width = max(1.0, SMOOTHED * len(loss_L))
    smooth_L = gaussian_filter1d(loss_L, width, mode="nearest")
    least = int(smooth_L.argmin())
    if smooth_L[least] > (1 - LEAST_FALL) * smooth_L[0]:
        return None, "the loss never fell"
    if smooth_L[0] - smooth_L[least] < NOISE * _standard_error(loss_L, width):
        return None, "the loss never fell by more than its noise"
    rate = curve.lr_L[finite][least] / SAFETY
    bounded = float(np.clip(rate, around / BOUND, around * BOUND))
    what = "a third of the rate with the lowest loss"
    if bounded != rate:
        what += f", bounded to {BOUND:g} times the rate of auto, or to 1 / {BOUND:g} of it"
    return float(f"{bounded:.1e}"), what
