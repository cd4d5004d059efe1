"""Layout of model.json: the tree of an exported model as plain values, and back with checks."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ensemble.parameters_file import from_bytes, to_bytes
from foldblend.errors import UserError
from pipeline.data.augment import RECIPES
from pipeline.data.crop import CROPS
from pipeline.models.backbones import check_backbone
from pipeline.predict.recipe import Recipe
from pipeline.predict.tree import Augmented, Blend, Leaf, Node
from pipeline.predict.weights import WeightSource
from tta.policy import Policy
from tta.views.names import draw_of, is_device_view, parse_views

__all__ = ["all_leaves", "checked_recipe", "node_of", "plain_node", "renamed"]

MOST_PIXELS = 1 << 26
MOST_BATCH = 1 << 16
MOST_MODELS = 10_000
MOST_THREADS = 1024
DEVICES = re.compile(r"cpu|cuda(:\d{1,3})?|mps")
# Keywords of backbones and the types of their numbers.
KWARGS: dict[str, tuple[type, ...]] = {
    "drop_rate": (int, float),
    "drop_path_rate": (int, float),
    "img_size": (int,),
}


def all_leaves(node: Node) -> dict[str, Leaf]:
    """Return all leaves of a node by key, also those that have no share in a blend."""
    if isinstance(node, Leaf):
        return {node.key: node}
    if isinstance(node, Augmented):
        return {node.leaf.key: node.leaf}
    assert isinstance(node, Blend)
    return {key: leaf for member in node.members for key, leaf in all_leaves(member).items()}


def renamed(node: Node, leaves: Mapping[str, Leaf], names: Mapping[str, str]) -> Node:
    """Return a node with other leaves, by key, and other names of views."""
    if isinstance(node, Leaf):
        return leaves[node.key]
    if isinstance(node, Augmented):
        views = tuple(names.get(view, view) for view in node.policy.views)
        policy = dataclasses.replace(node.policy, views=views)
        return dataclasses.replace(node, leaf=leaves[node.leaf.key], policy=policy)
    assert isinstance(node, Blend)
    members = tuple(renamed(one, leaves, names) for one in node.members)
    return dataclasses.replace(node, members=members)


def plain_node(node: Node, numbers: Mapping[str, int], entries: dict[str, bytes]) -> dict[str, Any]:
    """Return a node as values that JSON has; `entries` gets the parameters of blends.

    Parameters
    ----------
    node
        The node.
    numbers
        Number of each leaf, by its key.
    entries
        Takes the entries of the file, by name.
    """
    if isinstance(node, Leaf):
        return {"kind": "cv", "leaf": numbers[node.key]}
    if isinstance(node, Augmented):
        return {
            "kind": "tta",
            "name": node.name,
            "leaf": numbers[node.leaf.key],
            "policy": node.policy.as_dict(),
        }
    assert isinstance(node, Blend)
    members = [plain_node(one, numbers, entries) for one in node.members]
    entry = f"blends/{len(entries)}/parameters.safetensors"
    entries[entry] = to_bytes(node.parameters, "")
    return {
        "kind": "blend",
        "name": node.name,
        "members": members,
        "parameters": entry,
        "of_means": node.of_means,
    }


def node_of(plain: Mapping[str, Any], leaves: Sequence[Leaf], read: Any, num_classes: int) -> Node:
    """Return the node that `plain_node` described.

    `read` returns the content of an entry. Raises UserError, or any other error for other data.
    """
    kind = plain["kind"]
    if kind == "cv":
        return leaves[_whole(plain["leaf"], 0, len(leaves) - 1)]
    if kind == "tta":
        leaf = leaves[_whole(plain["leaf"], 0, len(leaves) - 1)]
        policy = Policy.from_dict(plain["policy"])
        _check_views(policy.views, leaf.recipe)
        weights = policy.weights
        if weights is not None and isinstance(weights[0], tuple) and len(weights[0]) != num_classes:
            raise ValueError("weights of views do not fit the classes")
        return Augmented(name=str(plain["name"]), leaf=leaf, policy=policy)
    if kind != "blend":
        raise ValueError(f"kind {kind!r}")
    members = tuple(node_of(one, leaves, read, num_classes) for one in plain["members"])
    parameters = from_bytes(
        read(str(plain["parameters"])), "", num_members=len(members), num_classes=num_classes
    )
    of_means = plain["of_means"] is True
    if not of_means and len({one.num_models for one in members}) != 1:
        raise ValueError("members differ in their number of models")
    return Blend(name=str(plain["name"]), members=members, parameters=parameters, of_means=of_means)


def leaf_of(plain: Mapping[str, Any], number: int, weights: WeightSource, classes: int) -> Leaf:
    """Return a leaf from its record; raise UserError, or any other error for other data."""
    recipe = checked_recipe(plain["recipe"], num_classes=classes)
    name = str(plain["name"])
    return Leaf(name=name, key=f"{number} {name}", recipe=recipe, weights=weights)


def _whole(value: Any, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{value!r} is not a whole number from {low} to {high}")
    return value


def _check_views(views: Iterable[str], recipe: Recipe) -> None:
    """Raise ValueError for a view that is unknown, or that would read a file of this machine."""
    for view in views:
        if parse_views(view)[-1] != view:
            raise ValueError(f"view {view!r}")
        if not is_device_view(view):
            file = draw_of(view).file
            if file is not None and file not in recipe.pipelines:
                raise ValueError(f"the pipeline {file!r} is missing")


def _wrong(recipe: Recipe, num_classes: int) -> Iterator[str]:
    """Yield what is wrong with a recipe, whose types are unknown."""
    pixels = recipe.preprocess
    for name, value in recipe.kwargs.items():
        parts = value if isinstance(value, tuple) else (value,)
        if name not in KWARGS or not all(type(one) in KWARGS[name] for one in parts):
            yield f"backbone keyword {name}={value!r}"
    if recipe.augment not in RECIPES:
        yield f"augment {recipe.augment!r}"
    if recipe.crop not in CROPS or pixels.decode not in ("scaled", "full"):
        yield f"crop {recipe.crop!r} or decode {pixels.decode!r}"
    if type(recipe.crop_share) not in (int, float) or not 0 < recipe.crop_share <= 1:
        yield f"crop_share {recipe.crop_share!r}"
    if type(pixels.crop_pct) not in (int, float) or not 0.25 <= pixels.crop_pct <= 1:
        yield f"crop_pct {pixels.crop_pct!r}"
    if len(pixels.mean) != 3 or len(pixels.std) != 3:
        yield "mean and standard deviation"
    if DEVICES.fullmatch(str(recipe.device)) is None:
        yield f"device {recipe.device!r}"
    if recipe.amp_dtype not in (None, "bfloat16", "float16"):
        yield f"number format {recipe.amp_dtype!r}"
    if type(recipe.refit_share) not in (int, float) or not 0 <= recipe.refit_share <= 1:
        yield f"refit_share {recipe.refit_share!r}"
    if not isinstance(recipe.engine, str) or len(recipe.on_torch) > len(recipe.padded):
        yield f"engine {recipe.engine!r}"
    for one in recipe.attributes:
        if len(one.of_class) != num_classes:
            yield f"attribute {one.name!r}"
    if not all(type(one) is bool for one in (recipe.frozen, recipe.channels_last)):
        yield "frozen or channels_last"


def checked_recipe(plain: Mapping[str, Any], *, num_classes: int) -> Recipe:
    """Return the recipe that a file describes; all that it names is part of foldblend or timm.

    Raises UserError or ValueError for anything else, and any error for data of the wrong types.
    """
    backbone = str(plain["backbone"])
    if ":" in backbone or "/" in backbone:
        raise UserError(f"backbone {backbone[:60]!r} is not a name of timm")
    check_backbone(backbone)
    recipe = Recipe.from_dict(plain)
    width = _whole(recipe.preprocess.width, 1, MOST_PIXELS)
    _whole(recipe.preprocess.height, 1, MOST_PIXELS // width)
    _whole(recipe.num_classes, num_classes, num_classes)
    _whole(recipe.batch_size, 1, MOST_BATCH)
    _whole(recipe.threads, 1, MOST_THREADS)
    _whole(recipe.seed, -(1 << 63), 1 << 63)
    _whole(len(recipe.padded), 1, MOST_MODELS)
    _whole(recipe.num_refits, 0, len(recipe.padded) - 1)
    wrong = next(_wrong(recipe, num_classes), None)
    if wrong is not None:
        raise ValueError(wrong)
    _check_views(recipe.views, recipe)
    if not recipe.views:
        raise ValueError("views: there are none")
    return recipe
