"""Optimisers from timm and learning-rate schedules, built-in or custom."""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau

from foldblend.cli import Say
from foldblend.errors import UserError, did_you_mean, in_a_line
from foldblend.plugins import find_part
from pipeline.config.resolved import ResolvedTrain
from pipeline.models.timm_import import timm

__all__ = [
    "SCHEDULES",
    "MakeSchedule",
    "Schedule",
    "build_optimizer",
    "build_scheduler",
    "check_optimizer",
    "check_schedule",
]


# It warns of a layer-wise decay without effect in each fold; `check_schedule` says so once.
logging.getLogger("timm.optim._param_groups").addHandler(logging.NullHandler())


class Schedule(Protocol):
    """A learning-rate schedule, stepped after every training step like torch's schedulers.

    If it has a method `end_epoch(train_loss)`, that is called with each epoch's mean training loss.
    """

    def step(self) -> Any: ...

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain numbers and tensors; a continued fold loads it."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


class MakeSchedule(Protocol):
    """A function or class that makes the schedule of a fold."""

    def __call__(
        self, optimizer: torch.optim.Optimizer, config: ResolvedTrain, steps_per_epoch: int
    ) -> Schedule:
        """Return the schedule for `config.epochs` epochs of `steps_per_epoch` steps.

        Each parameter group of the optimiser has its peak learning rate when this is called.
        """
        ...


def check_optimizer(name: str) -> None:
    """Raise UserError with similar names for an optimiser that timm does not have."""
    known = timm.optim.list_optimizers()
    if name.lower() not in known:
        raise UserError(f"--opt {name}: timm has no such optimiser{did_you_mean(name, known)}")


def build_optimizer(
    model: torch.nn.Module, config: ResolvedTrain, *, fused: bool, scaled: bool = False
) -> torch.optim.Optimizer:
    """Return an optimiser from timm; biases and norm layers get no weight decay.

    With `fused`, one kernel updates all weights. `scaled` tells that a gradient scaler may skip
    steps: if it skips the first one, torch's fused SGD goes on with memory that nothing was written
    to as momentum.
    """
    can_fuse = ("adam", "adamw") if scaled else ("adam", "adamw", "sgd")
    extra: dict[str, Any] = {"fused": True} if fused and config.opt.lower() in can_fuse else {}
    if config.layer_decay is not None:
        extra["layer_decay"] = config.layer_decay
    optimizer: torch.optim.Optimizer = timm.optim.create_optimizer_v2(
        model, opt=config.opt, lr=config.peak_lr, weight_decay=config.weight_decay, **extra
    )
    # timm's schedulers apply `lr_scale` (from layer decay); the schedules here do not.
    for group in optimizer.param_groups:
        group["lr"] = config.peak_lr * group.get("lr_scale", 1.0)
    return optimizer


def _warm(step: int, warmup: int) -> float:
    return (step + 1) / (warmup + 1) if step < warmup else 1.0


def _warmup_steps(config: ResolvedTrain, steps_per_epoch: int) -> int:
    steps = config.epochs * steps_per_epoch
    return min(round(config.warmup_epochs * steps_per_epoch), steps - 1)


def _after_warmup(
    shape: Callable[[ResolvedTrain, int, int], Callable[[int], float]],
) -> MakeSchedule:
    """Return a maker of schedules with a linear warm-up and then the factors of `shape`.

    `shape` is called with the settings, the number of steps after warm-up and the steps per epoch.
    It returns the factor of the peak learning rate at each step after warm-up.
    """

    def make(
        optimizer: torch.optim.Optimizer, config: ResolvedTrain, steps_per_epoch: int
    ) -> Schedule:
        warmup = _warmup_steps(config, steps_per_epoch)
        factor = shape(config, config.epochs * steps_per_epoch - warmup, steps_per_epoch)
        return LambdaLR(optimizer, lambda step: _warm(step, warmup) * factor(max(0, step - warmup)))

    return make


def _cosine(config: ResolvedTrain, steps: int, steps_per_epoch: int) -> Callable[[int], float]:
    least = config.min_lr / config.peak_lr

    def factor(step: int) -> float:
        return least + (1 - least) * (
            0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, steps))))
        )

    return factor


