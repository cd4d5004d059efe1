"""Preparation of a tree for export: which models and views go into the file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from foldblend.errors import UserError
from foldblend.plugins import is_custom
from foldblend.reading import read_yaml_file
from pipeline.data.augment import RECIPES
from pipeline.export.layout import all_leaves, renamed
from pipeline.predict.recipe import Recipe
from pipeline.predict.tree import Leaf, Node, leaves_of, views_of
from tta.views.names import draw_of, is_device_view

__all__ = ["Prepared", "prepare"]


@dataclass(frozen=True)
class Prepared:
    """A tree as it is exported."""

    root: Node
    models: dict[str, list[int]]
    """Numbers of the exported models, as the run has them, by key of a leaf that has a share."""


def _pipeline(file: str) -> dict[str, Any]:
    """Return the content of an albumentations file, as JSON has it."""
    try:
        saved = read_yaml_file(file, cure="restore the file")
        return dict(json.loads(json.dumps(saved, allow_nan=False)))
    except UserError as error:
        raise UserError(f"albu:{error}") from None
    except (ValueError, TypeError):
        raise UserError(
            f"albu:{file}: not a pipeline; write one with albumentations.save"
        ) from None


def _with_views(
    recipe: Recipe, views: Sequence[str], files: dict[str, str]
) -> tuple[Recipe, dict[str, str]]:
    """Return a recipe that holds the pipelines of its views, and the new names of these views.

    `files` has the name of each file in the exported one.
    """
    names = {}
    pipelines = {}
    draws_training = False
    for view in views:
        if is_device_view(view):
            continue
        draw = draw_of(view)
        if draw.file is None:
            draws_training = True
            continue
        short = files.setdefault(draw.file, f"{len(files)}.yaml")
        names[view] = f"albu:{short}#{draw.index}"
        pipelines[short] = _pipeline(draw.file)
    augment = recipe.augment
    if draws_training and is_custom(augment):
        raise UserError(
            f"--augment {augment}: a train view draws from your own code, which a file cannot"
            " carry; export the run without this view"
        )
    # Nothing else uses the augmentation.
    augment = augment if draws_training and augment in RECIPES else "none"
    return dataclasses.replace(recipe, augment=augment, pipelines=pipelines), names


def prepare(root: Node, folds: Sequence[int] | None) -> Prepared:
    """Return the tree that is exported.

    Parameters
    ----------
    root
        The tree of a run folder.
    folds
        Numbers of the models to keep; None for all.

    Raises
    ------
    UserError
        If a run uses code that a file cannot carry, or has none of the models.
    """
    used = leaves_of(root)
    views = views_of(root)
    leaves: dict[str, Leaf] = {}
    models: dict[str, list[int]] = {}
    names: dict[str, str] = {}
    files: dict[str, str] = {}
    for key, leaf in all_leaves(root).items():
        every = range(leaf.num_models)
        recipe = leaf.recipe
        if folds is not None:
            # As in predict.py, chosen folds predict without refits.
            recipe = recipe.without_refits()
        kept = [index for index in recipe.models if folds is None or index in folds]
        if not kept and key in used:
            raise UserError(
                f"--folds {','.join(map(str, folds or ()))}: {leaf.name} has {leaf.num_models}"
                " models, numbered from 0; pass smaller numbers"
            )
        recipe, new = _with_views(recipe, [*views.get(key, recipe.views)], files)
        names |= new
        padded = recipe.padded
        if folds is not None:
            # A member without a share is never run, so its models only count.
            padded = tuple(recipe.padded[index] for index in kept or every)
        leaves[key] = dataclasses.replace(leaf, recipe=dataclasses.replace(recipe, padded=padded))
        if key in used:
            models[key] = kept
    return Prepared(renamed(root, leaves, names), models)
