"""Averages of a model's weights, which are scored in place of the last ones."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch.optim.swa_utils import AveragedModel

from pipeline.config.resolved import ResolvedTrain
from pipeline.models.timm_import import timm

__all__ = ["Average", "build_average"]


class Average(Protocol):
    """What is told of every step and epoch, and has a model to score."""

    def after_step(self, model: torch.nn.Module, step: int) -> None:
        """`step` counts from 1."""
        ...

    def after_epoch(self, model: torch.nn.Module, epoch: int) -> None:
        """`epoch` counts from 0."""
        ...

    @property
    def scored(self) -> torch.nn.Module | None:
        """The averaged model; None while there is none."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class NoAverage:
    """The last weights are scored."""

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
    """Exponential moving average over the steps, buffers included; its decay warms up from 0."""

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
def _take_in(means: Any, values: Any, num: Any) -> None:
    """Add to running means of `num` values; counts and flags, which have no mean, are the
    latest.
    """
    for mean, value in zip(means, values, strict=True):
        if mean.is_floating_point():
            mean += (value - mean) / (num + 1)
        else:
            mean.copy_(value)


class LastEpochs:
    """Equal mean of the weights after each epoch from `first` on, buffers included (Izmailov et al.
    2018).
    """

    def __init__(self, model: torch.nn.Module, first: int) -> None:
        self.first = first
        self.mean = AveragedModel(model, use_buffers=True, multi_avg_fn=_take_in)

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
    """Return the average that the settings ask for."""
    if config.model_ema:
        return Ema(model, config.model_ema_decay)
    if config.average_last:
        return LastEpochs(model, max(0, config.epochs - config.average_last))
    return NoAverage()
