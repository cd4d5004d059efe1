"""Folders that timm loads from disk: one for each model, without views and blending."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from foldblend.cli import Say
from foldblend.errors import UserError, in_a_line
from foldblend.plugins import is_own
from foldblend.runs.refit import model_name
from pipeline.data.preprocess import region_of
from pipeline.models.attribute_head import ordinal_names
from pipeline.models.backbones import build_model
from pipeline.models.timm_import import timm
from pipeline.predict.compute import compute_for
from pipeline.predict.nets import Net
from pipeline.predict.open import Predictor
from pipeline.predict.recipe import Recipe
from pipeline.predict.tree import Leaf, Node, views_of
from pipeline.predict.weights import State

__all__ = ["folded", "write_timm"]

CLOSE = 1e-4
# Keys of timm's configuration that describe the weights that a backbone began with.
ORIGIN = ("url", "file", "hf_hub_id", "hf_hub_filename", "source", "state_dict", "label_offset")
OLD_SIZES = ("test_input_size", "test_crop_pct", "test_pool_size", "pool_size", "min_input_size")


def folded(recipe: Recipe, weight_DX: np.ndarray) -> np.ndarray:
    """Return the weights (or biases) of classes from those of attributes' values.

    A class's logit is the sum of the outputs of its values, less a constant of the image: the sum
    over attributes of the log of the sum of all values' exponentials.

    Parameters
    ----------
    recipe
        A recipe with attributes, none of them ordinal.
    weight_DX
        Rows are outputs of the linear layer: the values of all attributes, one after the other.

    Returns
    -------
    numpy.ndarray
        One row for each class.
    """
    starts = np.cumsum([0, *(len(one.values) for one in recipe.attributes)])
    pairs = zip(starts, recipe.attributes, strict=False)
    return np.sum([weight_DX[start + np.asarray(one.of_class)] for start, one in pairs], axis=0)


def _path_of(model: Any, leaf: Leaf) -> str:
    """Return the name of a model's last linear layer; raise UserError if it has none."""
    head = model.get_classifier() if hasattr(model, "get_classifier") else None
    path = next((name for name, module in model.named_modules() if module is head), None)
    if not isinstance(head, (torch.nn.Linear, torch.nn.Conv2d)) or path is None:
        raise UserError(
            f"--timm: {leaf.name}: the head of {leaf.recipe.backbone} is not a single linear"
            " layer; leave --timm out"
        )
    return path


def _state_of(leaf: Leaf, index: int, plain: torch.nn.Module) -> State:
    """Return the weights of a model as those of `plain`, which has one head over all classes."""
    recipe = leaf.recipe
    state = dict(leaf.weights.read(index))
    if recipe.frozen:
        path = _path_of(plain, leaf)
        head = {name.rpartition(".")[2]: one for name, one in state.items()}
        state = dict(leaf.weights.read(None)) | {f"{path}.{name}": head[name] for name in head}
    elif recipe.attributes:
        path = _path_of(plain, leaf)
        for name in ("weight", "bias"):
            values = state.pop(f"{path}.0.{name}").double().numpy()
            state[f"{path}.{name}"] = torch.from_numpy(folded(recipe, values))
    wanted = plain.state_dict()
    if set(state) != set(wanted):
        raise UserError(
            f"--timm: {leaf.name}: {recipe.backbone} has other layers with a head than without;"
            " leave --timm out"
        )
    return {
        name: state[name].to(one.dtype).reshape(one.shape).contiguous()
        for name, one in wanted.items()
    }


def _config_of(leaf: Leaf, plain: Any, classes: tuple[str, ...]) -> dict[str, Any]:
    """Return the content of config.json."""
    recipe = leaf.recipe
    pixels = recipe.preprocess
    known = {name: one for name, one in plain.pretrained_cfg.items() if name not in ORIGIN}
    cfg = known | {
        "custom_load": False,
        "input_size": [3, pixels.height, pixels.width],
        "mean": list(pixels.mean),
        "std": list(pixels.std),
        "crop_pct": pixels.crop_pct,
        "crop_mode": "squash",
        "interpolation": "bicubic",
        "num_classes": recipe.num_classes,
    }
    for name in OLD_SIZES:
        cfg.pop(name, None)
    size = recipe.kwargs.get("img_size")
    region = region_of(recipe.crop, recipe.crop_share, has_boxes=recipe.crop != "whole")
    return {
        "architecture": cfg.pop("architecture", recipe.backbone.partition(".")[0]),
        "num_classes": recipe.num_classes,
        "num_features": plain.num_features,
        "label_names": list(classes),
        **({} if size is None else {"model_args": {"img_size": list(size)}}),
        "pretrained_cfg": {name: one for name, one in cfg.items() if one is not None},
        "foldblend": {"run": leaf.name, "preprocess": pixels.record(region)},
    }


