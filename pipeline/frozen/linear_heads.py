"""Linear heads on fixed features: multinomial logistic regressions, many at once.

Every fold, inner fold and strength of regularisation is a problem of its own over the same rows,
told apart by row weights. One matrix product serves them all: Newton's method with conjugate
gradients (Lin, Weng and Keerthi 2008) runs on each in step with the others, along the features'
principal axes, where the curvature is nearly diagonal. The minimum is unique, so neither the axes
nor the company change the answer.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from foldblend.errors import UserError
from folds.kfold import stratified_group_folds

__all__ = ["Axes", "Head", "choose_l2", "fit_heads", "own_scales", "principal_axes"]

MOST_STEPS = 50
MOST_INNER_STEPS = 200
EXACT = 1e-13  # of the Newton decrement: logits then are within about 1e-5 of the optimum's
ROUGH = 1e-5  # log losses within about 1e-3, enough to choose by
CURVATURE = 0.1  # p (1 - p) of a typical softmax; only the speed depends on it
FAR = 1e-4  # a Newton decrement that is no optimum's
NUM_INNER = 3
TINY = 1e-30
FORCING = 0.1  # how much of the gradient a Newton step may leave


@dataclass(frozen=True)
class Axes:
    """Features N x D turned into their principal axes N x K, and back."""

    mean_D: np.ndarray
    turn_DK: np.ndarray
    variance_K: np.ndarray

    def of(self, features_ND: np.ndarray) -> np.ndarray:
        """Return features in these axes, float64."""
        return (features_ND.astype(np.float64) - self.mean_D) @ self.turn_DK


def principal_axes(features_ND: np.ndarray) -> Axes:
    """Return the axes in which the rows are uncorrelated and their squared length averages 1.

    Turning and shifting changes no logit (the penalty is on the length, the intercept is free);
    axes without any variance are left out, as no solution leaves the span of the rows.
    """
    mean_D = features_ND.mean(axis=0, dtype=np.float64)
    centred = features_ND - mean_D
    many = (
        len(centred) > centred.shape[1]
    )  # otherwise the axes come from the smaller matrix of products
    variance, vectors = np.linalg.eigh(
        (centred.T @ centred if many else centred @ centred.T) / len(centred)
    )
    keep = variance > variance.max(initial=0) * 1e-12
    variance = variance[keep]
    vectors = vectors[:, keep]
    axes_DK = vectors if many else centred.T @ (vectors / np.sqrt(variance * len(centred)))
    total = variance.sum()
    if not total > 0:
        raise UserError(
            "--finetune head: the backbone gives every image the same features; pass other weights"
        )
    return Axes(mean_D, axes_DK / math.sqrt(total), variance / total)


def own_scales(rows_NK: np.ndarray, weight_PN: np.ndarray) -> np.ndarray:
    """Return each problem's mean squared length of a row, measured from its own rows' mean and on
    them alone.

    A strength of regularisation times this means the same for every problem, whatever the other
    rows are.
    """
    return np.array([rows_NK[weight_N > 0].var(axis=0).sum() for weight_N in weight_PN])


@dataclass(frozen=True)
class Head:
    """Linear maps from axes to logits: weight P x K x C, bias P x C."""

    weight_PKC: np.ndarray
    bias_PC: np.ndarray

    def logits(self, rows_NK: np.ndarray, problem: int) -> np.ndarray:
        """Return N x C float64 of one problem's head."""
        return rows_NK @ self.weight_PKC[problem] + self.bias_PC[problem]


