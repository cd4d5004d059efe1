"""The graph of a model as TensorBoard draws it, found without computing anything."""

from __future__ import annotations

import contextlib
import copy
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from tensorboard.compat.proto.attr_value_pb2 import AttrValue
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.node_def_pb2 import NodeDef
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.versions_pb2 import VersionDef
from torch.overrides import TorchFunctionMode

__all__ = ["draw_graph"]


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)


class _Recorder(TorchFunctionMode):
    """Notes every torch function that is called: its name, the module it is called in, what its inputs came from."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.graph = GraphDef(versions=VersionDef(producer=22))
        self._scopes = [type(model).__name__]
        self._num_of: Counter[str] = Counter()
        self._source_of: dict[int, str] = {}
        self._kept: list[Any] = []  # all tensors, so that no id is used twice
        self._weight_of = {id(one): name for name, one in (*model.named_parameters(), *model.named_buffers())}
        for name, module in model.named_modules():
            if name:
                scope = f"{self._scopes[0]}/{name.replace('.', '/')}"
                module.register_forward_pre_hook(lambda *_, scope=scope: self._scopes.append(scope))
                module.register_forward_hook(lambda *_: self._leave())

    def _leave(self) -> None:
        self._scopes.pop()

    def _source(self, tensor: torch.Tensor) -> list[str]:
        if id(tensor) in self._weight_of and id(tensor) not in self._source_of:
            name = self._weight_of[id(tensor)].replace(".", "/")
            self.add(f"{self._scopes[0]}/{name}", "Weight", [], tensor)
        return [self._source_of[id(tensor)]] if id(tensor) in self._source_of else []

    def add(self, name: str, kind: str, inputs: list[str], outputs: Any) -> None:
        """Add a node; its outputs are known by it from now on."""
        self._num_of[name] += 1
        node = NodeDef(name=f"{name}_{self._num_of[name]}" if self._num_of[name] > 1 else name, op=kind, input=inputs)
        shapes = AttrValue.ListValue()
        for tensor in _tensors(outputs):
            sizes = [TensorShapeProto.Dim(size=size) for size in tensor.shape]
            shapes.shape.append(TensorShapeProto(dim=sizes))
            self._source_of[id(tensor)] = node.name
        node.attr["_output_shapes"].CopyFrom(AttrValue(list=shapes))
        self.graph.node.append(node)
        self._kept.append(outputs)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        if any(True for _ in _tensors(outputs)):
            kind = func.__name__.strip("_")
            inputs = [name for tensor in _tensors([args, kwargs]) for name in self._source(tensor)]
            self.add(f"{self._scopes[-1]}/{kind}", kind, inputs, outputs)
        return outputs


@contextlib.contextmanager
def _generators_kept() -> Iterator[None]:
    """Leave the generators that a forward pass might draw from as they were."""
    words, numbers = random.getstate(), np.random.get_state()
    cards = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(cards):
        try:
            yield
        finally:
            random.setstate(words)
            np.random.set_state(numbers)


def draw_graph(model: torch.nn.Module, example: torch.Tensor) -> GraphDef:
    """Return the graph of one forward pass in evaluation mode, a node for each torch function and each weight.

    A copy of the model is run on the meta device, where tensors have shapes and no numbers: a tenth of a
    second and no memory on any device, and nothing of the model or of any generator changes. Raises whatever
    the model does where it wants to see numbers.
    """
    bare: dict[int, Any] = {id(one): torch.empty_like(one, device="meta") for one in model.buffers()}
    for one in model.parameters():
        bare[id(one)] = torch.nn.Parameter(torch.empty_like(one, device="meta"), requires_grad=False)
    with _generators_kept(), torch.no_grad():
        twin = copy.deepcopy(model, bare).eval()
        recorder = _Recorder(twin)
        picture = torch.empty_like(example, device="meta")
        recorder.add("input", "Input", [], picture)
        with recorder:
            outputs = twin(picture)
        for tensor in _tensors(outputs):
            recorder.add("output", "Output", recorder._source(tensor), tensor)
    return recorder.graph
