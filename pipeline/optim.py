"""Optimisers from timm, learning rate schedules from torch, both by name."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from folds.errors import UserError, did_you_mean
from pipeline.backends import timm
from pipeline.config import TrainConfig

__all__ = ["SCHEDULES", "build_optimizer", "build_scheduler", "check_optimizer"]


def check_optimizer(name: str) -> None:
    """Raise UserError, with near names, for an optimiser that timm does not have."""
    known = timm.optim.list_optimizers()
    if name.lower() not in known:
        raise UserError(f"--opt {name}: timm has no such optimiser{did_you_mean(name, known)}")


def build_optimizer(model: torch.nn.Module, config: TrainConfig, *, fused: bool) -> torch.optim.Optimizer:
    """Return timm's optimiser; biases and norms are exempt from weight decay."""
    extra = {"fused": True} if fused and config.opt in ("adam", "adamw", "sgd") else {}
    return timm.optim.create_optimizer_v2(
        model, opt=config.opt, lr=config.lr, weight_decay=config.weight_decay, **extra
    )


def _warm(step: int, warmup: int) -> float:
    return (step + 1) / (warmup + 1) if step < warmup else 1.0


def _cosine(optimizer: torch.optim.Optimizer, config: TrainConfig, steps: int, warmup: int) -> LRScheduler:
    def factor(step: int) -> float:
        done = max(0, step - warmup) / max(1, steps - warmup)
        return _warm(step, warmup) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    return LambdaLR(optimizer, factor)


def _onecycle(optimizer: torch.optim.Optimizer, config: TrainConfig, steps: int, warmup: int) -> LRScheduler:
    cycles = any(key in optimizer.defaults for key in ("momentum", "betas"))  # adagrad and the like have neither
    return OneCycleLR(optimizer, max_lr=config.lr, total_steps=steps, cycle_momentum=cycles)


def _constant(optimizer: torch.optim.Optimizer, config: TrainConfig, steps: int, warmup: int) -> LRScheduler:
    return LambdaLR(optimizer, lambda step: _warm(step, warmup))


SCHEDULES: dict[str, Callable[[torch.optim.Optimizer, TrainConfig, int, int], LRScheduler]] = {
    "cosine": _cosine,
    "onecycle": _onecycle,
    "constant": _constant,
}


def build_scheduler(optimizer: torch.optim.Optimizer, config: TrainConfig, *, steps_per_epoch: int) -> LRScheduler:
    """Return the schedule, to be stepped after every optimiser step of the run."""
    assert config.epochs is not None
    steps = config.epochs * steps_per_epoch
    warmup = min(round(config.warmup_epochs * steps_per_epoch), steps - 1)
    return SCHEDULES[config.sched](optimizer, config, steps, warmup)
