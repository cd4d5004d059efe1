"""Losses, gradients and Newton steps of many linear heads at once, on the same rows.

Letters of array names in this module: N rows, X principal axes, Y = X + 1 (the axes and the
intercept), Z problems, E classes that occur in the rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from foldblend.blocks import block_starts

__all__ = ["ONE_PASS", "TINY", "HeadRows", "Problems", "dot"]

# Limit of conjugate gradient steps per Newton step.
MOST_INNER_STEPS = 200
# Halvings of a step that goes too far.
MOST_HALVINGS = 60
# p (1 - p) of a typical softmax, for the preconditioner; only the speed depends on it.
CURVATURE = 0.1
# Relative residual at which the conjugate gradients of a Newton step stop.
FORCING = 0.1
# Lower limit of denominators.
TINY = 1e-30
# With up to so many rows, all of them are multiplied at once; with more, so many of those that are
# not kept.
ONE_PASS = 2**16
BLOCK = 2**13


class HeadRows:
    """Rows that all problems share, with a 1 for the intercept, in one floating-point precision.

    They are kept as a tensor if they are few, or on a GPU, or of float32, which most products use.
    Of many rows in float64, a copy would take as much memory as everything else.
    """

    def __init__(
        self, rows_NX: np.ndarray, *, dtype: torch.dtype, device: torch.device | None
    ) -> None:
        self.rows_NX = rows_NX
        self.dtype = dtype
        self.device = device
        keeps = len(rows_NX) <= ONE_PASS or dtype == torch.float32 or device is not None
        self._kept_NY = self._block(slice(None)) if keeps else None

    @property
    def num_axes(self) -> int:
        """Number of axes with the intercept, Y."""
        return self.rows_NX.shape[1] + 1

    def _block(self, at: slice) -> torch.Tensor:
        part_NX = torch.from_numpy(self.rows_NX[at])
        block_NY = torch.ones((len(part_NX), self.num_axes), dtype=self.dtype, device=self.device)
        block_NY[:, :-1] = part_NX
        return block_NY

    def _blocks(self) -> Iterator[slice]:
        return block_starts(len(self.rows_NX), BLOCK)

    def times(self, weight: torch.Tensor, found: torch.Tensor | None = None) -> torch.Tensor:
        """Return the products of all rows with the columns of Y weights, in `found` if given."""
        if found is None:
            found = weight.new_empty((len(self.rows_NX), weight.shape[1]))
        if self._kept_NY is not None:
            return torch.mm(self._kept_NY, weight, out=found)
        for at in self._blocks():
            torch.mm(self._block(at), weight, out=found[at])
        return found

    def summed(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sums over rows of all products of a row's axes with its values."""
        if self._kept_NY is not None:
            return self._kept_NY.T @ values
        found = values.new_zeros((self.num_axes, values.shape[1]))
        for at in self._blocks():
            found += self._block(at).T @ values[at]
        return found


