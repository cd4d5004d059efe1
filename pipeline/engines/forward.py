"""Forward pass of a model by an engine, with torch in its place where the engine fails."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from foldblend.errors import UserError, in_a_line
from pipeline.data.preprocess import Preprocess
from pipeline.device import Compute
from pipeline.engines.heads import NoLastLayer, last_linear, watched
from pipeline.engines.registry import ENGINES, ROWS, TORCH, Engine, EngineFailed, Run, why_not
from pipeline.engines.spec import Spec

__all__ = ["Forward", "padded", "usable_engine"]

# The most by which the outputs may differ from torch's for the first images (`ROWS` of them).
MOST_DIFFERENCE = 1e-3
# The same on CUDA, of the largest output: numbers there have 8 to 11 bits (bfloat16, TF32).
COARSE = 0.05


def padded(images: torch.Tensor, size: int | None) -> torch.Tensor:
    """Return a batch with the last image repeated until it has `size` images (None: unchanged).

    The number of images in a batch may change the last bits of the logits. In full batches, those
    of an image depend on this image only.
    """
    if size is None or len(images) >= size:
        return images
    return torch.cat([images, images[-1:].expand(size - len(images), *images.shape[1:])])


@functools.lru_cache(maxsize=4)
def _engines(spec: Spec, compute: Compute) -> list[Engine]:
    """Return the list that holds the engine of a `spec` on a device, empty until it is made."""
    return []


def _engine_of(spec: Spec, compute: Compute, model: torch.nn.Module) -> Engine:
    held = _engines(spec, compute)
    if not held:
        held.append(ENGINES[spec.engine].make(model, spec))
    return held[0]


def usable_engine(spec: Spec | None, device: torch.device, say: Callable[[str], Any]) -> str:
    """Return the name of the engine, torch where it cannot be used here; `say` gets the reason."""
    if spec is None:
        return TORCH
    why = why_not(spec.engine, device)
    if why is None:
        return spec.engine
    say(f"--infer-engine {spec.engine}: {why}; torch is used")
    return TORCH


def _in_threads(
    run: Run, parts: Sequence[torch.Tensor], num_threads: int
) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
    """Return the results of all parts of a batch.

    Each thread has its own images: that is faster than threads which share the work on an image,
    and the number of threads changes no bit.
    """
    if num_threads == 1 or len(parts) == 1:
        return [*map(run, parts)]
    # Threads that outlived the batch would be missing in a forked process. Starting them takes a
    # tenth of a millisecond.
    with ThreadPoolExecutor(num_threads) as pool:
        return [*pool.map(run, parts)]


class Forward:
    """Forward pass of a model, by an engine or by torch.

    An engine that cannot load the model, or whose outputs differ on the first batch, is replaced by
    torch, and `say` gets one line with the reason.

    Parameters
    ----------
    model
        The model, in evaluation mode on its device.
    preprocess
        Standardises the pixels.
    compute
        Device, number format and memory layout of torch.
    spec
        What the engine is to run; None for torch.
    say
        Function that prints one line of the log.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        preprocess: Preprocess,
        compute: Compute,
        spec: Spec | None = None,
        *,
        say: Callable[[str], Any] = lambda _: None,
    ) -> None:
        self.preprocess = preprocess
        self.model = model
        self.compute = compute
        self.spec = spec
        self.say = say
        self.problem: str | None = None
        """Why torch is used in place of the engine, None where it is not."""
        self.difference: float | None = None
        """Largest difference from torch on the images that were checked."""
        self._run: Run | None = None
        if spec is None:
            return
        problem = why_not(spec.engine, compute.device)
        if problem is not None:
            self._give_up(problem)
            return
        try:
            # Training goes on with torch's random numbers as they were.
            with torch.random.fork_rng(devices=[]):
                self._run = _engine_of(spec, compute, model).load(model)
        except EngineFailed as error:
            self._give_up(str(error))
        except Exception as error:  # a package may be broken, or too old
            self._give_up(in_a_line(error))

    @property
    def engine(self) -> str:
        """Name of the engine that is used."""
        return TORCH if self._run is None or self.spec is None else self.spec.engine

    @property
    def is_graph(self) -> bool:
        """Return whether the engine runs a graph, which fills short batches up by itself."""
        return self.engine in ENGINES and ENGINES[self.engine].is_graph

    def eval(self) -> Forward:
        """Put the model into evaluation mode, as torch's modules do."""
        self.model.eval()
        return self

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the outputs of pixels N x 3 x H x W (0 to 255): logits N x C or features N x D.

        Raises UserError if the engine fails after its first batch.
        """
        if self._run is None:
            outputs: torch.Tensor = self.model(self._standard(pixels))
            return outputs
        found = self._by_engine(pixels)
        return self._full(pixels) if found is None else found[0]

    def _full(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the outputs by torch of a batch that the engine would have filled up."""
        assert self.spec is not None
        outputs: torch.Tensor = self.model(self._standard(padded(pixels, self.spec.batch_size)))
        return outputs[: len(pixels)]

    def watched(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the outputs, and the features N x D before the last linear layer.

        Raises NoLastLayer for a model that does not end in one linear layer.
        """
        num = len(pixels)
        found = None if self._run is None else self._by_engine(pixels)
        if found is not None and found[1] is not None:
            return found[0], found[1]
        linear = last_linear(self.model)
        if linear is None:
            raise NoLastLayer
        if self.spec is not None:
            pixels = padded(pixels, self.spec.batch_size)
        outputs, features = watched(self.model, linear, self._standard(pixels))
        # An engine without features still gives the logits.
        return (outputs[:num] if found is None else found[0]), features[:num]

    def _standard(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return standardised pixels in the layout of torch's models."""
        found = self.preprocess.standardise(pixels)
        return found.contiguous(memory_format=self.compute.memory_format)

    def _by_engine(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None] | None:
        """Return outputs and features by the engine, None if torch must take over."""
        assert self.spec is not None
        assert self._run is not None
        size = self.spec.shape[0]
        parts = (
            [padded(part, size) for part in pixels.contiguous().split(size)]
            if self.is_graph
            else [self._standard(pixels)]
        )
        try:
            found = _in_threads(self._run, parts, self.spec.threads)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # engines raise anything
            if self.difference is not None:
                # Torch would give the rest of a table, and another command all of it.
                raise UserError(
                    f"--infer-engine {self.spec.engine}: {in_a_line(error)}; give the command"
                    " again, or start again with --infer-engine torch"
                ) from None
            self._give_up(in_a_line(error))
            return None
        outputs = torch.cat([one for one, _ in found])[: len(pixels)]
        if self.difference is None and not self._agrees(pixels, outputs):
            return None
        features = [one for _, one in found if one is not None]
        return outputs, torch.cat(features)[: len(pixels)] if features else None

    def _agrees(self, pixels: torch.Tensor, outputs: torch.Tensor) -> bool:
        """Return whether the outputs of a batch are torch's; otherwise torch takes over."""
        few = pixels[:ROWS]
        expected = self.model(self._standard(few)).float()
        difference = float((outputs[: len(few)] - expected).abs().max())
        self.difference = difference
        limit = MOST_DIFFERENCE
        if self.compute.is_cuda:
            limit = COARSE * max(1.0, float(expected.abs().max()))
        if difference <= limit:
            return True
        self._give_up(f"its outputs differ from torch's by {difference:.2g}")
        return False

    def _give_up(self, why: str) -> None:
        assert self.spec is not None
        self._run = None
        self.problem = why
        self.say(f"--infer-engine {self.spec.engine}: {why}; torch is used")
