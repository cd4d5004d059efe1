"""Losses by name, and their weighted sums. Targets are N classes or, where images are mixed, N x
C shares.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812 - as all torch code names it

from foldblend.errors import UserError, in_a_line
from foldblend.plugins import find_part, is_custom
from pipeline.config.train import LossConfig, loss_names, parse_loss

__all__ = [
    "LOSSES",
    "Loss",
    "MakeLoss",
    "build_loss",
    "check_loss",
    "log_prior",
    "loss_parts",
    "takes_mixed",
]


class Loss(Protocol):
    """What a loss is called with, and must return: a scalar, the mean over the rows."""

    def __call__(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """`logits` N x C float32; `target` N class indices (int64), or N x C shares where images
        were mixed.
        """
        ...


class MakeLoss(Protocol):
    """What makes a loss, once a fold: a function or a class."""

    def __call__(self, count_C: torch.Tensor, config: LossConfig) -> Loss:
        """`count_C` is the number of training images of each class, on the model's device."""
        ...


def log_prior(count_C: torch.Tensor) -> torch.Tensor:
    """Return the log of each class's share of the training images.

    A class without any is taken to be as rare as the rarest that has some: never minus infinity, so
    that it is pushed down as any wrong class is, and no more a temptation than the rarest.
    """
    rarest = torch.where(count_C > 0, count_C, count_C.max()).min()
    return (torch.where(count_C > 0, count_C, rarest).float() / count_C.sum()).log()


@dataclass(frozen=True)
class CrossEntropy:
    """Cross entropy with label smoothing of the logits plus `shift`.

    With `shift` the log prior times tau, it is the logit-adjusted loss (Menon et al. 2021, eq. 10),
    for tau = 1 the balanced softmax (Ren et al. 2020).
    """

    shift_C: torch.Tensor | None
    smoothing: float

    def __call__(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        shifted = logits if self.shift_C is None else logits + self.shift_C
        return F.cross_entropy(shifted, target, label_smoothing=self.smoothing)


@dataclass(frozen=True)
class Focal:
    """Focal loss, sum over classes of t (1 - p)^gamma (-log p) (Lin et al. 2017); gamma 0 is cross
    entropy.
    """

    shift_C: torch.Tensor | None
    smoothing: float
    gamma: float

    def __call__(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        shifted = logits if self.shift_C is None else logits + self.shift_C
        share_NC = _shares(target, logits.shape[1])
        share_NC = share_NC * (1 - self.smoothing) + self.smoothing / logits.shape[1]
        log_p_NC = F.log_softmax(shifted, dim=1)
        # Kept off 0, where the slope of a power below 1 is infinite.
        miss_NC = (1 - log_p_NC.exp()).clamp_min(1e-7)
        return -(share_NC * miss_NC.pow(self.gamma) * log_p_NC).sum(dim=1).mean()


def soft_f1(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return 1 - macro F1, probabilities standing for predictions, over the classes that occur in
    the batch.

    For probabilities of 0 and 1 it is scikit-learn's macro F1 over those classes. Only whole labels
    make sense: mixed ones are refused at the start of a run.
    """
    share_NC = _shares(target, logits.shape[1])
    proba_NC = logits.softmax(dim=1)
    hits_C = (share_NC * proba_NC).sum(dim=0)
    size_C = share_NC.sum(dim=0)
    f1_C = 2 * hits_C / (proba_NC.sum(dim=0) + size_C).clamp_min(1e-12)
    occurs_C = (size_C > 0).float()
    return 1 - (f1_C * occurs_C).sum() / occurs_C.sum()


def _shares(target: torch.Tensor, num_classes: int) -> torch.Tensor:
    return F.one_hot(target, num_classes).float() if target.ndim == 1 else target


def _shift(count_C: torch.Tensor, config: LossConfig) -> torch.Tensor | None:
    return config.logit_adjust * log_prior(count_C) if config.logit_adjust else None


LOSSES: dict[str, MakeLoss] = {
    "ce": lambda count_C, config: CrossEntropy(_shift(count_C, config), config.smoothing),
    "focal": lambda count_C, config: Focal(
        _shift(count_C, config), config.smoothing, config.focal_gamma
    ),
    "f1": lambda count_C, config: soft_f1,
}
_WHOLE_LABELS = {"f1"}  # losses that cannot take mixed labels


def loss_parts(config: LossConfig) -> list[tuple[float, MakeLoss]]:
    """Return weight and maker of each term of --loss. Raises UserError for an unknown name."""
    return [(weight, find_part(name, LOSSES, "--loss")) for weight, name in parse_loss(config.loss)]


def takes_mixed(config: LossConfig) -> bool:
    """Return whether every term of --loss can take shares of classes."""
    return not _WHOLE_LABELS & loss_names(config.loss)


def build_loss(config: LossConfig, count_C: np.ndarray, device: torch.device) -> Loss:
    """Return the loss of a fold whose training rows have so many images of each class."""
    counts = torch.from_numpy(np.asarray(count_C, dtype=np.int64)).to(device)
    terms = [(weight, make(counts, config)) for weight, make in loss_parts(config)]
    if len(terms) == 1 and terms[0][0] == 1:
        return terms[0][1]

    def weighted_sum(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return torch.stack([weight * term(logits, target) for weight, term in terms]).sum()

    return weighted_sum


def check_loss(config: LossConfig, num_classes: int, *, mixed: bool) -> None:
    """Call a user's own losses once. Raises UserError for one that is no loss."""
    custom = [name for name in sorted(loss_names(config.loss)) if is_custom(name)]
    if not custom:
        return
    logits = torch.linspace(-1, 1, 4 * num_classes).reshape(4, num_classes).requires_grad_()
    target = torch.arange(4) % num_classes
    tries: list[torch.Tensor] = [target, _shares(target, num_classes)] if mixed else [target]
    count_C = np.arange(num_classes)  # one of them without images
    for name in custom:
        try:
            loss = build_loss(dataclasses.replace(config, loss=name), count_C, torch.device("cpu"))
            for one in tries:
                value = loss(logits, one)
                (gradient,) = torch.autograd.grad(value, logits)
                if not bool(torch.isfinite(value)):
                    raise ValueError("it is not finite")
                if not bool(torch.isfinite(gradient).all()):
                    raise ValueError("its gradient is not finite")
        except Exception as error:  # whatever a user's code may raise
            raise UserError(
                f"--loss {name}: a trial on 4 rows failed ({in_a_line(error)}); see examples/"
            ) from None
