"""Measurements of engines on this machine, kept beside the cache for later runs."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from foldblend.errors import UserError
from foldblend.locks import hold
from foldblend.runs.environment import processor
from foldblend.runs.folder import read_json, write_json
from pipeline.data.preprocess import Preprocess
from pipeline.device import Compute
from pipeline.engines.forward import Forward
from pipeline.engines.registry import ENGINES, GRAPH_VERSION, TORCH, version_of
from pipeline.engines.spec import Spec

__all__ = ["Measured", "keep", "kept", "measure", "measured_in", "one_at_a_time", "saves"]

ROUNDS = 3
MOST_SECONDS = 1e6
# Packages on whose versions the seconds depend.
PACKAGES = ("torch", "timm", *(name for kind in ENGINES.values() for name in kind.packages))


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Speed of an engine, or why it cannot be used."""

    engine: str
    seconds: float = 0.0
    """Seconds of an image in the forward pass: the median of some rounds."""
    load_seconds: float = 0.0
    """Seconds to put the weights of a model in."""
    difference: float = 0.0
    """Largest difference of its outputs from torch's."""
    problem: str | None = None


def _versions() -> dict[str, str | None]:
    return {name: version_of(name) for name in PACKAGES}


def measured_in(spec: Spec, compute: Compute) -> Path | None:
    """Return the file of a measurement, None where nothing is kept on disk.

    Its name has the architecture, the input, threads, layout, processor and versions.
    """
    if spec.folder is None:
        return None
    layout = str(compute.memory_format)
    machine = [spec.threads, layout, processor(), _versions()]
    parts = [GRAPH_VERSION, spec.architecture, spec.shape, *machine]
    name = hashlib.blake2b(json.dumps(parts).encode(), digest_size=10).hexdigest()
    return spec.folder / f"{name}.json"


def kept(file: Path | None) -> dict[str, Measured]:
    """Return the engines of a measurement that was kept, by name; {} where there is none."""
    if file is None:
        return {}
    try:
        engines = read_json(file)["engines"]
        found = {name: Measured(engine=name, **about) for name, about in engines.items()}
    except (OSError, UserError, LookupError, TypeError, ValueError, AttributeError):
        return {}
    return found if all(map(_is_sound, found.values())) else {}


def _is_sound(one: Measured) -> bool:
    """Return whether a measurement that was read is one: files may have been changed by hand."""
    numbers = (one.seconds, one.load_seconds, one.difference)
    if not all(type(each) in (int, float) and 0 <= each < MOST_SECONDS for each in numbers):
        return False
    if one.engine == TORCH:
        return one.problem is None
    return one.engine in ENGINES and (one.problem is None or isinstance(one.problem, str))


def saves(spec: Spec, compute: Compute, num_images: int) -> bool:
    """Return whether an engine is known to save time on so few images, its loading included."""
    found = kept(measured_in(spec, compute))
    if TORCH not in found or spec.engine not in found:
        return False
    own = found[spec.engine]
    saved = (found[TORCH].seconds - own.seconds) * num_images
    return own.problem is None and saved > own.load_seconds


@contextlib.contextmanager
def one_at_a_time(file: Path | None, say: Callable[[str], Any]) -> Iterator[None]:
    """Let one process measure at a time, so that the others find its result."""
    with contextlib.ExitStack() as stack:
        # Without the lock, each process measures for itself.
        with contextlib.suppress(OSError, UserError):
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                wait = "waiting for another process that measures engines"
                stack.enter_context(hold(file.with_suffix(".lock"), wait=lambda: say(wait)))
        yield


def _seconds(forward: Forward, pixels: torch.Tensor) -> float:
    start = time.perf_counter()
    forward(pixels)
    return (time.perf_counter() - start) / len(pixels)


def measure(
    model: torch.nn.Module,
    pixels: torch.Tensor,
    preprocess: Preprocess,
    compute: Compute,
    specs: Mapping[str, Spec],
) -> dict[str, Measured]:
    """Return the speed of torch and of other engines on a batch, measured in turns.

    Parameters
    ----------
    model
        The model, in evaluation mode.
    pixels
        Pixels N x 3 x H x W (0 to 255) of real images.
    preprocess
        Standardises the pixels.
    compute
        Device and memory layout of torch.
    specs
        What each engine is to run, by its name.
    """
    forwards = {TORCH: Forward(model, preprocess, compute)}
    load_seconds = {TORCH: 0.0}
    problems: dict[str, str] = {}
    with torch.inference_mode():
        for name, spec in specs.items():
            forward = Forward(model, preprocess, compute, spec)
            # The first pass compares the outputs with torch's.
            forward(pixels)
            if forward.problem is not None:
                problems[name] = forward.problem
                continue
            # Now that the graph is there, a model's weights are loaded into it once more.
            start = time.perf_counter()
            forwards[name] = Forward(model, preprocess, compute, spec)
            load_seconds[name] = time.perf_counter() - start
            forwards[name](pixels)
        times: dict[str, list[float]] = {name: [] for name in forwards}
        for _ in range(ROUNDS):
            for name, forward in forwards.items():
                times[name].append(_seconds(forward, pixels))
    found = {
        name: Measured(
            engine=name,
            seconds=statistics.median(times[name]),
            load_seconds=load_seconds[name],
            difference=forward.difference or 0.0,
        )
        for name, forward in forwards.items()
    }
    return found | {name: Measured(engine=name, problem=why) for name, why in problems.items()}


def keep(file: Path | None, found: Mapping[str, Measured], *, num_images: int) -> None:
    """Write a measurement with its date, versions and processor; a folder may refuse it."""
    if file is None:
        return
    engines = {name: dataclasses.asdict(one) for name, one in found.items()}
    for about in engines.values():
        del about["engine"]
    record = {
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "versions": _versions(),
        "num_images": num_images,
        "rounds": ROUNDS,
        "engines": engines,
    }
    with contextlib.suppress(OSError, UserError):
        write_json(file, record)
