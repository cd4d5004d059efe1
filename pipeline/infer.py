"""Prediction of logits, with the same code for held-out and test images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from foldblend.progress import track
from pipeline.data.preprocess import Preprocess
from pipeline.device import Compute
from pipeline.memory import Chunks

__all__ = ["View", "features_of", "logits_of", "padded", "predict"]

View = Callable[[torch.Tensor], torch.Tensor]
"""Function of N x 3 x H x W raw pixels (0 to 255)."""


def padded(images: torch.Tensor, size: int | None) -> torch.Tensor:
    """Return a batch with the last image repeated until it has `size` images (None: unchanged).

    The number of images in a batch may change the last bits of the logits. In full batches, those
    of an image depend on this image only.
    """
    if size is None or len(images) >= size:
        return images
    return torch.cat([images, images[-1:].expand(size - len(images), *images.shape[1:])])


def logits_of(
    model: torch.nn.Module,
    images: torch.Tensor,
    preprocess: Preprocess,
    compute: Compute,
    views: Sequence[View],
) -> torch.Tensor:
    """Return the logits V x N x C of a batch of images N x H x W x 3 uint8 on the device."""
    raw = images.permute(0, 3, 1, 2).float()
    if not images.is_cuda:
        # Views take half the time in this layout on a CPU. A GPU would only turn the pixels twice,
        # since models take them as they come.
        raw = raw.contiguous()
    logits = []
    # Views contain no matrix products, so autocast does not round their results.
    with compute.autocast():
        for view in views:
            pixels = preprocess.standardise(view(raw)).contiguous(
                memory_format=compute.memory_format
            )
            logits.append(model(pixels).float())
    return torch.stack(logits)


def features_of(
    backbone: torch.nn.Module,
    images: torch.Tensor,
    preprocess: Preprocess,
    compute: Compute,
    view: View,
) -> torch.Tensor:
    """Return the features N x D of a batch of images N x H x W x 3 uint8 on the device."""
    # Views are applied to raw pixels, as in `logits_of`.
    seen = view(images.permute(0, 3, 1, 2).float())
    pixels = preprocess.standardise(seen).contiguous(memory_format=compute.memory_format)
    with compute.autocast():
        features: torch.Tensor = backbone(pixels).float()
    return features


@torch.inference_mode()
def predict(
    model: torch.nn.Module,
    loader: Any,
    preprocess: Preprocess,
    compute: Compute,
    views: Sequence[View],
    *,
    chunks: Chunks | None = None,
    pad_to: int | None = None,
) -> np.ndarray:
    """Predict the logits of all images in several views.

    Parameters
    ----------
    model
        Maps N x 3 x H x W standardised pixels to N x C logits.
    loader
        Yields batches of N x H x W x 3 uint8 images, and labels, which are ignored.
    preprocess
        Standardises the pixels.
    compute
        Device and precision.
    views
        Functions of N x 3 x H x W raw pixels (0 to 255), because changes of tone are defined for
        raw values.
    chunks
        Splits batches that do not fit into memory, and remembers it for later calls.
    pad_to
        Number of images to which a short batch is filled up (see `padded`); None: it stays short.

    Returns
    -------
    ndarray
        V x N x C float32 logits, in the loader's order.

    Raises
    ------
    UserError
        If memory runs out with a single image.
    """
    model.eval()
    chunks = chunks or Chunks()

    def seen(images: torch.Tensor) -> torch.Tensor:
        return logits_of(model, images, preprocess, compute, views)

    batches: list[torch.Tensor] = []
    for images, _ in track(compute.feed(loader), "predict", total=len(loader), unit="batches"):
        parts = chunks.map(padded(images, pad_to), seen)
        batches.append(torch.cat(parts, dim=1)[:, : len(images)])
    return torch.cat(batches, dim=1).cpu().numpy()
