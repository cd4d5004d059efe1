"""Linear heads on fixed features: multinomial logistic regressions, many at once.

Every fold, inner fold and strength of regularisation is a problem of its own over the same rows, told
apart by row weights. One matrix product serves them all: Newton's method with conjugate gradients (Lin,
Weng and Keerthi 2008) runs on each in step with the others, along the features' principal axes, where the
curvature is nearly diagonal. The minimum is unique, so neither the axes nor the company change the answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from folds.errors import UserError
from folds.kfold import stratified_group_folds

__all__ = ["Axes", "Head", "choose_l2", "fit_heads", "principal_axes"]

MOST_STEPS, MOST_INNER_STEPS = 50, 200
EXACT = 1e-13  # of the Newton decrement: logits then are within about 1e-5 of the optimum's
ROUGH = 1e-5  # log losses within about 1e-3, enough to choose by
CURVATURE = 0.1  # p (1 - p) of a typical softmax; only the speed depends on it
NUM_INNER = 3
TINY = 1e-30


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

    Turning and shifting changes no logit (the penalty is on the length, the intercept is free); axes
    without any variance are left out, as no solution leaves the span of the rows.
    """
    mean_D = features_ND.mean(axis=0, dtype=np.float64)
    centred = features_ND - mean_D
    if len(centred) > centred.shape[1]:
        variance, axes_DK = np.linalg.eigh(centred.T @ centred / len(centred))
    else:  # fewer rows than features: the same from the smaller matrix
        variance, left = np.linalg.eigh(centred @ centred.T / len(centred))
        keep = variance > variance.max(initial=0) * 1e-12
        variance = variance[keep]
        axes_DK = centred.T @ (left[:, keep] / np.sqrt(variance * len(centred)))
    keep = variance > variance.max(initial=0) * 1e-12
    total = variance[keep].sum()
    if not total > 0:
        raise UserError("--finetune head: the backbone gives every picture the same features; pass other weights")
    return Axes(mean_D, axes_DK[:, keep] / math.sqrt(total), variance[keep] / total)


@dataclass(frozen=True)
class Head:
    """Linear maps from axes to logits: weight P x K x C, bias P x C."""

    weight_PKC: np.ndarray
    bias_PC: np.ndarray

    def logits(self, rows_NK: np.ndarray, problem: int) -> np.ndarray:
        """Return N x C float64 of one problem's head."""
        return rows_NK @ self.weight_PKC[problem] + self.bias_PC[problem]


