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

__all__ = ["predict"]


@torch.inference_mode()
def predict(
    model: torch.nn.Module,
    loader: Any,
    preprocess: Preprocess,
    compute: Compute,
    views: Sequence[Callable[[torch.Tensor], torch.Tensor]],
    *,
    chunks: Chunks | None = None,
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
        # Views take half the time in this layout on a CPU.
        raw = images.permute(0, 3, 1, 2).float().contiguous()
        logits = []
        # Views contain no matrix products, so autocast does not round their results.
        with compute.autocast():
            for view in views:
                pixels = preprocess.standardise(view(raw)).contiguous(
                    memory_format=compute.memory_format
                )
                logits.append(model(pixels).float())
        return torch.stack(logits)

    batches: list[torch.Tensor] = []
    for images, _ in track(compute.feed(loader), "predict", total=len(loader), unit="batches"):
        batches += chunks.map(images, seen)
    return torch.cat(batches, dim=1).cpu().numpy()