class _Problems:
    """Losses, gradients and curvatures of all problems at once, in one precision.

    The intercept is the last of the J = K + 1 axes. Weights are P x J x C, logits N x P x C.
    """

    def __init__(
        self,
        rows_NK: np.ndarray,
        label_N: np.ndarray,
        weight_PN: np.ndarray,
        l2_P: np.ndarray,
        variance_K: np.ndarray,
        present_PC: np.ndarray,
        *,
        dtype: torch.dtype,
        device: torch.device | None,
    ) -> None:
        def tensor(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(array).to(device=device, dtype=dtype)

        total_P = weight_PN.sum(axis=1)
        self.rows_NJ = tensor(np.concatenate([rows_NK, np.ones((len(rows_NK), 1))], axis=1))
        self.share_NP = tensor(
            (weight_PN / total_P[:, None]).T.copy()
        )  # the loss is a mean in here
        self.target_N = torch.from_numpy(label_N).to(device)
        self.every_row = torch.arange(len(rows_NK), device=device)
        self.absent_PC = tensor(np.where(present_PC, 0.0, -np.inf))
        self.penalty_PJ1 = tensor(
            np.repeat((l2_P / total_P)[:, None, None], self.rows_NJ.shape[1], axis=1)
        )
        self.penalty_PJ1[:, -1] = 0
        self.diagonal_PJ1 = self.penalty_PJ1 + CURVATURE * tensor(
            np.append(variance_K, 1.0)[:, None]
        )

    def logits(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the rows' logits."""
        num_problems, num_axes, num_classes = weight.shape
        return (self.rows_NJ @ weight.permute(1, 0, 2).reshape(num_axes, -1)).view(
            -1, num_problems, num_classes
        )

    def back(self, values: torch.Tensor) -> torch.Tensor:
        """Return what N x P x C values add up to along each axis: P x J x C."""
        num_rows, num_problems, num_classes = values.shape
        return (
            (self.rows_NJ.T @ values.reshape(num_rows, -1))
            .view(-1, num_problems, num_classes)
            .permute(1, 0, 2)
        )

    def proba(self, logits: torch.Tensor) -> torch.Tensor:
        """Return probabilities; classes that a problem has no row of get none."""
        return torch.softmax(logits + self.absent_PC, dim=-1)

    def gradient(self, proba: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Return the objectives' gradients."""
        residual = proba.clone()
        residual[self.every_row, :, self.target_N] -= 1
        return self.back(residual * self.share_NP[:, :, None]) + self.penalty_PJ1 * weight

    def newton(self, proba: torch.Tensor, grad: torch.Tensor, open_P: torch.Tensor) -> torch.Tensor:
        """Return about where Newton's step goes: conjugate gradients on -H step = grad,
        preconditioned.
        """
        share = self.share_NP[:, :, None]
        step = torch.zeros_like(grad)
        rest = -grad * open_P[:, None, None]
        direction = eased = rest / self.diagonal_PJ1
        norm = _dot(rest, eased)
        enough = norm * FORCING**2
        for _ in range(MOST_INNER_STEPS):
            active = norm > enough
            if not active.any():
                break
            slope = self.logits(direction)
            spread = proba * (slope - (proba * slope).sum(dim=-1, keepdim=True)) * share
            bent = self.back(spread) + self.penalty_PJ1 * direction
            far = torch.where(active, norm / _dot(direction, bent).clamp_min(TINY), 0.0)[
                :, None, None
            ]
            step = step + far * direction
            rest = rest - far * bent
            eased = rest / self.diagonal_PJ1
            before = norm
            norm = torch.where(active, _dot(rest, eased), norm)
            direction = eased + (norm / before.clamp_min(TINY))[:, None, None] * direction
        return step

    def along(
        self, logits: torch.Tensor, slope: torch.Tensor, weight: torch.Tensor, step: torch.Tensor
    ) -> torch.Tensor:
        """Return how far to go, a number a problem: Newton's method on the line, whose function is
        convex.
        """
        known = (slope[self.every_row, :, self.target_N] * self.share_NP).sum(dim=0)
        linear = _dot(self.penalty_PJ1 * step, weight)
        square = _dot(self.penalty_PJ1 * step, step)
        far = torch.ones_like(linear)
        for _ in range(2):
            proba = self.proba(logits + far[:, None] * slope)
            mean = (proba * slope).sum(dim=-1)
            first = (mean * self.share_NP).sum(dim=0) - known + linear + far * square
            second = (((proba * slope * slope).sum(dim=-1) - mean * mean) * self.share_NP).sum(
                dim=0
            ) + square
            far = (far - first / second.clamp_min(TINY)).clamp(0.05, 20.0)
        return far


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a * b).sum(dim=(1, 2))


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    """Switch off TF32, with which a GPU keeps ten bits of a float32 in products."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


@_full_precision()
def fit_heads(
    rows_NK: np.ndarray,
    label_N: np.ndarray,
    weight_PN: np.ndarray,
    l2_P: np.ndarray,
    *,
    num_classes: int,
    variance_K: np.ndarray,
    tolerance: float = EXACT,
    start: Head | None = None,
    device: torch.device | None = None,
) -> Head:
    """Return the minimiser, for each problem p, of

        sum_n weight_pn crossentropy(n) + l2_p / 2 |W_p|^2,     the intercept being free.

    l2 is 1 / C of scikit-learn's LogisticRegression. `rows_NK` and `variance_K` are from
    `principal_axes`; rows of weight 0 have no part in a problem. `start` is a solution nearby.
    Raises UserError where a head is still far from its optimum after many steps.
    """
    classes, target_N = np.unique(label_N, return_inverse=True)
    present_PC = np.stack(
        [weight_PN[:, target_N == c].sum(axis=1) > 0 for c in range(len(classes))], axis=1
    )

    def problems(dtype: torch.dtype) -> _Problems:
        data = (rows_NK, target_N, weight_PN, l2_P, variance_K, present_PC)
        return _Problems(*data, dtype=dtype, device=device)

    quick = problems(torch.float32)  # exact enough for the way to go, at half the time
    exact = quick if tolerance >= ROUGH else problems(torch.float64)
    dtype = exact.rows_NJ.dtype
    weight = torch.zeros(
        (len(l2_P), exact.rows_NJ.shape[1], len(classes)), dtype=dtype, device=device
    )
    if start is not None:
        known = np.concatenate([start.weight_PKC, start.bias_PC[:, None]], axis=1)[:, :, classes]
        weight[:] = torch.from_numpy(np.where(present_PC[:, None], known, 0.0))
    logits = exact.logits(weight)
    for _ in range(MOST_STEPS):
        proba = exact.proba(logits)
        grad = exact.gradient(proba, weight)
        open_P = _dot(grad, grad / exact.diagonal_PJ1) > tolerance
        if not open_P.any():
            break
        size = (
            grad.abs().amax(dim=(1, 2), keepdim=True).clamp_min(TINY)
        )  # float32 has no room for small ones
        step = quick.newton(proba.float(), (grad / size).float(), open_P).to(dtype) * size
        slope = exact.logits(step)
        far = exact.along(logits, slope, weight, step)[:, None]
        weight = weight + far[:, :, None] * step
        logits = logits + far * slope
    else:
        if (_dot(grad, grad / exact.diagonal_PJ1) > FAR).any():
            raise UserError("--head-l2: a head's optimum was not found; pass larger values")
    found = weight.double().cpu().numpy()
    return _all_classes(found, present_PC, classes, num_classes, (weight_PN > 0).sum(axis=1))


def _all_classes(
    weight_PJC: np.ndarray,
    present_PC: np.ndarray,
    classes: np.ndarray,
    num_classes: int,
    num_rows_P: np.ndarray,
) -> Head:
    """Give classes without a training row the mean logit of the others, less log n: finite, and
    always unlikely.
    """
    share_PC = present_PC / present_PC.sum(axis=1, keepdims=True)
    mean_PJ = np.einsum("pjc,pc->pj", weight_PJC, share_PC)
    mean_PJ[:, -1] -= np.log1p(num_rows_P)
    every = np.repeat(mean_PJ[:, :, None], num_classes, axis=2)
    every[:, :, classes] = np.where(present_PC[:, None], weight_PJC, every[:, :, classes])
    return Head(every[:, :-1], every[:, -1])


def choose_l2(
    rows_NK: np.ndarray,
    label_N: np.ndarray,
    group_N: np.ndarray,
    weight_PN: np.ndarray,
    strengths: tuple[float, ...],
    *,
    seed: int,
    num_classes: int,
    variance_K: np.ndarray,
    device: torch.device | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return each problem's best strength, and the inner log loss of all, P x strengths.

    Each problem's own groups are cut in three; log loss on the third held out decides. Strengths
    are in units of the problem's own scale (`own_scales`), so that no row outside of it has a say
    at all. One strength is taken as it is.
    """
    if len(strengths) == 1:
        return np.full(len(weight_PN), strengths[0]), np.full((len(weight_PN), 1), np.nan)
    inner_PN = np.full(weight_PN.shape, -1)
    for problem, weight_N in enumerate(weight_PN):
        used = weight_N > 0
        folds = min(NUM_INNER, len(np.unique(group_N[used])))
        if folds < 2:
            raise UserError(
                "--finetune head: a fold trains on one group alone; pass one --head-l2, or fewer"
                " --folds"
            )
        inner_PN[problem, used] = stratified_group_folds(
            label_N[used], group_N[used], num_folds=folds, seed=seed
        )
    parts = [
        (problem, inner)
        for problem in range(len(weight_PN))
        for inner in range(int(inner_PN[problem].max()) + 1)
    ]
    train_QN = np.stack(
        [weight_PN[problem] * (inner_PN[problem] != inner) for problem, inner in parts]
    )
    loss_PL = np.zeros((len(weight_PN), len(strengths)))
    scale_Q = own_scales(rows_NK, weight_PN)[[problem for problem, _ in parts]]
    heads = None
    for strength in sorted(strengths, reverse=True):  # each from the solution before
        heads = fit_heads(
            rows_NK,
            label_N,
            train_QN,
            strength * scale_Q,
            num_classes=num_classes,
            variance_K=variance_K,
            tolerance=ROUGH,
            start=heads,
            device=device,
        )
        column = strengths.index(strength)
        for part, (problem, inner) in enumerate(parts):
            held = inner_PN[problem] == inner
            logits = heads.logits(rows_NK[held], part)
            own = logits[np.arange(len(logits)), label_N[held]]
            loss = np.logaddexp.reduce(logits, axis=1) - own
            loss_PL[problem, column] += (loss * weight_PN[problem, held]).sum() / weight_PN[
                problem
            ].sum()
    return np.asarray(strengths)[loss_PL.argmin(axis=1)], loss_PL
