"""ONNX graphs of a predictor: one for each model, and one for all of them together."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from foldblend.cli import Say
from foldblend.errors import UserError
from pipeline.data.preprocess import Preprocess, region_of
from pipeline.export.onnx_build import (
    Listed,
    Part,
    Template,
    joined,
    need_onnx,
    save,
    template_of,
)
from pipeline.export.onnx_check import CLOSE, Checker, accepted
from pipeline.export.onnx_methods import check_node, mean_of, node_logits
from pipeline.predict.nets import Net, compute_for
from pipeline.predict.open import Predictor
from pipeline.predict.recipe import Look, Recipe
from pipeline.predict.tree import Augmented, Blend, Leaf, Node, views_of
from tta.views.names import is_device_view, view_of

__all__ = ["ENSEMBLE", "write_onnx"]

ENSEMBLE = "ensemble.onnx"
Pixels = tuple[Look, int, int]
"""What makes the pixels of an input: look, and width and height after the centre crop."""


def pixels_of(recipe: Recipe) -> Pixels:
    """Return what makes the pixels of a recipe's models."""
    return recipe.look, recipe.preprocess.width, recipe.preprocess.height


def input_names(leaves: Mapping[str, Leaf]) -> dict[Pixels, str]:
    """Return the names of an ensemble's inputs, such as pixels_168x224 (width and height)."""
    found: dict[Pixels, str] = {}
    for leaf in leaves.values():
        pixels = pixels_of(leaf.recipe)
        if pixels not in found:
            name = f"pixels_{pixels[1]}x{pixels[2]}"
            number = sum(one.partition("__")[0] == name for one in found.values())
            found[pixels] = f"{name}__{number + 1}" if number else name
    return found


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


