"""Linear heads on fixed features: many multinomial logistic regressions, fitted together.

Each fold, inner fold and L2 penalty is one problem. All problems use the same rows and differ in
the row weights and the penalty, so that one matrix product serves all of them. Newton's method with
conjugate gradients runs on all problems at the same time, in the principal axes of the features,
where the curvature is nearly diagonal. The minimum of each problem is unique, so it depends neither
on the axes nor on the other problems.

Letters of array names in this module: N rows, D features, X principal axes (at most D), Y = X + 1
(the axes and the intercept), Z problems, C classes, E classes that occur in the rows.

References
----------
Lin, Weng and Keerthi (2008): Trust Region Newton Method for Logistic Regression.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from foldblend.errors import UserError
from foldblend.streams import print_aside
from pipeline.memory import is_out_of_memory

__all__ = ["ROUGH", "Head", "fit_heads"]

# Limits of Newton steps per problem and of conjugate gradient steps per Newton step.
MOST_STEPS = 50
MOST_INNER_STEPS = 200
# Tolerance of the Newton decrement at which logits are within about 1e-5 of the optimum.
EXACT = 1e-13
# Tolerance at which log losses are within about 1e-3, enough to choose an L2 penalty.
ROUGH = 1e-5
# A Newton decrement above this value means that the optimum was not found.
FAR = 1e-4
# Halvings of a step that goes too far.
MOST_HALVINGS = 60
# p (1 - p) of a typical softmax, for the preconditioner; only the speed depends on it.
CURVATURE = 0.1
# Relative residual at which the conjugate gradients of a Newton step stop.
FORCING = 0.1
# Lower limit of denominators.
TINY = 1e-30


@dataclass(frozen=True)
class Head:
    """Linear maps from principal axes to logits, one per problem."""

    weight_ZXC: np.ndarray
    bias_ZC: np.ndarray

    def logits(self, rows_NX: np.ndarray, problem: int) -> np.ndarray:
        """Return the N x C float64 logits of one problem's head."""
        return rows_NX @ self.weight_ZXC[problem] + self.bias_ZC[problem]


