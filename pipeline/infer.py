"""Pictures -> logits, with the same code for held-out and for test rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from folds.errors import UserError
from pipeline.device import Compute
from pipeline.preprocess import Preprocess

__all__ = ["predict"]


@torch.inference_mode()
def predict(
    model: torch.nn.Module,
    loader: Any,
    preprocess: Preprocess,
    compute: Compute,
    views: Sequence[Callable[[torch.Tensor], torch.Tensor]],
) -> np.ndarray:
    """Return logits V x N x C float32 of every view of every row, in the loader's order."""
    model.eval()
    batches = []
    for images, _ in compute.feed(loader):
        pixels = preprocess.normalise(images)
        pixels = pixels.contiguous(memory_format=compute.memory_format)
        try:
            with compute.autocast():
                batches.append(torch.stack([model(view(pixels)).float() for view in views]))
        except torch.OutOfMemoryError:
            raise UserError(f"out of memory with {len(pixels)} pictures; lower --validation-batch-size") from None
    return torch.cat(batches, dim=1).cpu().numpy()
