"""Checks of a saved state of training before it is used: types, shapes and finite values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch

__all__ = ["Course", "MisfitError", "check_course", "check_state", "is_finite", "tensors_in"]

# What torch's generator and the place in the data consist of.
PLACE = ("epoch", "step", "images_seen", "updates", "micro_batch")


class MisfitError(ValueError):
    """Error for a saved state that cannot be continued from, with the reason."""


@dataclasses.dataclass
class Course:
    """Log, timings and best epoch of a fold so far; part of its checkpoint."""

    rows: list[dict[str, float]] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    train_seconds: float = 0.0
    train_images: int = 0
    best_score: float | None = None
    best_epoch: int = -1
    best_state: dict[str, torch.Tensor] | None = None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _require(condition: bool, why: str) -> None:
    if not condition:
        raise MisfitError(why)


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Yield all tensors in nested mappings and sequences."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from tensors_in(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from tensors_in(one)


def is_finite(tensor: torch.Tensor) -> bool:
    """Return whether all values of a tensor are finite, which those of other types are."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    return bool(torch.isfinite(tensor).all())


def _check_weights(saved: Any, fresh: Mapping[str, Any], what: str) -> None:
    """Raise MisfitError unless weights have the names, shapes and types of fresh ones.

    A value that is not finite may only be where a fresh model has one, such as in a mask.
    """
    _require(isinstance(saved, Mapping) and saved.keys() == fresh.keys(), f"other names in {what}")
    for name, wanted in fresh.items():
        one = saved[name]
        _require(isinstance(one, type(wanted)), f"{what} {name} is no {type(wanted).__name__}")
        if isinstance(wanted, torch.Tensor):
            same = one.shape == wanted.shape and one.dtype == wanted.dtype
            _require(same and one.layout == wanted.layout, f"another shape of {what} {name}")
            fine = is_finite(one) or not is_finite(wanted)
            _require(fine, f"{what} {name} is not finite")


def _check_optimizer(saved: Any, optimizer: torch.optim.Optimizer) -> None:
    """Raise MisfitError unless the state of an optimiser is one of these parameters."""
    wanted = optimizer.state_dict()["param_groups"]
    has_parts = isinstance(saved, Mapping) and {"state", "param_groups"} <= saved.keys()
    _require(has_parts, "no state of the optimiser")
    groups = saved["param_groups"]
    _require(isinstance(groups, list) and len(groups) == len(wanted), "other parameter groups")
    for group, fresh in zip(groups, wanted, strict=True):
        _require(isinstance(group, Mapping), "other parameter groups")
        _check_alike(group, fresh, "parameter group")
    every = [one for group in optimizer.param_groups for one in group["params"]]
    state = saved["state"]
    _require(isinstance(state, Mapping), "no state of the optimiser")
    for index, of_one in state.items():
        known = type(index) is int and 0 <= index < len(every)
        _require(known and isinstance(of_one, Mapping), "another state of the optimiser")
        for tensor in tensors_in(of_one):
            # Some optimisers keep rows and columns only.
            _require(
                tensor.numel() <= max(every[index].numel(), 1), "another size in the optimiser"
            )
            _require(is_finite(tensor), "a value in the optimiser is not finite")


def _check_alike(saved: Any, fresh: Any, what: str) -> None:
    """Raise MisfitError where fresh plain data has a value of a kind that the saved one lacks."""
    if fresh is None:
        return
    if isinstance(fresh, Mapping):
        _require(isinstance(saved, Mapping), f"{what} is no mapping")
        for name, one in fresh.items():
            _require(name in saved, f"{what} lacks {name}")
            _check_alike(saved[name], one, f"{what} {name}")
    elif isinstance(fresh, list | tuple):
        same = isinstance(saved, list | tuple) and len(saved) == len(fresh)
        _require(same, f"another length of {what}")
        for one, wanted in zip(saved, fresh, strict=True):
            _check_alike(one, wanted, what)
    elif _is_number(fresh):
        fine = isinstance(saved, torch.Tensor) or (_is_number(saved) and not math.isnan(saved))
        _require(fine, f"{what} is no number")
    else:
        _require(isinstance(saved, type(fresh)), f"{what} is no {type(fresh).__name__}")


