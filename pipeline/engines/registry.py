"""Names of engines, what each needs, and why one cannot be used here."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

__all__ = [
    "ENGINES",
    "GRAPH_VERSION",
    "ROWS",
    "TORCH",
    "Engine",
    "EngineFailed",
    "Kind",
    "Run",
    "version_of",
    "why_not",
]

TORCH = "torch"
"""The engine that trains, which takes over where another one fails."""
# Images of a batch of a graph: smaller batches are filled up. From 4 to 64 images, the time of an
# image is about the same; small batches waste little at the end of a table.
ROWS = 8
# Raise this when graphs are made differently.
GRAPH_VERSION = 1

Run = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor | None]]
"""Function of a full batch of pixels N x 3 x H x W, which returns the model's outputs N x C and the
features N x D before its last linear layer, None where the engine does not have them. That of a
graph standardises pixels (0 to 255) itself, and uses one thread; several threads may call it at the
same time.
"""


def version_of(package: str) -> str | None:
    """Return the version of a package, None where its name says nothing of one.

    A module may come from another package, as onnxruntime does from onnxruntime-gpu.
    """
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


class EngineFailed(Exception):
    """Error of an engine that cannot run a model; the message gives the reason and the cure."""


class Engine(Protocol):
    """Protocol of engines: made once for an architecture, and given the weights of each model."""

    def load(self, model: torch.nn.Module) -> Run:
        """Return the forward pass with the weights of a model; raise EngineFailed."""
        ...


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Describe a kind of engine."""

    maker: str
    """Its class, as module:name, a function of a model and its `pipeline.engines.spec.Spec`."""
    title: str
    packages: tuple[str, ...] = ()
    extra: str | None = None
    """The extra that installs the packages."""
    on_cuda: bool = False
    """Whether it runs models on a GPU."""
    is_graph: bool = True
    """Whether it runs a graph, of pixels in the usual layout and in batches of `ROWS` images."""

    def make(self, model: torch.nn.Module, spec: Any) -> Engine:
        """Return the engine of a model's architecture; raise EngineFailed."""
        module, name = self.maker.split(":")
        made: Engine = getattr(importlib.import_module(module), name)(model, spec)
        return made

    @property
    def versions(self) -> list[str]:
        """Return versions on which the last bits of outputs may depend."""
        packages = [f"{name} {version_of(name)}" for name in self.packages]
        return [f"graph {GRAPH_VERSION}", f"rows {ROWS}", *packages]

    @property
    def absent(self) -> list[str]:
        """Return the packages that are not installed."""
        return [name for name in self.packages if importlib.util.find_spec(name) is None]


ENGINES = {
    "compile": Kind(
        maker="pipeline.engines.compiled:CompiledEngine",
        title="torch.compile",
        on_cuda=True,
        is_graph=False,
    ),
    "onnx": Kind(
        maker="pipeline.engines.onnx_runtime:OnnxEngine",
        title="ONNX Runtime",
        packages=("onnx", "onnxscript", "onnxruntime"),
        extra="onnx",
    ),
    "openvino": Kind(
        maker="pipeline.engines.openvino_runtime:OpenvinoEngine",
        title="OpenVINO",
        packages=("onnx", "onnxscript", "openvino"),
        extra="openvino",
    ),
}


def why_not(name: str, device: torch.device) -> str | None:
    """Return why an engine cannot be used on a device of this machine, None if it can."""
    kind = ENGINES[name]
    if kind.absent:
        return (
            f"{', '.join(kind.absent)} missing; pip install 'foldblend[{kind.extra}]' installs it"
        )
    if device.type == "cuda" and not kind.on_cuda:
        return f"{kind.title} is used on the CPU only, and the device is {device}"
    if kind.is_graph and _lacks_avx2():
        return "this processor has no AVX2"
    compilers = (os.environ.get("CXX") or "c++", "g++", "clang++")
    if name == "compile" and device.type == "cpu" and not any(map(shutil.which, compilers)):
        return "it needs a C++ compiler; install g++"
    return None


def _lacks_avx2() -> bool:
    """Return whether this is an x86 processor without AVX2, on which engines are slow or fail."""
    if platform.machine().lower() not in ("x86_64", "amd64", "i686", "x86"):
        return False
    return torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "NO AVX")
