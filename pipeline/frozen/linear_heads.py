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
import dataclasses
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from foldblend.errors import UserError
from foldblend.streams import print_aside
from pipeline.device import large_arrays_given_back
from pipeline.frozen.head_problems import TINY, HeadRows, Problems, dot
from pipeline.memory import is_out_of_memory

__all__ = ["ROUGH", "Head", "fit_heads"]

# Limit of Newton steps per problem.
MOST_STEPS = 50
# Tolerance of the Newton decrement at which logits are within about 1e-5 of the optimum.
EXACT = 1e-13
# Tolerance at which log losses are within about 1e-3, enough to choose an L2 penalty.
ROUGH = 1e-5
# Bytes of an array of all rows, classes and problems; problems that need more are fitted in turn.
MOST_BYTES = 2**28
# A Newton decrement above this value means that the optimum was not found.
FAR = 1e-4


@dataclass(frozen=True)
class Head:
    """Linear maps from principal axes to logits, one per problem."""

    weight_ZXC: np.ndarray
    bias_ZC: np.ndarray

    def logits(self, rows_NX: np.ndarray, problem: int) -> np.ndarray:
        """Return the N x C float64 logits of one problem's head."""
        return rows_NX @ self.weight_ZXC[problem] + self.bias_ZC[problem]


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
    data = _Data(rows_NX, target_N, weight_ZN, l2_Z, variance_X, present_ZE, share_NE)
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


@dataclass(frozen=True)
class _Data:
    """Rows, and the labels, weights and penalties of the problems on them."""

    rows_NX: np.ndarray
    target_N: np.ndarray
    weight_ZN: np.ndarray
    l2_Z: np.ndarray
    variance_X: np.ndarray
    present_ZE: np.ndarray
    share_NE: np.ndarray | None

    def part(self, at: slice) -> _Data:
        """Return some of the problems."""
        return dataclasses.replace(
            self,
            weight_ZN=self.weight_ZN[at],
            l2_Z=self.l2_Z[at],
            present_ZE=self.present_ZE[at],
        )

    def problems(self, rows: HeadRows) -> Problems:
        """Return the problems in the precision of `rows`, which are the same rows."""
        return Problems(
            rows,
            self.target_N,
            self.weight_ZN,
            self.l2_Z,
            self.variance_X,
            self.present_ZE,
            self.share_NE,
        )


RowsIn = Callable[[torch.dtype], HeadRows]


def _solve(
    data: _Data, known: np.ndarray | None, tolerance: float, device: torch.device | None
) -> np.ndarray:
    """Return the weights Z x Y x E of all problems, from `known` ones near them."""

    @functools.cache
    def rows_in(dtype: torch.dtype) -> HeadRows:
        return HeadRows(data.rows_NX, dtype=dtype, device=device)

    num_problems, num_classes = data.present_ZE.shape
    size = (torch.float32 if tolerance >= ROUGH else torch.float64).itemsize
    step = max(1, MOST_BYTES // (size * len(data.rows_NX) * num_classes))
    found = []
    with large_arrays_given_back() if step < num_problems else contextlib.nullcontext():
        for start in range(0, num_problems, step):
            at = slice(start, start + step)
            near = None if known is None else known[at]
            found.append(_solve_part(data.part(at), rows_in, near, tolerance))
    return np.concatenate(found)


def _solve_part(
    data: _Data, rows_in: RowsIn, known: np.ndarray | None, tolerance: float
) -> np.ndarray:
    """Return the weights of problems that are fitted together."""
    if data.share_NE is not None:
        # Shares of nearly 0 need shorter steps.
        return _newton(data, rows_in, known, tolerance, careful=True)
    found = _newton(data, rows_in, known, tolerance, careful=False)
    if np.isfinite(found).all():
        return found
    # Where probabilities are nearly 0 or 1, as with random weights, a step can go much too far.
    return _newton(data, rows_in, None, tolerance, careful=True)


def _newton(
    data: _Data, rows_in: RowsIn, known: np.ndarray | None, tolerance: float, *, careful: bool
) -> np.ndarray:
    """Return the weights of all problems; a `careful` search shortens steps that do not help."""
    # The direction of a step may be inexact, and float32 takes half the time of float64.
    quick = data.problems(rows_in(torch.float32))
    exact = quick if tolerance >= ROUGH else data.problems(rows_in(torch.float64))
    dtype = exact.rows.dtype
    num_problems, num_classes = exact.absent_ZE.shape
    weight = torch.zeros(
        (num_problems, exact.rows.num_axes, num_classes), dtype=dtype, device=exact.rows.device
    )
    if known is not None:
        weight[:] = torch.from_numpy(known)
    logits = exact.logits(weight)
    for _ in range(MOST_STEPS):
        proba = exact.proba(logits)
        grad = exact.gradient(proba, weight)
        open_Z = dot(grad, grad / exact.diagonal_ZY1) > tolerance
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
        if (dot(grad, grad / exact.diagonal_ZY1) > FAR).any():
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
