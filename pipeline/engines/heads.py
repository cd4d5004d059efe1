"""The last linear layer of a model, whose input are the features of an image."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["NoLastLayer", "last_linear", "watched"]


class NoLastLayer(Exception):
    """Error for a model that does not end in one linear layer."""


def last_linear(model: Any) -> torch.nn.Linear | None:
    """Return the linear layer at the end of a model, None if there is not one."""
    try:
        head = model.get_classifier()
    except Exception:  # a user's own backbone may lack it, or fail in any way
        return None
    if not isinstance(head, torch.nn.Module):
        return None
    return next((one for one in head.modules() if isinstance(one, torch.nn.Linear)), None)


def watched(
    model: torch.nn.Module, linear: torch.nn.Linear, pixels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits N x C of a model, and the features N x D that its last layer has seen.

    Raises NoLastLayer if the model did not use the layer.
    """
    seen: list[torch.Tensor] = []
    hook = linear.register_forward_pre_hook(lambda _, given: seen.append(given[0].float()))
    try:
        logits = model(pixels)
    finally:
        hook.remove()
    if not seen:
        raise NoLastLayer
    return logits, seen[-1]
