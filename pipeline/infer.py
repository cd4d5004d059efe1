"""Images -> logits, with the same code for held-out and for test rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from foldblend.errors import UserError
from foldblend.progress import track
from pipeline.data.preprocess import Preprocess
from pipeline.device import Compute

__all__ = ["predict"]


@torch.inference_mode()
def predict(
    model: torch.nn.Module,
    loader: Any,
    preprocess: Preprocess,
    compute: Compute,
    views: Sequence[Callable[[torch.Tensor], torch.Tensor]],
) -> np.ndarray:
    """Return logits V x N x C float32 of every view of every row, in the loader's order.

    Views see raw pixels: changes of tone are meant for 0..255, and mirroring gives the same bits
    before as after.
    """
    model.eval()
    batches = []
    for images, _ in track(compute.feed(loader), "predict", total=len(loader), unit="batches"):
        raw = (
            images.permute(0, 3, 1, 2).float().contiguous()
        )  # in this layout views take half the time on a CPU
        logits = []
        try:
            with compute.autocast():  # no view has a product that it would round
                for view in views:
                    pixels = preprocess.standardise(view(raw)).contiguous(
                        memory_format=compute.memory_format
                    )
                    logits.append(model(pixels).float())
            batches.append(torch.stack(logits))
        except torch.OutOfMemoryError:
            raise UserError(
                f"out of memory with {len(images)} images; lower --validation-batch-size"
            ) from None
    return torch.cat(batches, dim=1).cpu().numpy()
