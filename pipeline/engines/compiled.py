"""Engine torch.compile, on the CPU and on CUDA."""

from __future__ import annotations

import copy

import torch

from pipeline.engines.registry import Run
from pipeline.engines.spec import Spec

__all__ = ["CompiledEngine"]


class CompiledEngine:
    """Compiled torch for one architecture: see `pipeline.engines.registry.Engine`."""

    def __init__(self, model: torch.nn.Module, spec: Spec) -> None:
        # One module is compiled, and takes the weights of each model in turn: another module would
        # be compiled again.
        self.module = copy.deepcopy(model).eval()
        self.forward = torch.compile(self.module, dynamic=False)
        self.loaded: torch.nn.Module | None = None

    def load(self, model: torch.nn.Module) -> Run:
        """Return the forward pass with the weights that a model has at its first batch."""
        self.loaded = None

        def run(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
            if self.loaded is not model:
                self.module.load_state_dict(model.state_dict())
                self.loaded = model
            return self.forward(pixels).float(), None

        return run