class Problems:
    """Losses, gradients and curvatures of all problems, in one floating-point precision.

    The intercept is the last of the Y axes. Weights are Z x Y x E, logits N x Z x E.
    """

    def __init__(
        self,
        rows: HeadRows,
        label_N: np.ndarray,
        weight_ZN: np.ndarray,
        l2_Z: np.ndarray,
        variance_X: np.ndarray,
        present_ZE: np.ndarray,
        share_NE: np.ndarray | None,
    ) -> None:
        device = rows.device

        def tensor(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(array).to(device=device, dtype=rows.dtype)

        self.rows = rows
        total_Z = weight_ZN.sum(axis=1)
        # Losses are means here (weights that sum to 1), so the penalties are divided as well.
        self.share_NZ = tensor((weight_ZN / total_Z[:, None]).T.copy())
        self.target_N = torch.from_numpy(label_N).to(device)
        # Shares of classes that rows learn; None: each learns its label.
        self.target_N1E = None if share_NE is None else tensor(share_NE)[:, None]
        self.every_row = torch.arange(len(label_N), device=device)
        self.absent_ZE = tensor(np.where(present_ZE, 0.0, -np.inf))
        self.penalty_ZY1 = tensor(np.repeat((l2_Z / total_Z)[:, None, None], rows.num_axes, axis=1))
        self.penalty_ZY1[:, -1] = 0
        self.diagonal_ZY1 = self.penalty_ZY1 + CURVATURE * tensor(
            np.append(variance_X, 1.0)[:, None]
        )

    def logits(self, weight: torch.Tensor, found: torch.Tensor | None = None) -> torch.Tensor:
        """Return the logits of all rows, N x Z x E, in `found` if given."""
        num_problems, num_axes, num_classes = weight.shape
        room = None if found is None else found.view(len(found), -1)
        return self.rows.times(weight.permute(1, 0, 2).reshape(num_axes, -1), room).view(
            -1, num_problems, num_classes
        )

    def back(self, values: torch.Tensor) -> torch.Tensor:
        """Return the products of N x Z x E values with the rows, summed over rows: Z x Y x E."""
        num_rows, num_problems, num_classes = values.shape
        return (
            self.rows.summed(values.reshape(num_rows, -1))
            .view(-1, num_problems, num_classes)
            .permute(1, 0, 2)
        )

    def proba(self, logits: torch.Tensor) -> torch.Tensor:
        """Return probabilities, which are 0 for classes without a row in the problem."""
        return torch.softmax(logits + self.absent_ZE, dim=-1)

    def gradient(self, proba: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Return the gradient of each problem's objective."""
        if self.target_N1E is not None:
            residual = proba - self.target_N1E
        else:
            residual = proba.clone()
            residual[self.every_row, :, self.target_N] -= 1
        # In place, because arrays of all rows and problems may take most of the memory.
        residual *= self.share_NZ[:, :, None]
        return self.back(residual) + self.penalty_ZY1 * weight

    def own(self, values: torch.Tensor) -> torch.Tensor:
        """Return the values, of N x Z x E, of the class that each row learns: N x Z."""
        if self.target_N1E is not None:
            return (values * self.target_N1E).sum(dim=-1)
        return values[self.every_row, :, self.target_N]

    def newton(self, proba: torch.Tensor, grad: torch.Tensor, open_Z: torch.Tensor) -> torch.Tensor:
        """Return the approximate Newton step of the problems that `open_Z` marks.

        It solves -H step = grad by preconditioned conjugate gradients.
        """
        share = self.share_NZ[:, :, None]
        step = torch.zeros_like(grad)
        residual = -grad * open_Z[:, None, None]
        direction = scaled = residual / self.diagonal_ZY1
        norm = dot(residual, scaled)
        enough = norm * FORCING**2
        # New memory for each of many steps would take a third of the time.
        spread = torch.empty_like(proba)
        product = torch.empty_like(proba)
        for _ in range(MOST_INNER_STEPS):
            active = norm > enough
            if not active.any():
                break
            # `curved` is the Hessian times `direction`.
            self.logits(direction, spread)
            spread -= torch.mul(proba, spread, out=product).sum(dim=-1, keepdim=True)
            spread *= proba
            spread *= share
            curved = self.back(spread) + self.penalty_ZY1 * direction
            length = torch.where(active, norm / dot(direction, curved).clamp_min(TINY), 0.0)[
                :, None, None
            ]
            step = step + length * direction
            residual = residual - length * curved
            scaled = residual / self.diagonal_ZY1
            before = norm
            norm = torch.where(active, dot(residual, scaled), norm)
            direction = scaled + (norm / before.clamp_min(TINY))[:, None, None] * direction
        return step

    def along(
        self, logits: torch.Tensor, slope: torch.Tensor, weight: torch.Tensor, step: torch.Tensor
    ) -> torch.Tensor:
        """Return the step length of each problem, by two Newton steps of a line search."""
        known = (self.own(slope) * self.share_NZ).sum(dim=0)
        linear = dot(self.penalty_ZY1 * step, weight)
        square = dot(self.penalty_ZY1 * step, step)
        length = torch.ones_like(linear)
        for _ in range(2):
            proba = self.proba(logits + length[:, None] * slope)
            mean = (proba * slope).sum(dim=-1)
            first = (mean * self.share_NZ).sum(dim=0) - known + linear + length * square
            second = (((proba * slope * slope).sum(dim=-1) - mean * mean) * self.share_NZ).sum(
                dim=0
            ) + square
            length = (length - first / second.clamp_min(TINY)).clamp(0.05, 20.0)
        return length

    def objective(self, logits: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Return the objective of each problem."""
        loss = torch.logsumexp(logits + self.absent_ZE, dim=-1) - self.own(logits)
        # A class that a problem lacks has no share, but an infinite loss.
        loss = torch.where(self.share_NZ > 0, loss, 0.0)
        return (loss * self.share_NZ).sum(dim=0) + dot(self.penalty_ZY1 * weight, weight) / 2

    def shortened(
        self,
        length: torch.Tensor,
        logits: torch.Tensor,
        slope: torch.Tensor,
        weight: torch.Tensor,
        step: torch.Tensor,
    ) -> torch.Tensor:
        """Return step lengths that are halved until no problem's objective rises."""
        before = self.objective(logits, weight)
        length = torch.nan_to_num(length, nan=1.0)
        for _ in range(MOST_HALVINGS):
            after = self.objective(
                logits + length[:, None] * slope, weight + length[:, None, None] * step
            )
            rises = ~(after <= before + TINY)
            if not rises.any():
                break
            length = torch.where(rises, length / 2, length)
        return length


def dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the sum of the products of each problem, Z."""
    return (a * b).sum(dim=(1, 2))
