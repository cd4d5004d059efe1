"""Backbones by name, of timm or a user's own: building, checking and freezing them."""

from __future__ import annotations

import copy
from typing import Any

import torch

from foldblend.errors import UserError, did_you_mean, in_a_line
from foldblend.images import AS_BEFORE, Levels
from foldblend.plugins import is_custom, is_downloaded, load_custom
from pipeline.config.run import ModelConfig, parse_size
from pipeline.config.train import AUTO, Finetune
from pipeline.data.preprocess import Preprocess
from pipeline.models.attribute_head import AttributeJoin, attach
from pipeline.models.elsewhere import architecture, record_of
from pipeline.models.pretrained import Weights, load_weights_into
from pipeline.models.timm_import import timm

__all__ = [
    "build_model",
    "check_backbone",
    "check_forward",
    "freeze",
    "model_kwargs",
    "preprocess_of",
    "start_training",
]

# Input of a user's own backbone, unless it has a `default_cfg`.
OWN_RECORD = {
    "input_size": (3, 224, 224),
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
}


def check_backbone(backbone: str) -> dict[str, Any]:
    """Return the configuration of a backbone: input size, mean, std and so on.

    Raises UserError for an unknown backbone.
    """
    if is_downloaded(backbone):
        return record_of(backbone)
    if is_custom(backbone):
        return OWN_RECORD | dict(getattr(load_custom(backbone, "--backbone"), "default_cfg", {}))
    name, _, tag = backbone.partition(".")
    if not timm.is_model(name):
        raise UserError(
            f"--backbone {backbone}: timm has no such model{did_you_mean(name, timm.list_models())}"
        )
    tags = [full.partition(".")[2] for full in timm.list_pretrained(name + ".*")]
    if tag and tag not in tags:
        raise UserError(
            f"--backbone {backbone}: timm has no weights with the tag"
            f" {tag}{did_you_mean(tag, tags) or '; leave the tag out'}"
        )
    return timm.models.get_pretrained_cfg(backbone).to_dict()


def preprocess_of(
    config: ModelConfig, record: dict[str, Any], levels: Levels = AS_BEFORE
) -> Preprocess:
    """Return the preprocessing for a backbone, at --img-size or the backbone's input size.

    Parameters
    ----------
    config
        Settings of the model.
    record
        The backbone's configuration (see `check_backbone`).
    levels
        Treatment of values of more than 8 bits, and of transparency.
    """
    side = f"{record['input_size'][2]}x{record['input_size'][1]}"
    width, height = parse_size(config.img_size or side)
    return Preprocess(
        width=width,
        height=height,
        mean=tuple(record["mean"]),
        std=tuple(record["std"]),
        crop_pct=config.crop_pct,
        decode=config.decode,
        pixel_range=levels.pixel_range,
        dicom_window=levels.dicom_window,
        background=levels.background,
        range_is_decided=levels.range_is_decided,
    )


def model_kwargs(
    config: ModelConfig, record: dict[str, Any], preprocess: Preprocess
) -> dict[str, Any]:
    """Return the keywords for timm.create_model, or a user's own backbone, from the settings."""
    kwargs: dict[str, Any] = {}
    if config.drop or not is_custom(config.backbone):
        kwargs["drop_rate"] = config.drop
    # "auto" is decided once the model has been built (see `pipeline.rates_of_run`).
    if config.drop_path not in (None, AUTO):
        kwargs["drop_path_rate"] = config.drop_path
    if record.get("fixed_input_size"):
        kwargs["img_size"] = (preprocess.height, preprocess.width)
    return kwargs


def build_model(
    backbone: str,
    *,
    num_classes: int,
    kwargs: dict[str, Any],
    weights: Weights | None,
    join: AttributeJoin | None = None,
) -> torch.nn.Module:
    """Return a backbone with a new head and the given weights.

    Parameters
    ----------
    backbone
        Name of a timm model, or module:name.
    num_classes
        Number of classes.
    kwargs
        Keywords from `model_kwargs`.
    weights
        Initial weights; None for random ones.
    join
        Layer that joins heads of attributes; None for one head over all classes.

    Raises
    ------
    UserError
        If the backbone cannot be built, or the weights do not fit.
    """
    num_outputs = num_classes if join is None else join.num_inputs
    model = (
        _own_model(backbone, num_outputs, kwargs)
        if is_custom(backbone)
        else _timm(backbone, num_outputs, kwargs)
    )
    if weights is not None:
        load_weights_into(model, weights)
    if join is not None:
        attach(model, join)
    return model


