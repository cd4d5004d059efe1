"""Weight averaging: an average over steps or epochs is scored instead of the last weights."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch.optim.swa_utils import AveragedModel

from pipeline.config.resolved import ResolvedTrain
from pipeline.models.timm_import import timm

__all__ = ["Average", "build_average"]


class Average(Protocol):
    """A weight average that is updated during training."""

    def after_step(self, model: torch.nn.Module, step: int) -> None:
        """Update after an optimiser step; `step` counts from 1."""
        ...

    def after_epoch(self, model: torch.nn.Module, epoch: int) -> None:
        """Update after an epoch; `epoch` counts from 0."""
        ...

    @property
    def scored(self) -> torch.nn.Module | None:
        """The averaged model, or None before the first update."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class NoAverage:
    """No averaging: the last weights are scored."""

    scored = None

    def after_step(self, model: torch.nn.Module, step: int) -> None:
        pass

    def after_epoch(self, model: torch.nn.Module, epoch: int) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class Ema:
    """Exponential moving average of weights and buffers over steps; the decay warms up from 0."""

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        self.ema = timm.utils.ModelEmaV3(model, decay=decay, use_warmup=True)

    def after_step(self, model: torch.nn.Module, step: int) -> None:
        self.ema.update(model, step=step)

    def after_epoch(self, model: torch.nn.Module, epoch: int) -> None:
        pass

    @property
    def scored(self) -> torch.nn.Module:
        module: torch.nn.Module = self.ema.module
        return module

    def state_dict(self) -> dict[str, Any]:
        return dict(self.ema.module.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.ema.module.load_state_dict(state)


@torch.no_grad()
def _update_means(means: Any, values: Any, num: Any) -> None:
    """Add one value to each running mean of `num` values, in place."""
    for mean, value in zip(means, values, strict=True):
        if mean.is_floating_point():
            mean += (value - mean) / (num + 1)
        else:
            # Counts and flags cannot be averaged, so the latest value is kept.
            mean.copy_(value)


class LastEpochs:
    """Mean of the weights and buffers after each epoch from `first` on.

    References
    ----------
    Izmailov et al. (2018): Averaging Weights Leads to Wider Optima and Better Generalization.
    """

    def __init__(self, model: torch.nn.Module, first: int) -> None:
        self.first = first
        self.mean = AveragedModel(model, use_buffers=True, multi_avg_fn=_update_means)

    def after_step(self, model: torch.nn.Module, step: int) -> None:
        pass

    def after_epoch(self, model: torch.nn.Module, epoch: int) -> None:
        if epoch >= self.first:
            self.mean.update_parameters(model)

    @property
    def scored(self) -> torch.nn.Module | None:
        module: torch.nn.Module = self.mean.module
        return module if int(self.mean.n_averaged) else None

    def state_dict(self) -> dict[str, Any]:
        return dict(self.mean.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mean.load_state_dict(state)


def build_average(model: torch.nn.Module, config: ResolvedTrain) -> Average:
    """Return the average selected by --model-ema or --average-last."""
    if config.model_ema:
        return Ema(model, config.model_ema_decay)
    if config.average_last:
        return LastEpochs(model, max(0, config.epochs - config.average_last))
    return NoAverage()