def _check_place(saved: Any, *, epochs: int, steps: int, batch_size: int) -> None:
    """Raise MisfitError unless a place in the data is one of this run."""
    whole = isinstance(saved, list) and len(saved) == len(PLACE)
    _require(whole and all(type(one) is int for one in saved), "no place in the data")
    epoch, step, images, updates, micro_batch = saved
    fine = 0 <= epoch <= epochs and 0 <= step <= steps and (step == 0 or epoch < epochs)
    fine = fine and (images > 0) == (step > 0) and updates >= 0 and 1 <= micro_batch <= batch_size
    _require(fine, "another place in the data")


def _check_generator(saved: Any, wanted: torch.Tensor | None) -> None:
    fine = isinstance(saved, torch.Tensor) and saved.dtype == torch.uint8
    if wanted is not None:
        fine = fine and saved.shape == wanted.shape
    _require(fine, "no state of the random numbers")


def check_state(
    saved: Any,
    fresh: Mapping[str, Any],
    optimizer: torch.optim.Optimizer,
    *,
    epochs: int,
    steps: int,
    batch_size: int,
) -> None:
    """Raise MisfitError unless a saved state of `Fit` has the form of a fresh one.

    Parameters
    ----------
    saved
        The saved state, which may be anything.
    fresh
        State of a Fit with the same settings before its first step.
    optimizer
        Its optimiser.
    epochs, steps, batch_size
        Number of epochs, steps per epoch and images per step.
    """
    _require(isinstance(saved, Mapping) and fresh.keys() <= saved.keys(), "other parts")
    _check_weights(saved["model"], fresh["model"], "weight")
    _check_weights(saved["average"], fresh["average"], "averaged weight")
    _check_optimizer(saved["optimizer"], optimizer)
    _check_alike(saved["schedule"], fresh["schedule"], "schedule")
    _check_alike(saved["scaler"], fresh["scaler"], "scaler")
    _check_place(saved["place"], epochs=epochs, steps=steps, batch_size=batch_size)
    _check_alike(saved["first_lr"], fresh["first_lr"], "learning rate")
    _check_weights({"": saved["loss_sum"]}, {"": fresh["loss_sum"]}, "sum of losses")
    _check_generator(saved["rng"], fresh["rng"])
    if saved["rng_cuda"] is not None:
        _check_generator(saved["rng_cuda"], fresh["rng_cuda"])


def check_course(saved: Any, model: Mapping[str, Any], *, epochs: int) -> Course:
    """Return the log of a fold from a checkpoint; raise MisfitError for other data.

    `model` has the weights of a fresh model.
    """
    names = {one.name for one in dataclasses.fields(Course)}
    _require(isinstance(saved, Mapping) and saved.keys() == names, "other parts of the log")
    rows = saved["rows"]
    fine = isinstance(rows, list) and len(rows) <= epochs and all(isinstance(r, dict) for r in rows)
    _require(fine, "no rows of the log")
    plain = all(
        isinstance(name, str) and _is_number(value) for row in rows for name, value in row.items()
    )
    _require(plain, "no numbers in the log")
    for name in ("seconds", "train_seconds", "train_images", "best_epoch"):
        fine = _is_number(saved[name]) and math.isfinite(saved[name])
        _require(fine, f"{name} of the log is no number")
    score = saved["best_score"]
    state = saved["best_state"]
    whole = (score is None) == (state is None) and (score is None or _is_number(score))
    _require(whole, "no best epoch")
    if state is not None:
        _check_weights(state, model, "best weight")
    return Course(**saved)
