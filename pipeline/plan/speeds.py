"""Measured speeds as plain data, in the plan.yaml that keeps them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from foldblend.runs.environment import processor
from pipeline.config.resolved import ResolvedMachine
from pipeline.engines.registry import ENGINES, TORCH
from pipeline.plan.estimate import Speed

__all__ = ["speeds_as_data", "speeds_in"]

# Numbers of a speed, and the largest value of each that is believed.
NUMBERS = {
    "read": 1e4,
    "infer": 1e4,
    "train": 1e4,
    "start": 1e4,
    "memory": 1e15,
    "weights": 1e15,
    "pixels": 1e9,
}


def _machine(config: ResolvedMachine) -> dict[str, Any]:
    """Return what a speed depends on besides the backbone."""
    return {"device": config.device, "threads": config.threads, "processor": processor()}


def speeds_as_data(speeds: Mapping[str, Speed], config: ResolvedMachine) -> dict[str, Any]:
    """Return speeds as plain data, with the machine on which they were measured."""
    by_name = {
        name: {key: value for key, value in dataclasses.asdict(one).items() if value is not None}
        for name, one in speeds.items()
    }
    return {"machine": _machine(config), "backbones": by_name}


def speeds_in(found: Any, config: ResolvedMachine) -> dict[str, Speed]:
    """Return the speeds in a plan.yaml; none if it has none, or those of another machine."""
    if not isinstance(found, dict) or found.get("machine") != _machine(config):
        return {}
    backbones = found.get("backbones")
    speeds = {}
    for name, one in (backbones if isinstance(backbones, dict) else {}).items():
        if not isinstance(one, dict) or not all(map(_is_sound, one, one.values())):
            continue
        if {"read", "infer", "pixels"} <= one.keys() and one["pixels"] >= 1:
            speeds[str(name)] = Speed(**one)
    return speeds


def _is_sound(key: object, value: object) -> bool:
    if key == "engine":
        return value in (TORCH, *ENGINES)
    return key in NUMBERS and type(value) in (int, float) and 0 <= value < NUMBERS[str(key)]  # type: ignore[operator]