def _with_absent_classes(
    weight_PKC: np.ndarray, bias_PC: np.ndarray, present_PC: np.ndarray, rows_P: np.ndarray
) -> Head:
    """Give classes without a training row the mean logit of the others, less log n: finite, and always unlikely."""
    share_PC = present_PC / present_PC.sum(axis=1, keepdims=True)
    mean_PK = np.einsum("pkc,pc->pk", weight_PKC, share_PC)
    low_P = np.einsum("pc,pc->p", bias_PC, share_PC) - np.log1p(rows_P)
    weight = np.where(present_PC[:, None, :], weight_PKC, mean_PK[:, :, None])
    return Head(weight, np.where(present_PC, bias_PC, low_P[:, None]))


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

    l2 is 1 / C of scikit-learn's LogisticRegression. `rows_NK` and `variance_K` are from `principal_axes`;
    rows of weight 0 have no part in a problem. `start` is a solution nearby.
    """
    num_rows, num_axes = rows_NK.shape
    num_problems = len(l2_P)
    present_PC = np.stack([weight_PN[:, label_N == c].sum(axis=1) > 0 for c in range(num_classes)], axis=1)
    dtype = torch.float32 if tolerance >= ROUGH else torch.float64

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(device=device, dtype=dtype)

    rows = tensor(np.concatenate([rows_NK, np.ones((num_rows, 1))], axis=1))
    share_NP = tensor((weight_PN / weight_PN.sum(axis=1, keepdims=True)).T.copy())
    target_N = torch.from_numpy(label_N.astype(np.int64)).to(device)
    absent_PC = tensor(np.where(present_PC, 0.0, -np.inf))
    mean_l2_P = l2_P / weight_PN.sum(axis=1)  # the loss is a mean in here
    penalty_PJ = tensor(np.repeat(mean_l2_P[:, None], num_axes + 1, axis=1))
    penalty_PJ[:, -1] = 0
    curvature_PJ = penalty_PJ + CURVATURE * tensor(np.append(variance_K, 1.0))
    every_row = torch.arange(num_rows, device=device)
    shape = (num_problems, num_axes + 1, num_classes)

    def apply(weight_PJC: torch.Tensor) -> torch.Tensor:
        return (rows @ weight_PJC.permute(1, 0, 2).reshape(num_axes + 1, -1)).view(num_rows, num_problems, num_classes)

    def gather(values_NPC: torch.Tensor) -> torch.Tensor:
        return (rows.T @ values_NPC.view(num_rows, -1)).view(num_axes + 1, num_problems, num_classes).permute(1, 0, 2)

    def gradient(proba_NPC: torch.Tensor, weight_PJC: torch.Tensor) -> torch.Tensor:
        residual = proba_NPC.clone()
        residual[every_row, :, target_N] -= 1
        return gather(residual * share_NP[:, :, None]) + penalty_PJ[:, :, None] * weight_PJC

    def softmax(logits_NPC: torch.Tensor) -> torch.Tensor:
        return torch.softmax(logits_NPC + absent_PC, dim=-1)

    def dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a * b).sum(dim=(1, 2))

    def curved(proba: torch.Tensor, slope: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
        """Return the second derivative along a direction, whose logits are `slope`."""
        spread = proba * (slope - (proba * slope).sum(dim=-1, keepdim=True)) * share_NP[:, :, None]
        return gather(spread) + penalty_PJ[:, :, None] * direction

    def towards(proba: torch.Tensor, grad: torch.Tensor, open_P: torch.Tensor) -> torch.Tensor:
        """Return about where Newton's step goes: conjugate gradients on -H step = grad, preconditioned."""
        step, rest = torch.zeros_like(grad), -grad * open_P[:, None, None]
        eased = rest / curvature_PJ[:, :, None]
        direction, norm = eased, dot(rest, eased)
        enough = norm * torch.clamp(norm.sqrt(), max=0.1) ** 2  # the nearer, the more exact: superlinear
        for _ in range(MOST_INNER_STEPS):
            active = norm > enough
            if not active.any():
                break
            bent = curved(proba, apply(direction), direction)
            far = torch.where(active, norm / dot(direction, bent).clamp_min(TINY), 0.0)[:, None, None]
            step, rest = step + far * direction, rest - far * bent
            eased = rest / curvature_PJ[:, :, None]
            before, norm = norm, torch.where(active, dot(rest, eased), norm)
            direction = eased + (norm / before.clamp_min(TINY))[:, None, None] * direction
        return step

    def along(logits: torch.Tensor, slope: torch.Tensor, weight: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """Return how far to go (a number a problem): Newton's method on the line, whose function is convex."""
        far = torch.ones(num_problems, dtype=dtype, device=device)
        known = (slope[every_row, :, target_N] * share_NP).sum(dim=0)
        linear, square = dot(penalty_PJ[:, :, None] * step, weight), dot(penalty_PJ[:, :, None] * step, step)
        for _ in range(2):
            proba = softmax(logits + far[:, None] * slope)
            mean = (proba * slope).sum(dim=-1)
            first = (mean * share_NP).sum(dim=0) - known + linear + far * square
            second = (((proba * slope * slope).sum(dim=-1) - mean * mean) * share_NP).sum(dim=0) + square
            far = (far - first / second.clamp_min(TINY)).clamp(0.05, 20.0)
        return far

    weight = torch.zeros(shape, dtype=dtype, device=device)
    if start is not None:
        weight[:] = tensor(np.concatenate([start.weight_PKC, start.bias_PC[:, None]], axis=1))
    logits = apply(weight)
    for _ in range(MOST_STEPS):
        proba = softmax(logits)
        grad = gradient(proba, weight)
        open_P = dot(grad, grad / curvature_PJ[:, :, None]) > tolerance
        if not open_P.any():
            break
        step = towards(proba, grad, open_P)
        slope = apply(step)
        far = along(logits, slope, weight, step)[:, None]
        weight, logits = weight + far[:, :, None] * step, logits + far * slope
    found = weight.double().cpu().numpy()
    return _with_absent_classes(found[:, :-1], found[:, -1], present_PC, (weight_PN > 0).sum(axis=1))


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

    Each problem's own groups are cut in three; log loss on the third held out decides, so that no row
    outside of the problem has a say. One strength is taken as it is.
    """
    if len(strengths) == 1:
        return np.full(len(weight_PN), strengths[0]), np.full((len(weight_PN), 1), np.nan)
    inner_PN = np.full(weight_PN.shape, -1)
    for problem, weight_N in enumerate(weight_PN):
        used = weight_N > 0
        folds = min(NUM_INNER, len(np.unique(group_N[used])))
        if folds < 2:
            raise UserError("--finetune head: a fold trains on one group alone; pass one --head-l2, or fewer --folds")
        inner_PN[problem, used] = stratified_group_folds(label_N[used], group_N[used], num_folds=folds, seed=seed)
    parts = [(problem, inner) for problem in range(len(weight_PN)) for inner in range(int(inner_PN[problem].max()) + 1)]
    train_QN = np.stack([weight_PN[problem] * (inner_PN[problem] != inner) for problem, inner in parts])
    loss_PL = np.zeros((len(weight_PN), len(strengths)))
    heads = None
    for strength in sorted(strengths, reverse=True):  # each from the solution before
        heads = fit_heads(
            rows_NK,
            label_N,
            train_QN,
            np.full(len(parts), strength),
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
            loss_PL[problem, column] += (loss * weight_PN[problem, held]).sum() / weight_PN[problem].sum()
    return np.asarray(strengths)[loss_PL.argmin(axis=1)], loss_PL
