"""Engine ONNX Runtime, on the CPU."""

from __future__ import annotations

from typing import Any

import torch

from foldblend.errors import in_a_line
from pipeline.engines.graphs import PIXELS, filled, graph_of
from pipeline.engines.registry import EngineFailed, Run
from pipeline.engines.spec import Spec

__all__ = ["OnnxEngine"]


class OnnxEngine:
    """ONNX Runtime for one architecture: see `pipeline.engines.registry.Engine`."""

    def __init__(self, model: torch.nn.Module, spec: Spec) -> None:
        self.spec = spec
        self.template = graph_of(model, spec)

    def _options(self) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        # The threads that call it are all there are.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.use_deterministic_compute = True
        # Threads that spin while they wait would take the cores from decoding and from other folds.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return options

    def load(self, model: torch.nn.Module) -> Run:
        """Return the forward pass with the weights of a model; raise EngineFailed."""
        import onnxruntime

        onnxruntime.disable_telemetry_events()
        try:
            session = onnxruntime.InferenceSession(
                filled(self.template, model), self._options(), providers=["CPUExecutionProvider"]
            )
        except EngineFailed:
            raise
        except Exception as error:  # its errors have no common class
            raise EngineFailed(f"ONNX Runtime cannot load the model ({in_a_line(error)})") from None

        def run(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
            logits, *features = session.run(None, {PIXELS: pixels.numpy()})
            found = torch.from_numpy(features[0]) if features else None
            return torch.from_numpy(logits), found

        return run