def _step(config: ResolvedTrain, steps: int, steps_per_epoch: int) -> Callable[[int], float]:
    return lambda step: (
        config.decay_rate ** math.floor(step / (config.decay_epochs * steps_per_epoch))
    )


def _constant(config: ResolvedTrain, steps: int, steps_per_epoch: int) -> Callable[[int], float]:
    return lambda step: 1.0


def _onecycle(
    optimizer: torch.optim.Optimizer, config: ResolvedTrain, steps_per_epoch: int
) -> Schedule:
    # Optimisers such as Adagrad have no momentum that could be cycled.
    cycles = any(key in optimizer.defaults for key in ("momentum", "betas"))
    peaks = [group["lr"] for group in optimizer.param_groups]
    steps = config.epochs * steps_per_epoch
    return OneCycleLR(optimizer, max_lr=peaks, total_steps=steps, cycle_momentum=cycles)


class _Plateau:
    """Linear warm-up, then a drop whenever the training loss has not fallen for some epochs.

    The training loss is used because held-out rows must not influence training.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, config: ResolvedTrain, steps_per_epoch: int
    ) -> None:
        self.optimizer = optimizer
        self.peaks = [float(group["lr"]) for group in optimizer.param_groups]
        self.warmup = _warmup_steps(config, steps_per_epoch)
        self.taken = 0
        self.plateau = ReduceLROnPlateau(
            optimizer,
            factor=config.decay_rate,
            patience=config.patience_epochs,
            # Scaled for the groups of layer decay, as the cosine schedule does.
            min_lr=[config.min_lr * peak / config.peak_lr for peak in self.peaks],
        )
        self._warm_up()

    def _warm_up(self) -> None:
        if self.taken <= self.warmup:
            for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
                group["lr"] = peak * _warm(self.taken, self.warmup)

    def step(self) -> None:
        self.taken += 1
        self._warm_up()

    def end_epoch(self, train_loss: float) -> None:
        if self.taken > self.warmup:
            self.plateau.step(train_loss)

    def state_dict(self) -> dict[str, Any]:
        return {"taken": self.taken, "plateau": self.plateau.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.taken = state["taken"]
        self.plateau.load_state_dict(state["plateau"])


SCHEDULES: dict[str, MakeSchedule] = {
    "cosine": _after_warmup(_cosine),
    "onecycle": _onecycle,
    "step": _after_warmup(_step),
    "plateau": _Plateau,
    "constant": _after_warmup(_constant),
}


def build_scheduler(
    optimizer: torch.optim.Optimizer, config: ResolvedTrain, *, steps_per_epoch: int
) -> Schedule:
    """Return the schedule of --sched; raise UserError for an unknown name.

    Its `step` must be called after every optimiser step.
    """
    make: MakeSchedule = find_part(config.sched, SCHEDULES, "--sched")
    return make(optimizer, config, steps_per_epoch)


def check_schedule(model: torch.nn.Module, config: ResolvedTrain, say: Say) -> None:
    """Test optimiser and schedule: take two steps, then save and load the schedule's state.

    It says where --layer-decay has no effect. Raises UserError for settings that cannot be combined
    and for a custom schedule that fails.
    """
    flags = f"--opt {config.opt} with --sched {config.sched}"
    try:
        optimizer = build_optimizer(model, config, fused=False)
        schedule = build_scheduler(optimizer, config, steps_per_epoch=10)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        for _ in range(2):
            optimizer.step()
            schedule.step()
        written = io.BytesIO()
        torch.save(schedule.state_dict(), written)
        written.seek(0)
        schedule.load_state_dict(torch.load(written, weights_only=True))
        wrong = [group["lr"] for group in optimizer.param_groups if not math.isfinite(group["lr"])]
        if wrong:
            raise ValueError(f"the learning rate becomes {wrong[0]}")
    except UserError:
        raise
    except Exception as error:  # optimisers and custom code may raise anything
        raise UserError(f"{flags}: cannot be set up ({in_a_line(error)}); pass another") from None
    decays = config.layer_decay not in (None, 1) and not config.frozen
    if decays and all(group.get("lr_scale", 1.0) == 1 for group in optimizer.param_groups):
        say("--layer-decay has no effect here: all weights that are trained are in one layer")
