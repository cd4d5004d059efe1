"""Engine OpenVINO, on the CPU."""

from __future__ import annotations

import functools
import queue
from typing import Any

import torch

from foldblend.errors import in_a_line
from pipeline.engines.graphs import filled, graph_of
from pipeline.engines.registry import EngineFailed, Run
from pipeline.engines.spec import Spec

__all__ = ["OpenvinoEngine"]


@functools.cache
def _core() -> Any:
    """Return OpenVINO's core, one for as long as the process runs.

    Its CPU plugin gives the thread that loads it an alternate stack for signal handlers, and frees
    that stack in whichever thread the last core ends (SigAltStackSetup, sigstack_manager.cpp). The
    first thread would then handle its next signal on freed memory, and the process would crash.

    Its binding looks up NumPy's interface when an array is first passed. Two threads that do so at
    once wait for each other for ever (pybind11's npy_api::get: one holds the static's guard and
    waits for the interpreter, the other the reverse), so this thread does it before.
    """
    import openvino

    openvino.Type.f32.to_dtype()
    return openvino.Core()


class OpenvinoEngine:
    """OpenVINO for one architecture: see `pipeline.engines.registry.Engine`."""

    def __init__(self, model: torch.nn.Module, spec: Spec) -> None:
        self.spec = spec
        self.template = graph_of(model, spec)
        self.core = _core()

    def load(self, model: torch.nn.Module) -> Run:
        """Return the forward pass with the weights of a model; raise EngineFailed."""
        settings = {
            "INFERENCE_NUM_THREADS": self.spec.threads,
            # By default it is bfloat16 where the processor has it.
            "INFERENCE_PRECISION_HINT": "f32",
            "NUM_STREAMS": self.spec.threads,
            # Threads that are bound to cores would meet those of other folds there.
            "ENABLE_CPU_PINNING": False,
        }
        data = filled(self.template, model)
        try:
            # A graph is read as it is, without the converter, which would send telemetry.
            graph = self.core.read_model(data)
            compiled = self.core.compile_model(graph, "CPU", settings)
        except Exception as error:  # its errors have no common class
            raise EngineFailed(f"OpenVINO cannot load the model ({in_a_line(error)})") from None

        # A request serves one thread at a time.
        idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(self.spec.threads):
            idle.put(compiled.create_infer_request())

        def run(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
            request = idle.get()
            try:
                found = [*request.infer({0: pixels.numpy()}, share_inputs=True).values()]
            finally:
                idle.put(request)
            logits, *features = [torch.from_numpy(one) for one in found]
            return logits, features[0] if features else None

        return run
