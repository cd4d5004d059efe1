"""Modules that become graphs: bodies up to the outputs of a backbone, and what follows them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from foldblend.cli import Say
from pipeline.data.preprocess import Preprocess
from pipeline.export.onnx_build import Many, Template, template_of
from pipeline.export.onnx_methods import node_logits
from pipeline.predict.compute import compute_for
from pipeline.predict.nets import Net
from pipeline.predict.tree import Blend, Leaf, Node
from tta.views.names import view_of

__all__ = ["Bodies", "Combined", "Slot", "Views"]

Views = Mapping[str, Iterable[str]]
"""Views of runs, by key."""


class Body(torch.nn.Module):
    """A backbone with the views before it, from raw pixels to outputs V x N x C (or D)."""

    def __init__(
        self, model: torch.nn.Module, preprocess: Preprocess, views: Sequence[str]
    ) -> None:
        super().__init__()
        self.model = model
        self.views = [view_of(one) for one in views]
        for name in ("mean", "std"):
            values = torch.tensor(getattr(preprocess, name)).view(1, 3, 1, 1) * 255
            self.register_buffer(name, values, persistent=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the outputs for pixels N x 3 x H x W in 0..255."""
        # All views are one batch, so the backbone is in the graph once.
        seen = torch.cat([view(pixels) for view in self.views])
        outputs: torch.Tensor = self.model(
            (seen - self.get_buffer("mean")) / self.get_buffer("std")
        )
        return outputs.float().unflatten(0, (len(self.views), -1))


class Head(torch.nn.Module):
    """The linear head of a model on a frozen backbone, in float64."""

    def __init__(self, weight_DC: torch.Tensor, bias_C: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("weight_DC", weight_DC)
        self.register_buffer("bias_C", bias_C)

    def forward(self, features_ND: torch.Tensor) -> torch.Tensor:
        """Return logits N x C float32."""
        found_NC = features_ND.double() @ self.get_buffer("weight_DC")
        return (found_NC + self.get_buffer("bias_C")).float()


Slot = tuple[str, int]
"""Key of a run and number of its model, of which a graph takes the outputs."""


class Combined(Many):
    """Heads on frozen backbones, merges of views and blends, which follow the bodies."""

    def __init__(
        self, node: Node, slots: Sequence[Slot], views: Views, heads: Sequence[Head | None]
    ) -> None:
        super().__init__()
        self.node = node
        self.slots = slots
        self.views = views
        found = {str(place): head for place, head in enumerate(heads) if head is not None}
        self.heads = torch.nn.ModuleDict(found)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs; there are plain logits where offsets move the others."""
        moved = isinstance(self.node, Blend) and self.node.has_offsets
        return ("logits", "plain") if moved else ("logits",)

    def forward(self, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return logits N x C from the outputs of the bodies, V x N x C (or D) for each slot."""
        seen: dict[Slot, dict[str, torch.Tensor]] = {}
        for place, (slot, outputs) in enumerate(zip(self.slots, given, strict=True)):
            found = outputs.unbind(0)
            if str(place) in self.heads:
                found = tuple(self.heads[str(place)](one) for one in found)
            seen[slot] = dict(zip(self.views[slot[0]], found, strict=True))
        return tuple(
            node_logits(self.node, seen, 0, plain=name == "plain") for name in self.outputs
        )


class Bodies:
    """Graphs of the models of all runs, without what comes after them."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self.templates: dict[str, Template] = {}
        self.nets: dict[str, Net] = {}

    def net(self, leaf: Leaf) -> Net:
        """Return the modules of a run, in the memory layout that exporters know."""
        if leaf.key not in self.nets:
            recipe = dataclasses.replace(leaf.recipe, channels_last=False)
            compute = compute_for(recipe, device="cpu", threads=None, say=self.say)
            self.nets[leaf.key] = Net(recipe, leaf.weights, compute, self.say)
        return self.nets[leaf.key]

    def body(self, leaf: Leaf, model: int, views: Sequence[str], *, anew: bool = False) -> Any:
        """Return the graph from pixels to the outputs of all views.

        An architecture is exported once, unless a model is to be exported `anew`.
        """
        net = self.net(leaf)
        recipe = leaf.recipe
        body = Body(net.use(model), recipe.preprocess, views).eval()
        parts = (recipe.backbone, recipe.kwargs, recipe.num_classes, recipe.attributes)
        key = repr((*parts, recipe.ordinal, recipe.frozen, recipe.preprocess, [*views]))
        if key not in self.templates or anew:
            self.say(f"export {recipe.backbone} to ONNX")
            pixels = torch.rand(2, 3, recipe.preprocess.height, recipe.preprocess.width) * 255
            self.templates[key] = template_of(
                body,
                [pixels],
                inputs=["pixels"],
                outputs=["outputs"],
                what=f"{leaf.name}: backbone {recipe.backbone}",
            )
        return self.templates[key].filled(body.state_dict())

    def head(self, leaf: Leaf, model: int) -> Head | None:
        """Return the linear head of a model on a frozen backbone, None for other models."""
        if not leaf.recipe.frozen:
            return None
        state = leaf.weights.read(model)
        found = {name.rpartition(".")[2]: one.double() for name, one in state.items()}
        return Head(found["weight"].T.contiguous(), found["bias"])