class _Problems:
    """Losses, gradients and curvatures of all problems, in one floating-point precision.

    The intercept is the last of the Y axes. Weights are Z x Y x E, logits N x Z x E.
    """

    def __init__(
        self,
        rows_NX: np.ndarray,
        label_N: np.ndarray,
        weight_ZN: np.ndarray,
        l2_Z: np.ndarray,
        variance_X: np.ndarray,
        present_ZE: np.ndarray,
        share_NE: np.ndarray | None,
        *,
        dtype: torch.dtype,
        device: torch.device | None,
    ) -> None:
        def tensor(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(array).to(device=device, dtype=dtype)

        total_Z = weight_ZN.sum(axis=1)
        self.rows_NY = tensor(np.concatenate([rows_NX, np.ones((len(rows_NX), 1))], axis=1))
        # Losses are means here (weights that sum to 1), so the penalties are divided as well.
        self.share_NZ = tensor((weight_ZN / total_Z[:, None]).T.copy())
        self.target_N = torch.from_numpy(label_N).to(device)
        # Shares of classes that rows learn; None: each learns its label.
        self.target_N1E = None if share_NE is None else tensor(share_NE)[:, None]
        self.every_row = torch.arange(len(rows_NX), device=device)
        self.absent_ZE = tensor(np.where(present_ZE, 0.0, -np.inf))
        self.penalty_ZY1 = tensor(
            np.repeat((l2_Z / total_Z)[:, None, None], self.rows_NY.shape[1], axis=1)
        )
        self.penalty_ZY1[:, -1] = 0
        self.diagonal_ZY1 = self.penalty_ZY1 + CURVATURE * tensor(
            np.append(variance_X, 1.0)[:, None]
        )

    def logits(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the logits of all rows, N x Z x E."""
        num_problems, num_axes, num_classes = weight.shape
        return (self.rows_NY @ weight.permute(1, 0, 2).reshape(num_axes, -1)).view(
            -1, num_problems, num_classes
        )

    def back(self, values: torch.Tensor) -> torch.Tensor:
        """Return the products of N x Z x E values with the rows, summed over rows: Z x Y x E."""
        num_rows, num_problems, num_classes = values.shape
        return (
            (self.rows_NY.T @ values.reshape(num_rows, -1))
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
        return self.back(residual * self.share_NZ[:, :, None]) + self.penalty_ZY1 * weight

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
        norm = _dot(residual, scaled)
        enough = norm * FORCING**2
        for _ in range(MOST_INNER_STEPS):
            active = norm > enough
            if not active.any():
                break
            # `curved` is the Hessian times `direction`.
            slope = self.logits(direction)
            spread = proba * (slope - (proba * slope).sum(dim=-1, keepdim=True)) * share
            curved = self.back(spread) + self.penalty_ZY1 * direction
            length = torch.where(active, norm / _dot(direction, curved).clamp_min(TINY), 0.0)[
                :, None, None
            ]
            step = step + length * direction
            residual = residual - length * curved
            scaled = residual / self.diagonal_ZY1
            before = norm
            norm = torch.where(active, _dot(residual, scaled), norm)
            direction = scaled + (norm / before.clamp_min(TINY))[:, None, None] * direction
        return step

    def along(
        self, logits: torch.Tensor, slope: torch.Tensor, weight: torch.Tensor, step: torch.Tensor
    ) -> torch.Tensor:
        """Return the step length of each problem, by two Newton steps of a line search."""
        known = (self.own(slope) * self.share_NZ).sum(dim=0)
        linear = _dot(self.penalty_ZY1 * step, weight)
        square = _dot(self.penalty_ZY1 * step, step)
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
        return (loss * self.share_NZ).sum(dim=0) + _dot(self.penalty_ZY1 * weight, weight) / 2

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


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a * b).sum(dim=(1, 2))


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    """Switch off TF32, which rounds the factors of float32 products to ten bits on a GPU."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


@_full_precision()
def fit_heads(
    rows_NX: np.ndarray,
    label_N: np.ndarray,
    weight_ZN: np.ndarray,
    l2_Z: np.ndarray,
    *,
    num_classes: int,
    variance_X: np.ndarray,
    tolerance: float = EXACT,
    start: Head | None = None,
    device: torch.device | None = None,
    share_NC: np.ndarray | None = None,
) -> Head:
    """Fit the heads of all problems.

    The head of problem z minimises ::

        sum_n weight_zn crossentropy(n) + l2_z / 2 |W_z|^2

    The intercept is not penalised. The penalty is 1 / C of scikit-learn's LogisticRegression.

    Parameters
    ----------
    rows_NX, variance_X
        Rows and variances in the axes of `principal_axes`.
    label_N
        Class of each row.
    weight_ZN
        Row weights of each problem; rows of weight 0 are not used.
    l2_Z
        L2 penalty of each problem.
    num_classes
        Number of classes, C; a class may lack rows.
    tolerance
        Newton decrement at which a problem is solved.
    start
        Heads near the solution, from which the search starts.
    device
        Where to compute; None: the CPU, which also takes what a GPU has no memory for.
    share_NC
        Shares of classes that the rows learn, which sum to 1; None: each learns its label.

    Returns
    -------
    Head
        The heads, in float64.

    Raises
    ------
    UserError
        If a head is still far from its optimum after the last step.
    """
    if share_NC is None:
        classes, target_N = np.unique(label_N, return_inverse=True)
        share_NE = None
        present_ZE = np.stack(
            [weight_ZN[:, target_N == c].sum(axis=1) > 0 for c in range(len(classes))], axis=1
        )
    else:
        classes = np.flatnonzero((share_NC > 0).any(axis=0))
        target_N = np.zeros(len(label_N), np.int64)
        share_NE = share_NC[:, classes]
        present_ZE = weight_ZN @ share_NE > 0
    known = None
    if start is not None:
        known = np.concatenate([start.weight_ZXC, start.bias_ZC[:, None]], axis=1)[:, :, classes]
        known = np.where(present_ZE[:, None], known, 0.0)
    data = (rows_NX, target_N, weight_ZN, l2_Z, variance_X, present_ZE, share_NE)
    try:
        found = _solve(data, known, tolerance, device)
    except RuntimeError as error:
        if device is None or not is_out_of_memory(error):
            raise
        found = None
    # Not within the handler: the error's traceback keeps the tensors of the try alive.
    if found is None:
        print_aside(f"{device}: too little memory for the linear heads; the CPU fits them")
        torch.cuda.empty_cache()
        found = _solve(data, known, tolerance, None)
    return _all_classes(found, present_ZE, classes, num_classes, (weight_ZN > 0).sum(axis=1))


def _solve(
    data: Sequence[Any],
    known: np.ndarray | None,
    tolerance: float,
    device: torch.device | None,
) -> np.ndarray:
    """Return the weights Z x Y x E of all problems, from `known` ones near them."""
    *_, share_NE = data
    if share_NE is not None:
        # Shares of nearly 0 need shorter steps.
        return _newton(data, known, tolerance, device, careful=True)
    found = _newton(data, known, tolerance, device, careful=False)
    if np.isfinite(found).all():
        return found
    # Where probabilities are nearly 0 or 1, as with random weights, a step can go much too far.
    return _newton(data, None, tolerance, device, careful=True)


def _newton(
    data: Sequence[Any],
    known: np.ndarray | None,
    tolerance: float,
    device: torch.device | None,
    *,
    careful: bool,
) -> np.ndarray:
    """Return the weights of all problems; a `careful` search shortens steps that do not help."""

    def problems(dtype: torch.dtype) -> _Problems:
        return _Problems(*data, dtype=dtype, device=device)

    # The direction of a step may be inexact, and float32 takes half the time of float64.
    quick = problems(torch.float32)
    exact = quick if tolerance >= ROUGH else problems(torch.float64)
    dtype = exact.rows_NY.dtype
    num_problems, num_classes = exact.absent_ZE.shape
    weight = torch.zeros(
        (num_problems, exact.rows_NY.shape[1], num_classes), dtype=dtype, device=device
    )
    if known is not None:
        weight[:] = torch.from_numpy(known)
    logits = exact.logits(weight)
    for _ in range(MOST_STEPS):
        proba = exact.proba(logits)
        grad = exact.gradient(proba, weight)
        open_Z = _dot(grad, grad / exact.diagonal_ZY1) > tolerance
        if not open_Z.any():
            break
        # Gradients are scaled to 1, since small ones would underflow in float32.
        size = grad.abs().amax(dim=(1, 2), keepdim=True).clamp_min(TINY)
        step = quick.newton(proba.float(), (grad / size).float(), open_Z).to(dtype) * size
        slope = exact.logits(step)
        length = exact.along(logits, slope, weight, step)[:, None]
        if careful:
            length = exact.shortened(length[:, 0], logits, slope, weight, step)[:, None]
        weight = weight + length[:, :, None] * step
        logits = logits + length * slope
    else:
        if (_dot(grad, grad / exact.diagonal_ZY1) > FAR).any():
            raise UserError(
                "--head-l2: the fit of a linear head did not converge; pass larger values"
            )
    weights: np.ndarray = weight.double().cpu().numpy()
    return weights


def _all_classes(
    weight_ZYE: np.ndarray,
    present_ZE: np.ndarray,
    classes: np.ndarray,
    num_classes: int,
    num_rows_Z: np.ndarray,
) -> Head:
    """Return heads for all C classes from weights for the E classes that occur.

    A class without a row in a problem gets the mean logit of the others minus log(1 + number of
    rows), which is finite and makes the class unlikely.
    """
    share_ZE = present_ZE / present_ZE.sum(axis=1, keepdims=True)
    mean_ZY = np.einsum("zye,ze->zy", weight_ZYE, share_ZE)
    mean_ZY[:, -1] -= np.log1p(num_rows_Z)
    every = np.repeat(mean_ZY[:, :, None], num_classes, axis=2)
    every[:, :, classes] = np.where(present_ZE[:, None], weight_ZYE, every[:, :, classes])
    return Head(every[:, :-1], every[:, -1])
