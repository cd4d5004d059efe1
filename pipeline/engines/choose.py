"""Choice of the engine of a new run: the fastest one here whose outputs agree with torch's."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from foldblend.progress import duration
from pipeline.data.preprocess import Preprocess
from pipeline.device import Compute
from pipeline.engines.forward import Forward, padded
from pipeline.engines.measured import Measured, keep, kept, measure, measured_in, one_at_a_time
from pipeline.engines.registry import ENGINES, TORCH, why_not
from pipeline.engines.spec import Spec

__all__ = ["Work", "choose_engine", "fastest"]

# `auto` takes another engine than torch from this ratio of speeds on.
LEAST_RATIO = 1.1
# If torch needs less for all forward passes, measuring would take longer than another engine saves.
LEAST_SECONDS = 5.0
# Engines that `auto` tries beside torch. torch.compile takes a minute to compile on a CPU, and is
# slower there.
TRIED = ("onnx", "openvino")


@dataclass(frozen=True, kw_only=True)
class Work:
    """Forward passes of a run at inference."""

    num_images: int
    """Images, each counted once per view and model."""
    num_models: int
    """Models whose weights are put into an engine."""


def choose_engine(
    asked: str,
    model: torch.nn.Module,
    pixels: torch.Tensor,
    preprocess: Preprocess,
    compute: Compute,
    spec_for: Callable[[str], Spec | None],
    work: Work,
    say: Callable[[str], Any],
) -> str:
    """Return the name of the engine for a run, and say why in one line.

    Parameters
    ----------
    asked
        The value of --infer-engine.
    model
        The model with its initial weights, in evaluation mode on the device.
    pixels
        Pixels N x 3 x H x W (0 to 255) of the run's first images.
    preprocess
        Standardises the pixels.
    compute
        Device, number format and memory layout of torch.
    spec_for
        Function of an engine's name that returns what it is to run.
    work
        The run's forward passes.
    say
        Function that prints one line of the log.
    """
    if asked == TORCH or (asked == "auto" and compute.is_cuda):
        return TORCH
    if asked != "auto":
        spec = spec_for(asked)
        assert spec is not None
        forward = Forward(model, preprocess, compute, spec, say=say)
        with torch.inference_mode(), compute.autocast():
            # Compiling serves the batches of the run.
            forward(padded(pixels, spec.shape[0]))
        return forward.engine
    seconds = _torch_seconds(Forward(model, preprocess, compute), pixels) * work.num_images
    if seconds < LEAST_SECONDS:
        say(f"inference: torch, whose forward passes take about {duration(max(seconds, 1))} in all")
        return TORCH
    absent = [name for name in TRIED if ENGINES[name].absent]
    usable = [name for name in TRIED if why_not(name, compute.device) is None]
    if not usable:
        extras = " ".join(f"'foldblend[{ENGINES[name].extra}]'" for name in absent)
        why = why_not(TRIED[0], compute.device)
        more = f"pip install {extras} brings others" if absent else why
        say(f"inference: torch, the only engine here; {more}")
        return TORCH
    specs = {name: spec for name in usable if (spec := spec_for(name)) is not None}
    file = measured_in(specs[usable[0]], compute)
    with one_at_a_time(file, say):
        found = kept(file)
        if TORCH not in found:
            found = measure(model, pixels, preprocess, compute, specs)
            keep(file, found, num_images=len(pixels))
    engine, why = fastest(found, work)
    say(f"inference: {engine}, {why}")
    return engine


def _torch_seconds(forward: Forward, pixels: torch.Tensor) -> float:
    """Return the seconds that torch needs for an image, after a warm-up.

    It is the least of three: other programs may hold up a single pass for longer than it takes.
    """
    times = []
    with torch.inference_mode():
        forward(pixels[:1])
        for _ in range(3):
            start = time.perf_counter()
            forward(pixels)
            times.append(time.perf_counter() - start)
    return min(times) / len(pixels)


def fastest(found: Mapping[str, Measured], work: Work) -> tuple[str, str]:
    """Return the engine to use and the reason.

    An engine other than torch is taken if it is faster by `LEAST_RATIO`, and saves more than the
    loading of all models costs.

    Parameters
    ----------
    found
        The measurement of each engine, torch included.
    work
        The run's forward passes.

    Examples
    --------
    >>> found = {"torch": Measured(engine="torch", seconds=0.015),
    ...          "onnx": Measured(engine="onnx", seconds=0.005, load_seconds=0.1)}
    >>> fastest(found, Work(num_images=1000, num_models=5))
    ('onnx', '3.0 times as fast as torch here (ms per image: torch 15.0, onnx 5.0)')
    >>> fastest(found, Work(num_images=10, num_models=5))[0]
    'torch'
    """
    torch_seconds = found[TORCH].seconds
    good = {name: one for name, one in found.items() if one.problem is None}
    times = ", ".join(f"{name} {one.seconds * 1000:.1f}" for name, one in good.items())
    failed = "; ".join(f"{name}: {one.problem}" for name, one in found.items() if one.problem)
    shown = f"(ms per image: {times}{f'; {failed}' if failed else ''})"
    best = min(good.values(), key=lambda one: one.seconds)
    ratio = torch_seconds / best.seconds if best.seconds else 1.0
    saved = (torch_seconds - best.seconds) * work.num_images
    if best.engine == TORCH or ratio < LEAST_RATIO:
        return TORCH, f"as no other engine is faster by {LEAST_RATIO - 1:.0%} here {shown}"
    if saved <= best.load_seconds * work.num_models:
        return TORCH, f"since loading each model takes longer than another engine saves {shown}"
    return best.engine, f"{ratio:.1f} times as fast as torch here {shown}"
