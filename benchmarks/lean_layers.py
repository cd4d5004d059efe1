"""Layers of timm that go over memory fewer times in a training step, with the same bits.

Three passes over activations only make copies: autograd copies the input of an activation that
works in place, padding fills the whole padded image before it copies the image into it, and the
gradient of padding is copied. Without them, copies and fills take a third of their time, and a step
is not measurably faster (train_step.py), so training does not use these layers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - as all torch code names it

from pipeline.models.timm_import import timm

__all__ = ["make_lean"]

# Activations whose gradient needs their input, which autograd copies where they work in place.
NEED_INPUT = (nn.SiLU, nn.Hardswish, nn.Mish)


class _ClampInPlace(torch.autograd.Function):
    """Clamp in place, and compute the gradient from the result instead of a copy of the input.

    A value is at a bound or beyond it exactly if its clamped value is at that bound.
    """

    @staticmethod
    def forward(ctx: Any, pixels: torch.Tensor, least: float, most: float) -> torch.Tensor:
        ctx.mark_dirty(pixels)
        clamped = F.hardtanh_(pixels, least, most)
        ctx.save_for_backward(clamped)
        ctx.bounds = (least, most)
        return clamped

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (clamped,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(grads[0], clamped, *ctx.bounds), None, None


class _Pad(torch.autograd.Function):
    """Surround images in channels_last by zeros, of which nothing but the border is filled.

    The gradient is a view of the gradient of the padded images, if they come from a clamp. Other
    activations round the last values of a row in another way than those before, and get a copy.
    """

    @staticmethod
    def forward(
        ctx: Any, pixels: torch.Tensor, left: int, right: int, top: int, bottom: int
    ) -> Any:
        num, channels, height, width = pixels.shape
        ctx.copies = not isinstance(pixels.grad_fn, _ClampInPlace._backward_cls)
        ctx.inside = (slice(top, top + height), slice(left, left + width))
        padded = torch.empty(
            (num, channels, top + height + bottom, left + width + right),
            dtype=pixels.dtype,
            device=pixels.device,
            memory_format=torch.channels_last,
        )
        rows, columns = ctx.inside
        padded[:, :, rows, columns] = pixels
        padded[:, :, : rows.start] = 0
        padded[:, :, rows.stop :] = 0
        padded[:, :, rows, : columns.start] = 0
        padded[:, :, rows, columns.stop :] = 0
        return padded

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
        inside = grads[0][:, :, *ctx.inside]
        if ctx.copies:
            inside = inside.clone(memory_format=torch.channels_last)
        return inside, None, None, None, None


def _is_in_training(values: torch.Tensor) -> bool:
    return torch.is_grad_enabled() and values.requires_grad


class _LeanHardtanh(nn.Hardtanh):
    """Hardtanh in place."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        # Autograd refuses functions like this one for some views.
        if self.inplace and _is_in_training(values) and not values._is_view():
            clamped: torch.Tensor = _ClampInPlace.apply(values, self.min_val, self.max_val)
            return clamped
        return super().forward(values)


class _LeanReLU6(nn.ReLU6, _LeanHardtanh):
    """ReLU6 in place."""


class _LeanConv2dSame(timm.layers.Conv2dSame):
    """Convolution with the padding of TensorFlow."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        # Where the layout is not clear from the strides, torch's rules choose the one to pad in.
        is_clear = (
            pixels.is_contiguous(memory_format=torch.channels_last) and not pixels.is_contiguous()
        )
        if not (is_clear and _is_in_training(pixels)):
            convolved: torch.Tensor = super().forward(pixels)
            return convolved
        steps = zip(pixels.shape[2:], self.kernel_size, self.stride, self.dilation, strict=True)
        height, width = (timm.layers.get_same_padding(*one) for one in steps)
        padded = _Pad.apply(
            pixels, width // 2, width - width // 2, height // 2, height - height // 2
        )
        return F.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


LEAN: dict[type[nn.Module], type[nn.Module]] = {
    nn.Hardtanh: _LeanHardtanh,
    nn.ReLU6: _LeanReLU6,
    timm.layers.Conv2dSame: _LeanConv2dSame,
}


def make_lean(model: nn.Module) -> None:
    """Make a model's layers go over memory fewer times in training; change the model in place.

    Outputs, gradients and weights keep their bits. Layers that are no exact instances of a class
    here stay as they are.
    """
    for module in model.modules():
        lean = LEAN.get(type(module))
        if lean is not None:
            # Unlike a new module, it keeps hooks and its places in the model.
            module.__class__ = lean
        # No other layer can see whether this activation works in place.
        if isinstance(module, timm.layers.BatchNormAct2d) and isinstance(module.act, NEED_INPUT):
            module.act.inplace = False
