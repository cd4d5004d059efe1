"""timm backbones: looked up by name, built with a head for our classes, sized for our pictures."""

from __future__ import annotations

from typing import Any

import torch

from folds.errors import UserError, did_you_mean
from pipeline.backends import timm
from pipeline.config import ModelConfig, parse_size
from pipeline.preprocess import Preprocess
from pipeline.weights import Weights, load_weights_into

__all__ = ["build_model", "check_backbone", "check_forward", "model_kwargs", "preprocess_of"]


def check_backbone(backbone: str) -> dict[str, Any]:
    """Return timm's record of a backbone (input size, mean, std, ...). Raises UserError for an unknown one."""
    name, _, tag = backbone.partition(".")
    if not timm.is_model(name):
        raise UserError(f"--backbone {backbone}: timm has no such model{did_you_mean(name, timm.list_models())}")
    tags = [full.partition(".")[2] for full in timm.list_pretrained(name + ".*")]
    if tag and tag not in tags:
        raise UserError(
            f"--backbone {backbone}: no weights tagged {tag}{did_you_mean(tag, tags) or '; leave the tag out'}"
        )
    return timm.models.get_pretrained_cfg(backbone).to_dict()


def preprocess_of(config: ModelConfig, record: dict[str, Any]) -> Preprocess:
    """Return the preprocessing for a backbone: --img-size or its own size, and its mean and std."""
    side = f"{record['input_size'][2]}x{record['input_size'][1]}"
    width, height = parse_size(config.img_size or side)
    return Preprocess(
        width=width,
        height=height,
        mean=tuple(record["mean"]),
        std=tuple(record["std"]),
        crop_pct=config.crop_pct,
        decode=config.decode,
    )


def model_kwargs(config: ModelConfig, record: dict[str, Any], preprocess: Preprocess) -> dict[str, Any]:
    """Return the keywords for timm.create_model that follow from the settings.

    Raises UserError for --drop-path on a backbone that has none.
    """
    kwargs: dict[str, Any] = {"drop_rate": config.drop}
    if config.drop_path is not None:
        kwargs["drop_path_rate"] = config.drop_path
    if record.get("fixed_input_size"):
        kwargs["img_size"] = (preprocess.height, preprocess.width)
    return kwargs


def build_model(backbone: str, *, num_classes: int, kwargs: dict[str, Any], weights: Weights | None) -> torch.nn.Module:
    """Build a backbone with a fresh head and load its weights. Raises UserError where they do not fit."""
    try:
        model = timm.create_model(backbone, pretrained=False, num_classes=num_classes, **kwargs)
    except TypeError as error:
        if "drop_path_rate" in str(error):
            raise UserError(f"--drop-path: {backbone} has no stochastic depth; leave it out") from None
        raise
    except AssertionError as error:
        if "img_size" in kwargs:
            raise UserError(
                f"--img-size: {backbone} cannot take {kwargs['img_size']} ({error}); pass another size"
            ) from None
        raise
    if weights is not None:
        load_weights_into(model, weights)
    return model


def check_forward(model: torch.nn.Module, backbone: str, preprocess: Preprocess) -> None:
    """Pass one blank picture through. Raises UserError for a size that the backbone cannot take."""
    blank = torch.zeros(1, 3, preprocess.height, preprocess.width)
    try:
        with torch.inference_mode():
            model.eval()(blank)
    except (AssertionError, RuntimeError) as error:
        size = f"{preprocess.width}x{preprocess.height}"
        raise UserError(f"--img-size {size}: {backbone} cannot take it ({error}); pass another size") from None
