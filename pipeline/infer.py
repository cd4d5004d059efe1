"""Prediction of logits, with the same code for held-out and test images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from foldblend.progress import track
from pipeline.data.preprocess import Preprocess
from pipeline.device import Compute
from pipeline.engines.forward import Forward, padded
from pipeline.memory import Chunks

__all__ = ["Model", "View", "features_of", "filled", "logits_of", "predict"]

View = Callable[[torch.Tensor], torch.Tensor]
"""Function of N x 3 x H x W raw pixels (0 to 255)."""
Model = torch.nn.Module | Forward
"""A model in evaluation mode, run by torch or by an engine."""


def filled(model: Model, images: torch.Tensor, size: int | None) -> torch.Tensor:
    """Return a batch filled up to `size` images (None: unchanged), unless the engine does so."""
    if isinstance(model, Forward) and model.is_graph:
        return images
    return padded(images, size)


def _forward(model: Model, preprocess: Preprocess, compute: Compute) -> Forward:
    return model if isinstance(model, Forward) else Forward(model, preprocess, compute)


def logits_of(
    model: Model,
    images: torch.Tensor,
    preprocess: Preprocess,
    compute: Compute,
    views: Sequence[View],
    *,
    seen: list[torch.Tensor] | None = None,
) -> torch.Tensor:
    """Return the logits V x N x C of a batch of images N x H x W x 3 uint8 on the device.

    With `seen`, the features N x D before the last linear layer are appended to it, view by view.
    """
    forward = _forward(model, preprocess, compute)
    raw = images.permute(0, 3, 1, 2).float()
    if not images.is_cuda:
        # Views take half the time in this layout on a CPU. A GPU would only turn the pixels twice,
        # since models take them as they come.
        raw = raw.contiguous()
    logits = []
    # Views contain no matrix products, so autocast does not round their results.
    with compute.autocast():
        for view in views:
            if seen is None:
                logits.append(forward(view(raw)).float())
                continue
            outputs, features = forward.watched(view(raw))
            logits.append(outputs.float())
            seen.append(features)
    return torch.stack(logits)


def features_of(
    backbone: Model,
    images: torch.Tensor,
    preprocess: Preprocess,
    compute: Compute,
    view: View,
) -> torch.Tensor:
    """Return the features N x D of a batch of images N x H x W x 3 uint8 on the device."""
    # Views are applied to raw pixels, as in `logits_of`.
    seen = view(images.permute(0, 3, 1, 2).float())
    with compute.autocast():
        return _forward(backbone, preprocess, compute)(seen).float()


@torch.inference_mode()
def predict(
    model: Model,
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
        parts = chunks.map(filled(model, images, pad_to), seen)
        batches.append(torch.cat(parts, dim=1)[:, : len(images)])
    return torch.cat(batches, dim=1).cpu().numpy()
