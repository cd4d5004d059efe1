"""A model of a run that is built before its first fold: shows whether the parts fit together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from foldblend.cli import Say
from foldblend.errors import UserError
from foldblend.plugins import is_custom, is_downloaded
from folds.data.manifest import Manifest
from pipeline.config.run import RunConfig
from pipeline.data.preprocess import Preprocess
from pipeline.models.attribute_head import AttributeJoin, make_join
from pipeline.models.backbones import build_model, model_kwargs
from pipeline.models.elsewhere import weights_file
from pipeline.models.pretrained import HubUnreachableError, Weights, load_file, load_pretrained
from pipeline.rates_of_run import Before, Rates, decide_rates

__all__ = ["TrialModel", "build_trial"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialModel:
    """A model of a run, with what it is built of."""

    model: torch.nn.Module
    kwargs: dict[str, Any]
    weights: Weights | None
    join: AttributeJoin | None
    rates: Rates
    """Learning rate, layer-wise decay and stochastic depth."""


def _load_weights(
    config: RunConfig, manifest: Manifest, kwargs: dict[str, Any], say: Say
) -> Weights | None:
    if config.model.weights is not None:
        return load_file(config.model.weights)
    # A custom backbone loads pretrained weights itself.
    if config.model.pretrained == "none" or is_custom(config.model.backbone):
        return None
    if is_downloaded(config.model.backbone):
        return load_file(weights_file(config.model.backbone))
    try:
        return load_pretrained(
            config.model.backbone, **{k: v for k, v in kwargs.items() if k == "img_size"}
        )
    except HubUnreachableError as error:
        if not manifest.is_demo:
            raise
        say(f"warning: {error}. The demo continues with random weights; expect a poor score.")
        return None


def build_trial(
    config: RunConfig,
    manifest: Manifest,
    record: dict[str, Any],
    preprocess: Preprocess,
    *,
    num_rows: int,
    before: Before,
    say: Say,
) -> TrialModel:
    """Load the weights, build a model and decide its learning rate.

    Parameters
    ----------
    config
        The settings; their learning rate, layer decay and drop path may be auto.
    manifest
        The data.
    record
        The backbone's configuration (see `check_backbone`).
    preprocess
        The run's preprocessing.
    num_rows
        Training images of a fold.
    before
        The run that is continued; empty for a new one.
    say
        Prints a warning of the demo without weights, and the learning rate.

    Raises
    ------
    UserError
        If a part is missing or does not fit.
    """
    backbone = config.model.backbone
    kwargs = model_kwargs(config.model, record, preprocess)
    weights = _load_weights(config, manifest, kwargs, say)
    join = (
        make_join(manifest.attributes, config.model.ordinal)
        if config.model.head == "attributes"
        else None
    )

    def build(kwargs: dict[str, Any]) -> torch.nn.Module:
        return build_model(
            backbone, num_classes=manifest.num_classes, kwargs=kwargs, weights=weights, join=join
        )

    model = build(kwargs)
    may_have_own = weights is None and is_custom(backbone) and config.model.pretrained != "none"
    rates = decide_rates(
        config,
        model,
        pretrained=None if may_have_own else weights is not None,
        num_rows=num_rows,
        before=before,
    )
    depth = rates.settings.get("drop_path")
    if depth is not None:
        dropping = kwargs | {"drop_path_rate": depth}
        try:
            model = build(dropping)
            kwargs = dropping
        except UserError:  # this backbone has no stochastic depth
            rates = rates.without_depth()
    if rates.line:
        say(rates.line)
    return TrialModel(model=model, kwargs=kwargs, weights=weights, join=join, rates=rates)