def _timm(backbone: str, num_outputs: int, kwargs: dict[str, Any]) -> torch.nn.Module:
    if is_downloaded(backbone):
        return _downloaded(backbone, num_outputs, kwargs)
    try:
        return timm.create_model(backbone, pretrained=False, num_classes=num_outputs, **kwargs)
    except TypeError as error:
        if "drop_path_rate" in str(error):
            raise UserError(
                f"--drop-path: {backbone} has no stochastic depth; leave it out"
            ) from None
        raise
    except AssertionError as error:
        if "img_size" in kwargs:
            raise UserError(
                f"--img-size: {backbone} does not support {kwargs['img_size']} ({error}); pass"
                " another size"
            ) from None
        raise


def _downloaded(backbone: str, num_outputs: int, kwargs: dict[str, Any]) -> torch.nn.Module:
    name, described = architecture(backbone)
    given = {**described, "num_classes": num_outputs, **kwargs}
    try:
        return timm.create_model(name, pretrained=False, **given)
    except Exception as error:  # its keywords may be anything
        raise UserError(
            f"--backbone {backbone}: {name} cannot be built with the model_args of its config.json"
            f" ({in_a_line(error)}); pass another one"
        ) from None


def _own_model(backbone: str, num_outputs: int, kwargs: dict[str, Any]) -> torch.nn.Module:
    try:
        model = load_custom(backbone, "--backbone")(num_classes=num_outputs, **kwargs)
    except Exception as error:  # a user's code can raise anything
        given = ", ".join(["num_classes", *kwargs])
        raise UserError(
            f"--backbone {backbone}: a call with {given} failed ({in_a_line(error)}); see examples/"
        ) from None
    if not isinstance(model, torch.nn.Module):
        raise UserError(
            f"--backbone {backbone}: returns a {type(model).__name__}, not a torch.nn.Module; see"
            " examples/"
        )
    return model


def freeze(model: Any, tuned: Finetune) -> None:
    """Freeze all parameters but those of the last stages (--finetune) and the head, in place.

    Stages are timm's coarse groups of parameters. Raises UserError for a backbone without stages,
    or with too few.
    """
    wanted = tuned.last_stages
    # None trains all stages; 0 trains linear heads on features, without gradients in the backbone.
    if not wanted:
        return
    try:
        stages = timm.models.group_parameters(model, model.group_matcher(coarse=True))
    except (AttributeError, AssertionError):  # some of timm's have no group_matcher, or a wrong one
        raise UserError(
            f"--finetune {wanted}: this backbone does not define its stages (group_matcher); pass"
            " --finetune full"
        ) from None
    # The last group is the head.
    last = max(stages)
    if wanted >= last:
        raise UserError(
            f"--finetune {wanted}: this backbone has {last} stages; pass --finetune full to train"
            " all of them"
        )
    parameters = dict(model.named_parameters())
    for stage, names in stages.items():
        for name in names:
            parameters[name].requires_grad = stage >= last - wanted


def start_training(model: torch.nn.Module) -> None:
    """Set a model to training mode, except for its frozen modules.

    Frozen modules stay in evaluation mode, so that their batch statistics do not change, and
    dropout and stochastic depth are off.
    """
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(one.requires_grad for one in parameters):
            module.eval()


def check_forward(
    model: torch.nn.Module, backbone: str, preprocess: Preprocess, *, num_classes: int
) -> None:
    """Try a model on blank images.

    A user's own backbone is also trained for one step, and then restored. Raises UserError for an
    image size that the backbone does not support, or wrong outputs.
    """
    shape = (3, preprocess.height, preprocess.width)
    if is_custom(backbone):
        _check_own(model, backbone, shape, num_classes)
        return
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(1, *shape))
    except (AssertionError, RuntimeError) as error:
        size = f"{preprocess.width}x{preprocess.height}"
        raise UserError(
            f"--img-size {size}: {backbone} does not support it ({in_a_line(error)}); pass another"
            " size"
        ) from None


def _check_own(
    model: torch.nn.Module, backbone: str, shape: tuple[int, ...], num_classes: int
) -> None:
    before = copy.deepcopy(model.state_dict())
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(1, *shape))
        with torch.random.fork_rng(devices=[]):
            logits = model.train()(torch.zeros(2, *shape))
        found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        if found != (2, num_classes):
            raise ValueError(f"returns {found} for two images, not (2, {num_classes})")
        logits.float().logsumexp(dim=1).sum().backward()
        if not any(one.grad is not None for one in model.parameters()):
            raise ValueError("no weight has a gradient")
    except Exception as error:  # a user's code can raise anything
        raise UserError(
            f"--backbone {backbone}: a trial on blank images failed ({in_a_line(error)}); see"
            " examples/"
        ) from None
    model.zero_grad(set_to_none=True)
    model.load_state_dict(before)
