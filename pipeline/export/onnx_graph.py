"""ONNX graphs of a predictor: one for each model, and one for all of them together."""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from foldblend.cli import Say
from foldblend.errors import UserError
from foldblend.runs.refit import model_name
from pipeline.data.preprocess import region_of
from pipeline.export.onnx_build import (
    Listed,
    Part,
    Template,
    joined,
    need_onnx,
    save,
    template_of,
)
from pipeline.export.onnx_check import CLOSE, Checker, Pixels, accepted, pixels_of
from pipeline.export.onnx_methods import check_node, mean_of
from pipeline.export.onnx_modules import Bodies, Combined, Slot, Views
from pipeline.predict.open import Predictor
from pipeline.predict.tree import Augmented, Blend, Leaf, Node, views_of
from tta.views.names import is_device_view

__all__ = ["ENSEMBLE", "write_onnx"]

ENSEMBLE = "ensemble.onnx"


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


def _check_views(views: Views, leaves: Mapping[str, Leaf]) -> None:
    """Raise UserError for a view that is not computed on batches."""
    for key, names in views.items():
        drawn = next((one for one in names if not is_device_view(one)), None)
        if drawn is not None:
            raise UserError(
                f"--onnx: view {drawn} of {leaves[key].name} is drawn at random, which cannot go"
                " into a graph; export a run without it"
            )
        if leaves[key].recipe.crop == "face":
            raise UserError(
                f"--onnx: {leaves[key].name} was trained with --crop face, and its detector cannot"
                " go into a graph; export a run without it"
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
        for index in leaf.recipe.models:
            file = self.folder / f"{name}_{model_name(index, leaf.num_models)}.onnx"
            yield file, self.model(node, index, file)

    def model(self, node: Leaf | Augmented, index: int, file: Path) -> float:
        """Write the graph of one model of a run or TTA'd run, and return its difference."""
        leaf = node.leaf if isinstance(node, Augmented) else node
        views = (*views_of(node)[leaf.key],)
        after = Combined(node, [(leaf.key, 0)], {leaf.key: views}, [self.bodies.head(leaf, index)])
        last = self._combined(after, "merge.", ["outputs"], {"logits": "logits"})
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

    def _combined(
        self, after: Combined, prefix: str, inputs: Sequence[str], names: Mapping[str, str]
    ) -> Part:
        """Return the part that follows the bodies; it is exported once for all folds."""
        asked = [f"outputs_{place}" for place in range(len(after.slots))]
        if self.merge is None:
            examples = [self._example(key, [*after.views[key]]) for key, _ in after.slots]
            self.merge = template_of(
                after.eval(),
                examples,
                inputs=asked,
                outputs=after.outputs,
                what=after.node.name,
                axis=1,
            )
        filled = self.merge.filled(after.state_dict())
        return Part(filled, prefix, dict(zip(asked, inputs, strict=True)) | dict(names))

    def _example(self, key: str, views: Sequence[str]) -> torch.Tensor:
        """Return outputs of the shape that a body has, V x N x C (or D)."""
        leaf = self.leaves[key]
        head = self.bodies.head(leaf, 0)
        width = leaf.recipe.num_classes if head is None else len(head.get_buffer("weight_DC"))
        return torch.rand(len(views), 2, width)

    def _all_bodies(self, views: Views) -> tuple[list[Part], dict[Slot, str]]:
        """Return the bodies of all models, and the name of the outputs of each."""
        parts = []
        names: dict[Slot, str] = {}
        for number, (key, leaf) in enumerate(self.leaves.items()):
            first = leaf.recipe.models[0]
            for model in leaf.recipe.models:
                # Models on a frozen backbone share its features.
                frozen = leaf.recipe.frozen
                name = f"outputs_{number}" if frozen else f"outputs_{number}_{model}"
                names[key, model] = name
                if frozen and model != first:
                    continue
                graph = self.bodies.body(leaf, model, [*views[key]])
                asked = {"pixels": self.names[pixels_of(leaf.recipe)], "outputs": name}
                parts.append(Part(graph, f"{name}.", asked))
        return parts, names

    def _slots(self, fold: int) -> list[Slot]:
        """Return the models that the logits of a fold are made of."""
        return [
            (key, model)
            for key, leaf in self.leaves.items()
            for model in leaf.recipe.models
            if model == fold or model in leaf.recipe.refits
        ]

    def ensemble(self, file: Path) -> float:
        """Write the graph of all models, and return its difference."""
        self.merge = None
        root = self.predictor.root
        views = views_of(root)
        parts, names = self._all_bodies(views)
        # A blend of means needs the models of all folds at once.
        together = isinstance(root, Blend) and root.of_means
        folds = [[*names]] if together else [self._slots(fold) for fold in range(root.num_models)]
        means: dict[str, list[str]] = {}
        for fold, slots in enumerate(folds):
            heads = [self.bodies.head(self.leaves[key], model) for key, model in slots]
            # The graph is the same for all folds, whose numbers are 0 in it.
            at = slots if together else [(key, 0 if one == fold else one) for key, one in slots]
            after = Combined(root, at, views, heads)
            found = {name: f"{name}_{fold}" for name in after.outputs}
            inputs = [names[slot] for slot in slots]
            parts.append(self._combined(after, f"blend_{fold}.", inputs, found))
            for name, one in found.items():
                means.setdefault(name, []).append(one)
        temperature = self.predictor.calibration.temperature
        num = len(folds)

        def function(given: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
            logits_NC = mean_of(root, given[:num])
            plain_NC = mean_of(root, given[-num:])
            return logits_NC, torch.softmax(plain_NC.double() / temperature, dim=1).float()

        asked = [one for each in means.values() for one in each]
        outputs = ["logits", "probabilities"]
        examples = [torch.rand(2, len(self.predictor.classes)) for _ in asked]
        last = template_of(
            Listed(function), examples, inputs=asked, outputs=outputs, what=root.name
        ).model
        parts.append(Part(last, "mean.", {name: name for name in [*asked, *outputs]}))
        graph = joined(parts, outputs=outputs)
        first: dict[str, Leaf] = {}
        for leaf in self.leaves.values():
            first.setdefault(self.names[pixels_of(leaf.recipe)], leaf)
        by_run = {self.leaves[key].name: [*seen] for key, seen in views.items()}
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