class Merge(torch.nn.Module):
    """What follows the body of a single model: the merge of its views, and its head if frozen."""

    def __init__(self, node: Leaf | Augmented, views: Sequence[str], head: Head | None) -> None:
        super().__init__()
        self.node = node
        self.views = views
        self.head = head

    def forward(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return logits N x C from the outputs of the views, V x N x C (or D)."""
        found = outputs.unbind(0)
        if self.head is not None:
            found = tuple(self.head(one) for one in found)
        leaf = self.node.leaf if isinstance(self.node, Augmented) else self.node
        return node_logits(self.node, {(leaf.key, 0): dict(zip(self.views, found, strict=True))}, 0)


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


@dataclass(frozen=True)
class Source:
    """Outputs of a body in a larger graph, of one model, or of the shared backbone of all."""

    name: str
    leaf: Leaf
    model: int | None
    views: tuple[str, ...]


def sources_of(leaves: Mapping[str, Leaf], views: Mapping[str, Sequence[str]]) -> list[Source]:
    """Return the outputs that nodes are computed from."""
    return [
        Source(f"outputs_{number}_{'all' if model is None else model}", leaf, model, (*views[key],))
        for number, (key, leaf) in enumerate(leaves.items())
        for model in ([None] if leaf.recipe.frozen else range(leaf.num_models))
    ]


def seen_of(
    sources: Sequence[Source],
    outputs: Sequence[torch.Tensor],
    heads: Mapping[tuple[str, int], Head],
) -> dict[tuple[str, int], dict[str, torch.Tensor]]:
    """Return the logits of each view, by leaf and model, from the outputs of bodies."""
    seen: dict[tuple[str, int], dict[str, torch.Tensor]] = {}
    for source, found in zip(sources, outputs, strict=True):
        views = dict(zip(source.views, found.unbind(0), strict=True))
        key = source.leaf.key
        if source.model is not None:
            seen[key, source.model] = views
        for at in [] if source.model is not None else [at for at in heads if at[0] == key]:
            seen[at] = {view: heads[at](one) for view, one in views.items()}
    return seen


def _check_views(views: Mapping[str, Sequence[str]], leaves: Mapping[str, Leaf]) -> None:
    """Raise UserError for a view that is not computed on batches."""
    for key, names in views.items():
        drawn = next((one for one in names if not is_device_view(one)), None)
        if drawn is not None:
            raise UserError(
                f"--onnx: view {drawn} of {leaves[key].name} is drawn by albumentations, which"
                " cannot go into a graph; export a run without it"
            )


def _nodes(node: Node) -> dict[tuple[str, str], Leaf | Augmented]:
    """Return the runs and TTA'd runs that have a share in a node, each once."""
    if isinstance(node, Leaf):
        return {(node.key, ""): node}
    if isinstance(node, Augmented):
        return {(node.leaf.key, repr(node.policy)): node}
    assert isinstance(node, Blend)
    found: dict[tuple[str, str], Leaf | Augmented] = {}
    for member, used in zip(node.members, node.used, strict=True):
        found |= _nodes(member) if used else {}
    return found


def _records(predictor: Predictor, inputs: Mapping[str, Leaf], **others: Any) -> dict[str, str]:
    """Return what a user of a graph must know, as texts."""
    preprocess = {}
    for name, leaf in inputs.items():
        recipe = leaf.recipe
        region = region_of(recipe.crop, recipe.crop_share, has_boxes=recipe.crop != "whole")
        preprocess[name] = recipe.preprocess.record(region)
    found = {
        "classes": predictor.classes,
        "preprocess": preprocess,
        "pixels": "N x 3 x height x width, float32, RGB, 0 to 255, not standardised",
        **others,
    }
    texts = {name: one if isinstance(one, str) else json.dumps(one) for name, one in found.items()}
    return texts | {"foldblend": importlib.metadata.version("foldblend")}


class _Writer:
    """Writes the graphs of a predictor into a folder, each after a check."""

    def __init__(self, predictor: Predictor, folder: Path, say: Say) -> None:
        self.predictor = predictor
        self.folder = folder
        self.say = say
        self.bodies = Bodies(say)
        self.leaves = predictor.leaves
        self.names = input_names(self.leaves)
        self.checker = Checker(predictor, say)
        self.merge: Template | None = None

    def models(self, node: Leaf | Augmented, name: str) -> Iterator[tuple[Path, float]]:
        """Write the graphs of the models of a run or TTA'd run; yield files and differences."""
        self.merge = None
        leaf = node.leaf if isinstance(node, Augmented) else node
        for index in range(leaf.num_models):
            file = self.folder / f"{name}_fold_{index}.onnx"
            yield file, self.model(node, index, file)

    def model(self, node: Leaf | Augmented, index: int, file: Path) -> float:
        """Write the graph of one model of a run or TTA'd run, and return its difference."""
        leaf = node.leaf if isinstance(node, Augmented) else node
        views = (*views_of(node)[leaf.key],)
        merge = Merge(node, views, self.bodies.head(leaf, index)).eval()
        if self.merge is None:
            self.merge = template_of(
                merge,
                [self._example(leaf, views)],
                inputs=["outputs"],
                outputs=["logits"],
                what=node.name,
                axis=1,
            )
        last = Part(
            self.merge.filled(merge.state_dict()),
            "merge.",
            {"outputs": "outputs", "logits": "logits"},
        )
        records = _records(
            self.predictor, {"pixels": leaf}, run=node.name, fold=index, views=[*views]
        )
        found = CLOSE
        for anew in (False, True):
            # The second time: the architecture may keep what it computed from its first weights.
            body = self.bodies.body(leaf, index, views, anew=anew)
            first = Part(body, "model.", {"pixels": "pixels", "outputs": "outputs"})
            save(joined([first, last], outputs=["logits"]), file, records)
            found = self.checker.model(node, index, file)
            if found <= CLOSE:
                break
        return accepted(found, file)

    def _example(self, leaf: Leaf, views: Sequence[str]) -> torch.Tensor:
        """Return outputs of the shape that a body has, V x N x C (or D)."""
        head = self.bodies.head(leaf, 0)
        width = leaf.recipe.num_classes if head is None else len(head.get_buffer("weight_DC"))
        return torch.rand(len(views), 2, width)

    def ensemble(self, file: Path) -> float:
        """Write the graph of all models, and return its difference."""
        root = self.predictor.root
        views = views_of(root)
        sources = sources_of(self.leaves, views)
        parts = []
        for one in sources:
            graph = self.bodies.body(one.leaf, one.model or 0, one.views)
            asked = {"pixels": self.names[pixels_of(one.leaf.recipe)], "outputs": one.name}
            parts.append(Part(graph, f"{one.name}.", asked))
        heads = {
            (key, model): head
            for key, leaf in self.leaves.items()
            for model in range(leaf.num_models)
            if (head := self.bodies.head(leaf, model)) is not None
        }
        temperature = self.predictor.calibration.temperature
        has_offsets = isinstance(root, Blend) and root.has_offsets

        def function(outputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
            seen = seen_of(sources, outputs, heads)
            every = range(root.num_models)
            logits_NC = mean_of(root, [node_logits(root, seen, one) for one in every])
            plain_NC = logits_NC
            if has_offsets:
                plain_NC = mean_of(root, [node_logits(root, seen, k, plain=True) for k in every])
            return logits_NC, torch.softmax(plain_NC.double() / temperature, dim=1).float()

        names = [one.name for one in sources]
        outputs = ["logits", "probabilities"]
        examples = [self._example(one.leaf, one.views) for one in sources]
        last = template_of(
            Listed(function), examples, inputs=names, outputs=outputs, what=root.name, axis=1
        ).model
        asked = {name: name for name in [*names, *outputs]}
        graph = joined([*parts, Part(last, "blend.", asked)], outputs=outputs)
        first: dict[str, Leaf] = {}
        for leaf in self.leaves.values():
            first.setdefault(self.names[pixels_of(leaf.recipe)], leaf)
        by_run = {self.leaves[key].name: [*names] for key, names in views.items()}
        records = _records(
            self.predictor, first, run=root.name, views=by_run, temperature=temperature
        )
        save(graph, file, records)
        return accepted(self.checker.ensemble(self.names, file), file)


def write_onnx(predictor: Predictor, folder: Path, *, say: Say) -> list[Path]:
    """Write ONNX graphs of a predictor into a folder, and check them against it.

    There is a graph for each model of each run, RUN_fold_0.onnx and so on, with the input `pixels`
    and the output `logits`; and ensemble.onnx, with one input for each size and part of images,
    such as `pixels_168x224`, and the outputs `logits` and `probabilities`. Pixels are N x 3 x H x W
    float32 RGB, 0 to 255, after resizing and the centre crop. The records of a file
    (metadata_props) have the classes, the preprocessing and the views.

    Parameters
    ----------
    predictor
        A run, TTA'd run or blend.
    folder
        Folder for the files, which is made if it is absent.
    say
        Function that prints one line of the log.

    Returns
    -------
    list of Path
        The files, the ensemble last.

    Raises
    ------
    UserError
        If a package is missing, if something cannot go into a graph, or if the logits of a graph
        differ by more than 0.0001 from those of the predictor; that file is removed.
    """
    need_onnx()
    root = predictor.root
    check_node(root)
    _check_views(views_of(root), predictor.leaves)
    if any(leaf.recipe.amp_dtype for leaf in predictor.leaves.values()):
        say("graphs compute in float32, where the run used mixed precision on a GPU")
    folder.mkdir(parents=True, exist_ok=True)
    writer = _Writer(predictor, folder, say)
    files: list[Path] = []
    worst = 0.0
    done: dict[str, None] = {}
    for node in _nodes(root).values():
        name = re.sub(r"[^\w.-]+", "_", node.name)
        while name in done:
            name += "_"
        done[name] = None
        for file, found in writer.models(node, name):
            worst = max(worst, found)
            files.append(file)
    file = folder / ENSEMBLE
    found = writer.ensemble(file)
    files.append(file)
    say(
        f"{len(files)} graphs in {folder}: the ensemble's logits differ by up to {found:.1g} from"
        f" those of predict.py, single models' by {worst:.1g} ({writer.checker.what})"
    )
    return files
