"""Learning rates of --lr auto: by optimiser, family of the backbone, batch size and weights.

The table has published recipes where there are any; docs/training.md lists them with their sources
and with what was measured here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["BATCH_NORM", "NO_BATCH_NORM", "TRANSFORMER", "Decay", "decay_of", "kind_of", "rate_of"]

# Families of backbones (see `pipeline.models.family`).
BATCH_NORM = "convnet with batch norm"
NO_BATCH_NORM = "model without batch norm"
TRANSFORMER = "transformer"


@dataclass(frozen=True, slots=True)
class _Rate:
    """A learning rate at a number of images per step."""

    value: float
    images: int


@dataclass(frozen=True, slots=True)
class _Kind:
    """Optimisers whose rates are alike."""

    rates: dict[tuple[str, bool], _Rate]
    """Rate by family, and whether the weights are pretrained."""
    power: float
    """Power of the batch size that the rate grows with: 1 (Goyal et al. 2017) for SGD, 0.5 (Malladi
    et al. 2022) for optimisers that divide gradients by their size, as timm's --lr-base-scale.
    """
    divisor: float = 1.0


_ADAM = {
    # Measured here (docs/training.md).
    (BATCH_NORM, True): _Rate(2e-3, 32),
    # Adam's own default (Kingma & Ba 2015).
    (BATCH_NORM, False): _Rate(1e-3, 32),
    # ConvNeXt V2: 8e-4 (Atto) to 3.2e-3 (Tiny) with layer decay; ConvNeXt: 5e-5 at 512.
    (NO_BATCH_NORM, True): _Rate(1e-3, 1024),
    # ConvNeXt.
    (NO_BATCH_NORM, False): _Rate(4e-3, 4096),
    # MAE: 2e-3 with layer decay; timm's supervised and CLIP weights: 6e-5 to 3e-4.
    (TRANSFORMER, True): _Rate(1e-3, 1024),
    # DeiT.
    (TRANSFORMER, False): _Rate(1e-3, 1024),
}
_SGD = {
    (BATCH_NORM, True): _Rate(1e-2, 256),
    # Goyal et al. 2017.
    (BATCH_NORM, False): _Rate(0.1, 256),
    # The middle of the rates that the ViT and AugReg papers choose from.
    (NO_BATCH_NORM, True): _Rate(1e-2, 512),
    (NO_BATCH_NORM, False): _Rate(1e-2, 512),
    (TRANSFORMER, True): _Rate(1e-2, 512),
    (TRANSFORMER, False): _Rate(1e-2, 512),
}
KINDS = {
    # LAMB is here because its published rates (ResNet strikes back, DeiT III) are near Adam's.
    "adam": _Kind(_ADAM, 0.5),
    # Chen et al. 2023: three to ten times smaller than AdamW's.
    "lion": _Kind(_ADAM, 0.5, divisor=5),
    # timm's has a momentum of 0.9, which adds up ten steps.
    "rmsprop": _Kind(_ADAM, 0.5, divisor=10),
    "sgd": _Kind(_SGD, 1.0),
}
# The first pattern in the name of an optimiser counts; None: no kind.
PATTERNS: tuple[tuple[str, str | None], ...] = (
    ("muon|kron|mars|madgrad|novograd|lar[cs]|adadelta|adagrad|adahessian", None),
    ("lion", "lion"),
    ("rmsprop", "rmsprop"),
    ("sgd|momentum|nesterov", "sgd"),
    ("ada|adopt|ademamix|laprop|lamb", "adam"),
)


def kind_of(optimizer: str) -> str | None:
    """Return the kind of one of timm's optimisers, or None for one without rates in the table.

    Examples
    --------
    >>> kind_of("nadamw"), kind_of("sgdp"), kind_of("clion"), kind_of("muon")
    ('adam', 'sgd', 'lion', None)
    """
    return next((kind for pattern, kind in PATTERNS if re.search(pattern, optimizer.lower())), None)


def rate_of(
    optimizer: str, family: str, *, images: int, pretrained: bool, own: float = 1e-3
) -> float:
    """Return the learning rate of --lr auto, rounded to two digits.

    Parameters
    ----------
    optimizer
        Name of one of timm's optimisers.
    family
        Family of the backbone.
    images
        Images per training step: the batch size times the accumulated batches.
    pretrained
        Whether the initial weights are pretrained.
    own
        The optimiser's own default, for one that the table has no rates for.

    Examples
    --------
    >>> rate_of("adamw", BATCH_NORM, images=32, pretrained=True)
    0.002
    >>> rate_of("adamw", TRANSFORMER, images=32, pretrained=True)
    0.00018
    >>> rate_of("sgd", BATCH_NORM, images=512, pretrained=False)
    0.2
    """
    name = kind_of(optimizer)
    if name is None:
        return own
    kind = KINDS[name]
    base = kind.rates[family, pretrained]
    return float(f"{base.value / kind.divisor * (images / base.images) ** kind.power:.1e}")


@dataclass(frozen=True, slots=True)
class Decay:
    """Layer-wise decay and stochastic depth for fine-tuning."""

    layer_decay: float
    drop_path: float


# MAE has 0.65 to 0.75 and timm 0.7 to 0.8; ConvNeXt has 0.7 to 0.8 over groups of its blocks.
_DECAYS = {TRANSFORMER: Decay(0.75, 0.1), NO_BATCH_NORM: Decay(0.8, 0.1)}
# Layers below the head of the backbones that these are for: 12 blocks and the embedding.
LAYERS = 13


def decay_of(family: str, *, layers: int) -> Decay | None:
    """Return the decay for pretrained weights, or None for a family that is tuned without.

    The published decays are for 12 blocks. In a deeper backbone the first layer has the same share
    of the rate as there, so the decay is nearer to 1.

    Parameters
    ----------
    family
        Family of the backbone.
    layers
        Number of its layers below the head that have rates of their own.

    Examples
    --------
    >>> decay_of(TRANSFORMER, layers=13)
    Decay(layer_decay=0.75, drop_path=0.1)
    >>> decay_of(TRANSFORMER, layers=25).layer_decay
    0.861
    """
    published = _DECAYS.get(family)
    if published is None or layers <= LAYERS:
        return published
    return Decay(round(published.layer_decay ** (LAYERS / layers), 3), published.drop_path)
