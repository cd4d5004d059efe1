"""Backbones that a plan may try, and the order in which it does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["BACKBONES", "Backbone", "Candidate", "in_order", "quality"]


@dataclass(frozen=True, slots=True)
class Backbone:
    """A timm model that a plan may try."""

    name: str
    """Name of the model with the tag of its weights."""
    family: str
    """Kind of architecture; models of other families make other mistakes."""
    top1: float
    """Top-1 accuracy on ImageNet in percent (timm, results/results-imagenet.csv)."""
    multiple: int = 8
    """Width and height of the input are multiples of this number."""
    square: bool = False
    """Whether the input must have the size that the model was trained with."""


BACKBONES = (
    Backbone("tf_efficientnet_lite0", "efficientnet-lite", 74.83),
    Backbone("tf_efficientnet_lite1", "efficientnet-lite", 76.64),
    Backbone("tf_efficientnet_lite2", "efficientnet-lite", 77.46),
    Backbone("resnet50.a1_in1k", "resnet", 81.21, multiple=32),
    Backbone("efficientnet_b3.ra2_in1k", "efficientnet", 82.24),
    Backbone("tf_efficientnetv2_s.in21k_ft_in1k", "efficientnet", 84.29, multiple=32),
    Backbone("convnext_nano.in12k_ft_in1k", "convnext", 82.86, multiple=32),
    Backbone("convnext_tiny.in12k_ft_in1k", "convnext", 84.45, multiple=32),
    Backbone("swin_tiny_patch4_window7_224.ms_in1k", "swin", 81.38, square=True),
    Backbone("vit_small_patch16_224.augreg_in21k_ft_in1k", "vit", 81.38, square=True),
    Backbone("vit_base_patch16_224.augreg_in21k_ft_in1k", "vit", 84.53, square=True),
)
"""What a plan tries: sizes from a phone's to a server's, of families that differ."""

# Percentage points of ImageNet accuracy that a step is worth. They only order the runs, which are
# then measured: fine-tuning gained more than the next larger backbone, and so did a size that is
# twice as large, on the faces of docs/results.md.
FINE_TUNED = 5.0
TWICE_THE_PIXELS = 1.5
# Gains count from the quality of the worst candidate minus this, so that each has one.
MARGIN = 2.0
# A further run of the same family and kind adds this share of what a first one would.
SAME_AGAIN = 0.6


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A run that a plan may make."""

    backbone: Backbone
    width: int
    height: int
    usual_pixels: int
    """Pixels of the input that the backbone was trained with."""
    fine_tuned: bool
    seconds: float = math.inf
    """Estimated seconds of the whole run."""

    @property
    def size(self) -> str:
        return f"{self.width}x{self.height}"

    @property
    def kind(self) -> tuple[str, bool]:
        """Family and stage: candidates that share both make similar mistakes."""
        return self.backbone.family, self.fine_tuned


def quality(one: Candidate) -> float:
    """Return how good a run is expected to be, in points of ImageNet accuracy; only order counts.

    Examples
    --------
    >>> small = Candidate(backbone=BACKBONES[0], width=224, height=224, usual_pixels=224 * 224,
    ...                   fine_tuned=False)
    >>> large = Candidate(backbone=BACKBONES[0], width=448, height=224, usual_pixels=224 * 224,
    ...                   fine_tuned=False)
    >>> quality(large) - quality(small)
    1.5
    """
    size = TWICE_THE_PIXELS * math.log2(one.width * one.height / one.usual_pixels)
    return one.backbone.top1 + size + FINE_TUNED * one.fine_tuned


def in_order(
    candidates: Sequence[Candidate], *, before: Sequence[Candidate] = (), seconds: float
) -> list[Candidate]:
    """Return the candidates that fit into the time, by expected gain for their cost.

    The gain of a run is its quality above that of the worst useful one, less for each run of the
    same family and kind that comes before it, since equal models make equal mistakes.

    Parameters
    ----------
    candidates
        Runs with estimates of their seconds.
    before
        Runs that come before these.
    seconds
        Time for all of them.
    """
    chosen: list[Candidate] = []
    left = [one for one in candidates if math.isfinite(one.seconds)]
    floor = min(map(quality, [*left, *before]), default=0.0) - MARGIN

    def worth(one: Candidate) -> float:
        alike = sum(other.kind == one.kind for other in [*before, *chosen])
        return (quality(one) - floor) * SAME_AGAIN**alike / one.seconds

    while True:
        fitting = [one for one in left if one.seconds <= seconds]
        if not fitting:
            return chosen
        best = max(fitting, key=worth)
        chosen.append(best)
        left.remove(best)
        seconds -= best.seconds
