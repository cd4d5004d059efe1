"""Family of a backbone, by the modules that it is built of, and the number of its layers."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.models.timm_import import timm
from pipeline.training.rates import BATCH_NORM, NO_BATCH_NORM, TRANSFORMER

__all__ = ["family_of", "layers_of"]

# Projections of queries (and keys and values), as torch, timm and others call them.
QUERIES = ("qkv", "in_proj_weight", "q", "kv", "qk", "query", "q_proj", "to_q", "to_qkv")
# A convnet may have one attention layer, as its pooling.
LEAST_ATTENTION = 2


def family_of(model: torch.nn.Module) -> str:
    """Return the family of a backbone: a transformer, a convnet with batch norm, or another model.

    A backbone with two or more layers of self-attention is a transformer, also if it has
    convolutions as well. Of other backbones the kind of most norm layers counts.

    Examples
    --------
    >>> family_of(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8)))
    'convnet with batch norm'
    """
    modules = [*model.modules()]
    attention = sum(any(hasattr(one, name) for name in QUERIES) for one in modules)
    if attention >= LEAST_ATTENTION:
        return TRANSFORMER
    batch = sum(isinstance(one, _BatchNorm) for one in modules)
    # Containers such as timm's ConvNormAct have no weights of their own.
    norms = sum("Norm" in type(one).__name__ and "weight" in one._parameters for one in modules)
    return BATCH_NORM if 2 * batch > norms else NO_BATCH_NORM


def layers_of(model: torch.nn.Module) -> int | None:
    """Return the number of layers below the head that layer-wise decay tells apart.

    None for a model that timm does not know the layers of.
    """
    matcher: Any = getattr(model, "group_matcher", None)
    if matcher is None:
        return None
    try:
        groups = timm.models.group_parameters(model, matcher(coarse=False))
    except Exception:  # some of timm's have a wrong one
        return None
    return max(groups) or None
