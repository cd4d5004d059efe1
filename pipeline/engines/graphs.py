"""Graphs of architectures for engines: exported once, and kept on disk for later runs."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import torch

from foldblend.errors import UserError, in_a_line
from foldblend.files import exists, write_bytes
from foldblend.reading import read_bounded
from pipeline.engines.heads import NoLastLayer, last_linear, watched
from pipeline.engines.registry import GRAPH_VERSION, EngineFailed, version_of
from pipeline.engines.spec import Spec
from pipeline.export.onnx_build import MOST_BYTES, OPSET, Template, exported

__all__ = ["PIXELS", "filled", "graph_of"]

PIXELS = "pixels"
LOGITS = "logits"
FEATURES = "features"
PACKAGES = ("torch", "timm", "onnx", "onnxscript")
MOST_GRAPH = 2**28  # bytes of a graph without its weights
DIGEST_BYTES = 16
WEIGHTS = "weights"
PREFIX = "model."


class FromPixels(torch.nn.Module):
    """A model from raw pixels on, which also returns the input of its last linear layer."""

    def __init__(self, model: torch.nn.Module, spec: Spec) -> None:
        super().__init__()
        self.model = model
        self.preprocess = spec.preprocess
        # In a list, since a second name of the layer would give its weights a second name.
        self._linear = [_used_linear(model, spec)]

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs."""
        return [LOGITS] if self._linear[0] is None else [LOGITS, FEATURES]

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the logits N x C and, where there is a linear layer, the features N x D."""
        linear = self._linear[0]
        standard = self.preprocess.standardise(pixels)
        if linear is None:
            return (self.model(standard).float(),)
        logits, features = watched(self.model, linear, standard)
        return logits.float(), features


@functools.lru_cache(maxsize=8)
def _graphs(architecture: str, shape: tuple[int, ...]) -> list[Template]:
    """Return the list that holds the graph of an architecture, empty until it is exported."""
    return []


def graph_of(model: torch.nn.Module, spec: Spec) -> Template:
    """Return the graph of a model without its weights, from memory, from disk or exported.

    Its input `PIXELS` has the shape of the `spec`; its outputs are `LOGITS` and, for a model with
    one last linear layer, `FEATURES`.

    Raises
    ------
    EngineFailed
        If torch cannot export the model, such as one with an operator that ONNX lacks.
    """
    held = _graphs(spec.architecture, spec.shape)
    if not held:
        file = _file_of(spec)
        found = None if file is None else _read(file)
        if found is None:
            found = _exported(model, spec)
            if file is not None:
                _keep(file, found)
        held.append(found)
    return held[0]


def _used_linear(model: torch.nn.Module, spec: Spec) -> torch.nn.Linear | None:
    """Return the last linear layer of a model, None for a model that lacks one or does not use it.

    The trial on one image also makes the constants of standardising, which are kept and must not be
    the exporter's.
    """
    pixels = spec.preprocess.standardise(torch.zeros(1, *spec.shape[1:]))
    linear = last_linear(model)
    if linear is None:
        return None
    try:
        with torch.no_grad():
            watched(model, linear, pixels)
    except NoLastLayer:
        return None
    return linear


def _exported(model: torch.nn.Module, spec: Spec) -> Template:
    try:
        wrapped = FromPixels(model, spec).eval()
        example = torch.zeros(spec.shape)
        return exported(wrapped, [example], inputs=[PIXELS], outputs=wrapped.outputs)
    except Exception as error:  # a user's own backbone can fail in any way
        raise EngineFailed(f"the model cannot be exported to ONNX ({_reason(error)})") from None


def _reason(error: BaseException) -> str:
    """Return the cause of the exporter's error on one line, without its advice and colours."""
    while error.__cause__ is not None:
        error = error.__cause__
    return re.sub(r"\x1b\[[0-9;]*m", "", in_a_line(error))


def filled(template: Template, model: torch.nn.Module) -> bytes:
    """Return the graph with the weights of a model, as bytes of an ONNX file.

    Raises EngineFailed for weights that are too large for one.
    """
    state = {f"{PREFIX}{name}": value for name, value in model.state_dict().items()}
    size = sum(state[name].numel() * state[name].element_size() for name in template.weights)
    if size > MOST_BYTES:
        raise EngineFailed(f"the weights ({size / 1e9:.1f} GB) do not fit into a graph")
    return bytes(template.filled(state).SerializeToString())


def _file_of(spec: Spec) -> Path | None:
    """Return the file of a graph, whose name has everything that decides its content."""
    if spec.folder is None:
        return None
    versions = [version_of(name) for name in PACKAGES]
    text = json.dumps([GRAPH_VERSION, OPSET, versions, spec.architecture, spec.shape])
    name = hashlib.blake2b(text.encode(), digest_size=10).hexdigest()
    return spec.folder / f"{name}.graph"


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


def _keep(file: Path, template: Template) -> None:
    """Write a graph after its hash; a folder that cannot be written goes without."""
    import onnx

    onnx.helper.set_model_props(template.model, {WEIGHTS: json.dumps(template.weights)})
    data: bytes = template.model.SerializeToString()
    with contextlib.suppress(OSError, UserError):
        write_bytes(file, _digest(data) + data)


def _read(file: Path) -> Template | None:
    """Return a graph that was kept, None where there is none or it is damaged."""
    import onnx

    if not exists(file):
        return None
    try:
        data = read_bounded(file, most=MOST_GRAPH)
        if data[:DIGEST_BYTES] != _digest(data[DIGEST_BYTES:]):
            return None
        model: Any = onnx.load_model_from_string(data[DIGEST_BYTES:])
        about = {one.key: one.value for one in model.metadata_props}
        return Template(model, tuple(json.loads(about[WEIGHTS])))
    except (OSError, UserError, LookupError, ValueError):
        return None
