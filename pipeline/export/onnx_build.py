"""ONNX graphs from modules: each architecture is exported once, and filled with several weights.

While a graph is simplified, its weights are inputs, so nothing that was computed from the weights
of one model is left in the graphs of others.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foldblend.errors import UserError, in_a_line

__all__ = [
    "Listed",
    "Many",
    "Part",
    "Template",
    "as_pixels",
    "exported",
    "joined",
    "need_onnx",
    "save",
    "session",
    "template_of",
]

OPSET = 18
# A file of protocol buffers has at most 2 GiB; larger weights go into a file beside it.
MOST_BYTES = 1_900_000_000
NEEDED = ("onnx", "onnxscript", "onnxruntime")


def need_onnx() -> None:
    """Raise UserError unless the packages that write and check graphs are there."""
    import importlib.util

    absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        raise UserError(f"--onnx: {', '.join(absent)} missing; pip install 'foldblend[onnx]'")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the notes of torch's exporter, which are for its developers, from the log."""
    before = logging.root.manager.disable
    rest = io.StringIO()
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(rest),
        contextlib.redirect_stderr(rest),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(before)


@dataclass(frozen=True)
class Template:
    """A graph of an architecture without its weights."""

    model: Any
    """The graph, an onnx.ModelProto whose weights are inputs."""
    weights: tuple[str, ...]
    """Names of the weights, which the state of the module has."""

    def filled(self, state: Mapping[str, torch.Tensor]) -> Any:
        """Return the graph with the weights of a state."""
        import onnx

        made = copy.deepcopy(self.model)
        graph = made.graph
        wanted = {one.name: one.type.tensor_type.elem_type for one in graph.input}
        inputs = [one for one in graph.input if one.name not in self.weights]
        del graph.input[:]
        graph.input.extend(inputs)
        for name in self.weights:
            kind = onnx.helper.tensor_dtype_to_np_dtype(wanted[name])
            values = state[name].detach().cpu().contiguous().numpy().astype(kind)
            graph.initializer.append(onnx.numpy_helper.from_array(values, name))
        return made


def template_of(
    module: torch.nn.Module,
    examples: Sequence[torch.Tensor],
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    what: str,
    axis: int = 0,
) -> Template:
    """Return the graph of a module, whose inputs have any number of rows.

    Parameters
    ----------
    module
        The module, in evaluation mode.
    examples
        One tensor for each input, with two rows or more.
    inputs, outputs
        Names in the graph.
    what
        What is exported, for messages.
    axis
        The axis of the rows in all inputs.

    Raises
    ------
    UserError
        If torch cannot export the module.
    """
    rows = tuple({axis: torch.export.Dim.DYNAMIC} for _ in examples)
    shapes = (rows,) if isinstance(module, Many) else rows
    try:
        with torch.no_grad():
            # Views keep what they have computed, which must not be the exporter's placeholders.
            module(*examples)
        made = exported(module, examples, inputs=inputs, outputs=outputs, shapes=shapes)
    except Exception as error:  # a user's own backbone can fail in any way
        raise UserError(
            f"--onnx: {what} cannot be exported to ONNX ({in_a_line(error)}); leave --onnx out, or"
            " use another backbone"
        ) from None
    _name_rows(made.model)
    return made


def exported(
    module: torch.nn.Module,
    examples: Sequence[torch.Tensor],
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    shapes: Any = None,
) -> Template:
    """Return the graph of a module.

    Parameters
    ----------
    module, examples, inputs, outputs
        See `template_of`.
    shapes
        Axes that may have any size, as `torch.onnx.export` takes them; None: all sizes are those of
        the examples.

    Raises
    ------
    Exception
        Of any kind, if torch cannot export the module.
    """
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            module,
            tuple(examples),
            dynamo=True,
            optimize=False,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=shapes,
            verbose=False,
            external_data=False,
        )
        assert program is not None
        graph = program.model.graph
        known = {*dict(module.named_parameters()), *dict(module.named_buffers())}
        known &= {*module.state_dict()}
        weights = tuple(name for name in [*graph.initializers] if name in known)
        for name in weights:
            value = graph.initializers.pop(name)
            value.const_value = None
            graph.inputs.append(value)
        program.optimize()
        made = program.model_proto
    assert not made.functions
    return Template(made, weights)


class Many(torch.nn.Module):
    """A module that takes any number of tensors."""


class Listed(Many):
    """A function of a list of tensors, as a module."""

    def __init__(self, function: Callable[[Sequence[torch.Tensor]], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *given: torch.Tensor) -> Any:
        """Return what the function makes of the tensors."""
        return self.function(given)


def _name_rows(model: Any) -> None:
    """Call the number of rows N, in place, and drop the shapes of what is in between."""
    del model.graph.value_info[:]
    for one in [*model.graph.input, *model.graph.output]:
        for size in one.type.tensor_type.shape.dim:
            if size.WhichOneof("value") != "dim_value":
                size.Clear()
                size.dim_param = "N"


@dataclass(frozen=True)
class Part:
    """A graph in a larger one, with the names there of its inputs and outputs."""

    model: Any
    prefix: str
    names: Mapping[str, str]


def _renamed(graph: Any, name_of: Callable[[str], str]) -> None:
    """Rename all values and nodes of a graph, in place."""
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [name_of(one) if one else one for one in names]
        node.name = name_of(node.name)
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                _renamed(inner, name_of)
    for one in [*graph.input, *graph.output, *graph.initializer]:
        one.name = name_of(one.name)


def joined(parts: Sequence[Part], *, outputs: Sequence[str]) -> Any:
    """Return one graph of several, an onnx.ModelProto.

    Inputs of parts that nothing computes are inputs of the graph; those with one name are one.
    """
    import onnx

    made = copy.deepcopy(parts[0].model)
    graph = made.graph
    for field in (graph.node, graph.initializer, graph.input, graph.output):
        del field[:]
    computed: set[str] = set()
    asked: dict[str, Any] = {}
    for part in parts:
        one = copy.deepcopy(part.model).graph

        def name_of(name: str, part: Part = part) -> str:
            return part.names.get(name, f"{part.prefix}{name}")

        _renamed(one, name_of)
        graph.node.extend(one.node)
        graph.initializer.extend(one.initializer)
        asked |= {each.name: each for each in one.input if each.name not in computed}
        computed |= {each.name for each in one.output}
        graph.output.extend(each for each in one.output if each.name in outputs)
    graph.input.extend(asked.values())
    graph.name = "foldblend"
    onnx.checker.check_model(made) if made.ByteSize() < MOST_BYTES else None
    return made


def save(model: Any, file: Path, records: Mapping[str, str]) -> None:
    """Write a graph with records as text, such as its classes, into a file."""
    import onnx

    onnx.helper.set_model_props(model, dict(records))
    model.producer_name = "foldblend"
    size = sum(len(one.raw_data) for one in model.graph.initializer)
    if size < MOST_BYTES:
        onnx.save_model(model, str(file))
        return
    onnx.save_model(
        model,
        str(file),
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location=f"{file.name}.data",
    )


def session(file: Path) -> Any:
    """Return what runs a graph on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def as_pixels(images_NHWC: np.ndarray) -> np.ndarray:
    """Return images N x H x W x 3 uint8 as the graphs take them, N x 3 x H x W float32."""
    return np.ascontiguousarray(images_NHWC.transpose(0, 3, 1, 2), np.float32)
