"""Losses by name, and weighted sums of them.

Targets are N class indices or, where images are mixed, N x C class shares.
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
    """Interface of a loss, --loss MODULE:NAME included."""

    def __call__(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the mean loss over the rows, a scalar.

        Parameters
        ----------
        logits
            N x C float32.
        target
            N class indices (int64), or N x C class shares where images were mixed.
        """
        ...


class MakeLoss(Protocol):
    """A function or class that makes the loss of a fold."""

    def __call__(self, count_C: torch.Tensor, config: LossConfig) -> Loss:
        """Return the loss of a fold.

        `count_C` is the number of training images of each class, on the model's device.
        """
        ...


def log_prior(count_C: torch.Tensor) -> torch.Tensor:
    """Return the log of each class's share of the training images.

    A class without images gets the share of the rarest class that has some. The prior therefore
    stays finite, and such a class is treated like any other wrong class.

    Examples
    --------
    >>> log_prior(torch.tensor([3, 1, 0])).exp()
    tensor([0.7500, 0.2500, 0.2500])
    """
    rarest = torch.where(count_C > 0, count_C, count_C.max()).min()
    return (torch.where(count_C > 0, count_C, rarest).float() / count_C.sum()).log()


@dataclass(frozen=True)
class CrossEntropy:
    """Cross entropy with label smoothing, of the logits plus `shift_C`.

    If `shift_C` is tau times the log prior, it is the logit-adjusted loss (Menon et al. 2021,
    eq. 10); for tau = 1 that is the balanced softmax (Ren et al. 2020).

    References
    ----------
    Menon et al. (2021): Long-tail Learning via Logit Adjustment.
    Ren et al. (2020): Balanced Meta-Softmax for Long-Tailed Visual Recognition.
    """

    shift_C: torch.Tensor | None
    smoothing: float

    def __call__(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        shifted = logits if self.shift_C is None else logits + self.shift_C
        return F.cross_entropy(shifted, target, label_smoothing=self.smoothing)


@dataclass(frozen=True)
class Focal:
    """Focal loss, the sum over classes of t (1 - p)^gamma (-log p); gamma 0 is cross entropy.

    References
    ----------
    Lin et al. (2017): Focal Loss for Dense Object Detection.
    """

    shift_C: torch.Tensor | None
    smoothing: float
    gamma: float

    def __call__(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        shifted = logits if self.shift_C is None else logits + self.shift_C
        share_NC = _shares(target, logits.shape[1])
        share_NC = share_NC * (1 - self.smoothing) + self.smoothing / logits.shape[1]
        log_p_NC = F.log_softmax(shifted, dim=1)
        # The clamp keeps it away from 0, where a power below 1 has an infinite slope.
        miss_NC = (1 - log_p_NC.exp()).clamp_min(1e-7)
        return -(share_NC * miss_NC.pow(self.gamma) * log_p_NC).sum(dim=1).mean()


def soft_f1(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return 1 - macro F1 over the classes of the batch, computed from probabilities.

    For probabilities of 0 and 1 it equals 1 - scikit-learn's macro F1 over those classes. It needs
    whole labels: a run that mixes images is refused at the start (`pipeline.checks`).
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
    """Return weight and maker of each term of --loss; raise UserError for an unknown name.

    Examples
    --------
    >>> [weight for weight, _ in loss_parts(LossConfig(loss="0.5*ce+0.5*focal"))]
    [0.5, 0.5]
    """
    return [(weight, find_part(name, LOSSES, "--loss")) for weight, name in parse_loss(config.loss)]


def takes_mixed(config: LossConfig) -> bool:
    """Return whether every term of --loss accepts the class shares of mixed images."""
    return not _WHOLE_LABELS & loss_names(config.loss)


def build_loss(config: LossConfig, count_C: np.ndarray, device: torch.device) -> Loss:
    """Return the loss of a fold with `count_C` training images of each class."""
    counts = torch.from_numpy(np.asarray(count_C, dtype=np.int64)).to(device)
    terms = [(weight, make(counts, config)) for weight, make in loss_parts(config)]
    if len(terms) == 1 and terms[0][0] == 1:
        return terms[0][1]

    def weighted_sum(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return torch.stack([weight * term(logits, target) for weight, term in terms]).sum()

    return weighted_sum


def check_loss(config: LossConfig, num_classes: int, *, mixed: bool) -> None:
    """Call each custom loss once; raise UserError if it fails or is not finite."""
    custom = [name for name in sorted(loss_names(config.loss)) if is_custom(name)]
    if not custom:
        return
    logits = torch.linspace(-1, 1, 4 * num_classes).reshape(4, num_classes).requires_grad_()
    target = torch.arange(4) % num_classes
    tries: list[torch.Tensor] = [target, _shares(target, num_classes)] if mixed else [target]
    # The first class has no images, as may happen in a fold.
    count_C = np.arange(num_classes)
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
        except Exception as error:  # custom code may raise anything
            raise UserError(
                f"--loss {name}: a trial on 4 rows failed ({in_a_line(error)}); see examples/"
            ) from None
