"""Configuration with every setting decided: numbers and names in place of None.

The subclasses narrow the types of `pipeline.config.run`, so that the type checker rejects code
that would use an undecided setting.
"""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass
from typing import Any, Literal

from folds.config import SplitConfig
from pipeline.config.run import InferConfig, MachineConfig, ModelConfig, OutputConfig, RunConfig
from pipeline.config.train import AUTO, TrainConfig

__all__ = ["ResolvedConfig", "ResolvedMachine", "ResolvedTrain", "resolved"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedSplit(SplitConfig):
    folds: int
    repeats: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedModel(ModelConfig):
    img_size: str
    drop_path: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedTrain(TrainConfig):
    epochs: int
    batch_size: int
    lr: float | Literal["find"]
    """Each fold replaces find by the rate that it found (see `TrainConfig.peak_lr`)."""
    layer_decay: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedInfer(InferConfig):
    validation_batch_size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedMachine(MachineConfig):
    workers: int
    threads: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedOutput(OutputConfig):
    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ResolvedConfig(RunConfig):
    """A RunConfig with every setting decided.

    It is written to config.yaml, and every function after `pipeline.prepare` takes it.
    """

    split: ResolvedSplit
    model: ResolvedModel
    train: ResolvedTrain
    infer: ResolvedInfer
    machine: ResolvedMachine
    output: ResolvedOutput


def _is_decided(hint: Any, value: Any) -> bool:
    """Return whether a value fits to a hint of a narrowed type."""
    return value != AUTO and (value is not None or type(None) in typing.get_args(hint))


def resolved(config: RunConfig, **decided: Any) -> ResolvedConfig:
    """Return the configuration with the settings in `decided` replaced.

    Every setting that `ResolvedConfig` requires must be among them or already set.
    """
    groups: dict[str, Any] = {}
    hints = typing.get_type_hints(ResolvedConfig)
    # Only of the groups that ResolvedConfig narrows: its annotations leave out inherited ones.
    kinds: dict[str, Any] = {name: hints[name] for name in ResolvedConfig.__annotations__}
    left = dict(decided)
    for field in dataclasses.fields(RunConfig):
        group = getattr(config, field.name)
        kind = kinds.get(field.name)
        if not dataclasses.is_dataclass(group):
            groups[field.name] = group
            continue
        values = {one.name: getattr(group, one.name) for one in dataclasses.fields(group)}
        values |= {name: left.pop(name) for name in [*values] if name in left}
        if kind is not None:
            narrow = {name: typing.get_type_hints(kind)[name] for name in kind.__annotations__}
            undecided = [
                name for name, hint in narrow.items() if not _is_decided(hint, values[name])
            ]
            assert not undecided, undecided
        made: Any = kind or type(group)
        groups[field.name] = made(**values)
    assert not left, left
    return ResolvedConfig(**groups)