def _difference(folder: Path, net: Net, index: int) -> float:
    """Return by how much the logits of a folder, as timm loads it, differ from the run's."""
    recipe = net.recipe
    pixels = recipe.preprocess
    width, height = pixels.stored_size
    stored = np.random.default_rng(0).integers(256, size=(8, height, width, 3), dtype=np.uint8)
    names = [str(number) for number in range(len(stored))]
    wanted_NC = net.logits(index, stored, names, ["identity"], {})["identity"]
    with torch.inference_mode(), torch.random.fork_rng(devices=[]):
        model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        images = pixels.normalise(torch.from_numpy(np.ascontiguousarray(pixels.crop(stored))))
        found_NC = model(images).numpy()
    apart_NC = found_NC.astype(np.float64) - wanted_NC
    if recipe.attributes:
        apart_NC -= apart_NC.mean(axis=1, keepdims=True)
    return float(np.nan_to_num(np.abs(apart_NC), nan=np.inf).max())


def _check(leaf: Leaf) -> None:
    """Raise UserError for a run whose models are not plain models of timm."""
    recipe = leaf.recipe
    if is_own(recipe.backbone):
        raise UserError(
            f"--timm: {leaf.name}: backbone {recipe.backbone} is code of its own, which such a"
            " folder cannot carry; leave --timm out"
        )
    ordinal = ordinal_names(recipe.ordinal) if recipe.attributes else []
    if ordinal:
        raise UserError(
            f"--timm: {leaf.name}: the head of the ordinal attribute {', '.join(ordinal)}"
            " (--ordinal) is not linear; leave --timm out"
        )


def _left_out(root: Node, leaves: Mapping[str, Leaf]) -> str:
    """Return a sentence on what is not in the folders, or "" if nothing is missing."""
    missing = []
    views = {view: None for names in views_of(root).values() for view in names}
    if [*views] != ["identity"]:
        missing.append(f"the views {', '.join(views)}")
    if not isinstance(root, Leaf) and len(leaves) > 1:
        missing.append("blending")
    return f"; not inside: {' and '.join(missing)}" if missing else ""


def write_timm(predictor: Predictor, folder: Path, *, say: Say) -> list[Path]:
    """Write a folder for each model that `timm.create_model("local-dir:FOLDER")` loads.

    It has the weights (model.safetensors) and config.json with the architecture, the names of the
    classes and the size, mean and deviation of images. Heads of attributes become one linear layer,
    whose logits differ from the run's by a constant for each image. A frozen backbone and a linear
    head become one model.

    Parameters
    ----------
    predictor
        A run, TTA'd run or blend.
    folder
        Folder for the folders, RUN_fold_0 and so on; it is made if it is absent.
    say
        Function that prints one line of the log.

    Returns
    -------
    list of Path
        The folders.

    Raises
    ------
    UserError
        If a model is a user's own, has ordinal attributes or no single linear head, or if timm
        gives other logits with a folder; that folder is removed.
    """
    leaves = predictor.leaves
    for leaf in leaves.values():
        _check(leaf)
    made: dict[Path, None] = {}
    for leaf in leaves.values():
        recipe = leaf.recipe
        with torch.random.fork_rng(devices=[]):
            plain = build_model(
                recipe.backbone, num_classes=recipe.num_classes, kwargs=recipe.kwargs, weights=None
            )
        compute = compute_for(recipe, device="cpu", threads=None, say=say)
        net = Net(recipe, leaf.weights, compute, say)
        name = re.sub(r"[^\w.-]+", "_", leaf.name)
        first = model_name(recipe.models[0], recipe.num_models)
        while folder / f"{name}_{first}" in made:
            name += "_"
        for index in recipe.models:
            to = folder / f"{name}_{model_name(index, recipe.num_models)}"
            state = _state_of(leaf, index, plain)
            config = _config_of(leaf, plain, predictor.classes)
            to.mkdir(parents=True, exist_ok=True)
            safetensors.torch.save_file(state, to / "model.safetensors", {"format": "pt"})
            text = json.dumps(config, indent=1, ensure_ascii=False)
            (to / "config.json").write_text(text + "\n", encoding="utf-8")
            _accept(to, net, index)
            made[to] = None
    say(f"{len(made)} folders for timm in {folder}{_left_out(predictor.root, leaves)}")
    return [*made]


def _accept(folder: Path, net: Net, index: int) -> None:
    """Remove a folder and raise UserError if timm does not give the run's logits with it."""
    try:
        found = _difference(folder, net, index)
        why = f"its logits differ by {found:.2g} from those of predict.py"
    except Exception as error:  # timm's models can fail in any way
        found = float("inf")
        why = f"timm {timm.__version__} cannot load it ({in_a_line(error)})"
    if found > CLOSE:
        shutil.rmtree(folder, ignore_errors=True)
        raise UserError(f"{folder}: {why}, so it was removed; leave --timm out")
