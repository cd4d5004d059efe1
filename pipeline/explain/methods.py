"""Methods that show where a model looked, of the library Captum."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from captum.attr import LayerAttribution, LayerGradientXActivation, Occlusion

from pipeline.explain.layers import Layer, layers_with_places

__all__ = ["Explainer", "explainer_of", "scaled"]

# Most positions a side of a map that is kept.
MOST_SIDE = 32
# Steps of the occluding window along each side; it is two steps wide.
STEPS = 8
# Covered images per forward pass.
TOGETHER = 16


@dataclass(frozen=True, slots=True)
class Explainer:
    """A method, ready for models of one architecture."""

    method: str
    """Name in `reports.run.explained.METHODS`."""
    layer: str | None
    """Name of the layer that it looks at, None for the image itself."""
    maps: Callable[[torch.nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]
    """Function of a model, standardised pixels N x 3 x H x W and classes N. It returns maps
    N x h x w: by how much each position raises the score of the class.
    """


def by_layer(
    model: torch.nn.Module, layer: Layer, pixels: torch.Tensor, class_N: torch.Tensor
) -> torch.Tensor:
    """Return gradient times activation of a layer, summed over its channels, N x h x w.

    For a model that ends in a mean over positions and a linear layer, these are the parts of the
    score that come from each position, up to a constant.

    References
    ----------
    Draelos and Carin 2020, "Use HiResCAM instead of Grad-CAM for faithful explanations of
    convolutional neural networks".
    """
    found = LayerGradientXActivation(model, layer.module).attribute(pixels, target=class_N)
    return layer.grid.of(found.detach()).sum(dim=3)


def by_occlusion(
    model: torch.nn.Module, pixels: torch.Tensor, class_N: torch.Tensor
) -> torch.Tensor:
    """Return by how much the score falls where a window covers the image, N x 8 x 8.

    The window has the mean colour of the training, which is 0 after standardisation.

    References
    ----------
    Zeiler and Fergus 2014, "Visualizing and understanding convolutional networks".
    """
    _, channels, height, width = pixels.shape
    step = (max(height // STEPS, 1), max(width // STEPS, 1))
    with torch.no_grad():
        found = Occlusion(model).attribute(
            pixels,
            target=class_N,
            sliding_window_shapes=(channels, min(2 * step[0], height), min(2 * step[1], width)),
            strides=(channels, *step),
            baselines=0,
            perturbations_per_eval=max(TOGETHER // len(pixels), 1),
        )
    # Every channel of a position has the same value.
    return torch.nn.functional.adaptive_avg_pool2d(found.mean(dim=1), (STEPS, STEPS))


def explainer_of(model: torch.nn.Module, size: tuple[int, int], device: torch.device) -> Explainer:
    """Return the explainer of a model: by its last layer with positions, else by occlusion.

    A layer is passed over if the scores do not depend on its positions: after the last attention,
    a vision transformer may use the class token only. This is tried on random pixels.

    Parameters
    ----------
    model
        The model, in evaluation mode.
    size
        Height and width of its images.
    device
        Device of the model.
    """
    random = torch.Generator().manual_seed(0)
    pixels = torch.randn(2, 3, *size, generator=random).to(device)
    class_N = torch.tensor([0, 1], device=device)
    for layer in layers_with_places(model, pixels):
        try:
            found = by_layer(model, layer, pixels, class_N)
        except RuntimeError:
            # No gradient flows through the output of this layer.
            continue
        if torch.isfinite(found).all() and found.any():
            return Explainer("layer", layer.name, _of_layer(layer))
    return Explainer("occlusion", None, by_occlusion)


def _of_layer(
    layer: Layer,
) -> Callable[[torch.nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]:
    def maps(model: torch.nn.Module, pixels: torch.Tensor, class_N: torch.Tensor) -> torch.Tensor:
        # Models of other folds have a module of this name as well.
        own = Layer(layer.name, model.get_submodule(layer.name), layer.grid)
        return by_layer(model, own, pixels, class_N)

    return maps


def scaled(map_NHW: torch.Tensor) -> torch.Tensor:
    """Return what speaks for the class, from 0 to 255 (uint8), at most 32 positions a side.

    Each map is scaled to its own maximum; one without anything above 0 is 0 everywhere.

    Examples
    --------
    >>> scaled(torch.tensor([[[-1.0, 0.0], [1.0, 2.0]]])).tolist()
    [[[0, 0], [128, 255]]]
    """
    found = map_NHW.float().nan_to_num().clamp_min(0)
    height, width = found.shape[1:]
    if max(height, width) > MOST_SIDE:
        share = MOST_SIDE / max(height, width)
        size = (max(round(height * share), 1), max(round(width * share), 1))
        found = LayerAttribution.interpolate(found[:, None], size, "area")[:, 0]
    most_N11 = found.amax(dim=(1, 2), keepdim=True)
    shares = found / most_N11.clamp_min(torch.finfo(torch.float32).tiny)
    return (shares * 255).round().to(torch.uint8)
