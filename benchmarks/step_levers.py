"""A process of train_step.py that makes training steps in one way, as often as it is asked.

It imports the checkout that is first in PYTHONPATH, so that an earlier commit can be measured. Each
line of its input is a number of steps; it answers with seconds per step, and with the share of a
core that other processes took meanwhile.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lean_layers import make_lean
from torch import nn
from torch.nn import functional as F  # noqa: N812 - as all torch code names it

from pipeline import device as device_module
from pipeline.config.settings import make_config
from pipeline.data.preprocess import Preprocess
from pipeline.device import open_compute
from pipeline.models.backbones import start_training
from pipeline.models.timm_import import timm
from pipeline.training import fit as fit_module
from pipeline.training.fit import Fit

__all__ = ["LEVERS", "Lever"]

DEPTHWISE = 5


def _nothing(*_: object) -> None:
    pass


@dataclasses.dataclass(frozen=True)
class Lever:
    """Describe what a way of making steps changes."""

    start: Callable[[], object] = _nothing
    """Called before anything is set up."""
    model: Callable[[Any], object] = _nothing
    """Changes the model before training is set up."""
    fit: Callable[[Any], object] = _nothing
    """Changes the Fit before its first step."""
    layout: torch.memory_format = torch.channels_last
    weights: torch.memory_format | None = None
    """Layout of the weights; None: the same."""
    threads: int | None = None
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)


def _not_in_place(model: Any) -> None:
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False


class _Clamp(nn.Module):
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values.clamp(0, 6)


def _clamps(model: Any) -> None:
    for module in model.modules():
        for name, child in list(module.named_children()):
            if isinstance(child, nn.ReLU6):
                setattr(module, name, _Clamp())


def _remake_optimizer(fit: Any, **flags: Any) -> None:
    wanted = ("params", "weight_decay")
    groups = [{key: group[key] for key in wanted} for group in fit.optimizer.param_groups]
    fit.optimizer = torch.optim.AdamW(groups, lr=fit.config.train.lr, **flags)
    fit.schedule = fit_module.build_scheduler(fit.optimizer, fit.config.train, steps_per_epoch=100)


def _keep_gradients(fit: Any) -> None:
    clear = fit.optimizer.zero_grad
    fit.optimizer.zero_grad = lambda set_to_none: clear(set_to_none=False)


def _views_of_one_tensor(fit: Any) -> None:
    parameters = list(fit.model.parameters())
    bucket = torch.zeros(sum(one.numel() for one in parameters))
    start = 0
    for one in parameters:
        one.grad = bucket[start : start + one.numel()].as_strided(one.shape, one.stride())
        start += one.numel()
    fit.optimizer.zero_grad = lambda set_to_none: bucket.zero_()


def _loop_over_average(fit: Any) -> None:
    fit.average.ema.foreach = False


def _weight_gradient(
    grad: torch.Tensor, pixels: torch.Tensor, weight: torch.Tensor, stride: int, pad: list[int]
) -> torch.Tensor:
    rest: Any = (None, [stride] * 2, pad, [1, 1], False, [0, 0], pixels.shape[1])
    return torch.ops.aten.convolution_backward(grad, pixels, weight, *rest, [False, True, False])[1]


class _Depthwise(torch.autograd.Function):
    """Convolution of each channel, whose weights get their gradient in two parts of 3 columns.

    oneDNN has a fast kernel for 3 columns and takes one for groups of 16 channels for 5. The second
    part is the gradient of columns that the output would have further to the right.
    """

    @staticmethod
    def forward(
        ctx: Any, pixels: torch.Tensor, weight: torch.Tensor, stride: int, pad: int
    ) -> torch.Tensor:
        ctx.save_for_backward(pixels, weight)
        ctx.place = (stride, pad)
        return F.conv2d(pixels, weight, None, stride, pad, 1, pixels.shape[1])

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        pixels, weight = ctx.saved_tensors
        stride, pad = ctx.place
        rest: Any = (None, [stride] * 2, [pad] * 2, [1, 1], False, [0, 0], pixels.shape[1])
        of_pixels = torch.ops.aten.convolution_backward(
            grads[0], pixels, weight, *rest, [True, False, False]
        )[0]
        shift = 2 // stride
        # The kernel takes no padding wider than half of the columns.
        here = min(pad, 1)
        wider = F.pad(pixels, (pad - here, pad - here)) if pad > here else pixels
        narrow = weight.new_empty(weight.shape[0], 1, DEPTHWISE, 3)
        left, right = (
            _weight_gradient(F.pad(grads[0], sides), wider, narrow, stride, [pad, here])
            for sides in ((0, shift), (shift, 0))
        )
        return of_pixels, torch.cat([left, right[..., 1:]], 3), None, None


def _depthwise_halves(model: Any) -> None:
    def forward(layer: Any, pixels: torch.Tensor) -> torch.Tensor:
        pad = layer.padding[0]
        if isinstance(layer, timm.layers.Conv2dSame):
            pixels = timm.layers.pad_same(pixels, layer.kernel_size, layer.stride)
            pad = 0
        # Narrow outputs have the kernel for groups in any case.
        if pixels.shape[3] < 8:
            return F.conv2d(pixels, layer.weight, None, layer.stride, pad, 1, layer.groups)
        return _Depthwise.apply(pixels, layer.weight, layer.stride[0], pad)

    for module in model.modules():
        is_depthwise = isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1
        if is_depthwise and module.kernel_size == (DEPTHWISE, DEPTHWISE):
            module.forward = functools.partial(forward, module)


LEVERS: dict[str, Lever] = {
    "default": Lever(),
    "copies and fills removed": Lever(model=make_lean),
    "activations not in place": Lever(model=_not_in_place),
    "ReLU6 by torch.clamp": Lever(model=_clamps),
    "AdamW foreach": Lever(fit=functools.partial(_remake_optimizer, foreach=True)),
    "AdamW fused": Lever(fit=functools.partial(_remake_optimizer, fused=True)),
    "gradients kept and filled with 0": Lever(fit=_keep_gradients),
    "gradients as views of one tensor": Lever(fit=_views_of_one_tensor),
    "weights contiguous": Lever(weights=torch.contiguous_format),
    "weights and images contiguous": Lever(layout=torch.contiguous_format),
    "5x5 depthwise gradients in two parts": Lever(model=_depthwise_halves),
    "--model-ema": Lever(settings={"model_ema": True}),
    "--model-ema, tensor by tensor": Lever(settings={"model_ema": True}, fit=_loop_over_average),
    "denormals flushed to 0": Lever(start=lambda: torch.set_flush_denormal(True)),
    "one thread between operators": Lever(start=lambda: torch.set_num_interop_threads(1)),
    "freed memory given back": Lever(
        start=lambda: setattr(device_module, "_keep_freed_memory", _nothing)
    ),
    "one thread": Lever(threads=1),
}


def make_fit(lever: Lever, args: dict[str, Any]) -> Fit:
    """Return a Fit of timm's model `args["backbone"]`, as a run of run_cv.py would make it."""
    lever.start()
    threads = lever.threads or args["threads"]
    channels_last = lever.layout == torch.channels_last
    compute = open_compute("cpu", threads=threads, amp_dtype=None, channels_last=channels_last)
    torch.manual_seed(0)
    model = timm.create_model(args["backbone"], num_classes=18)
    model = model.to(memory_format=lever.weights or lever.layout)
    lever.model(model)
    config = make_config(
        lr=1e-3, layer_decay=None, epochs=10_000, batch_size=args["batch_size"], **lever.settings
    )
    side = args["img_size"]
    preprocess = Preprocess(width=side, height=side, mean=(0.5,) * 3, std=(0.5,) * 3)
    fit = Fit(model, config, preprocess, compute, steps_per_epoch=100)
    lever.fit(fit)
    start_training(fit.model)
    return fit


def busy_seconds() -> float:
    """Return the processor time that all processes have taken."""
    user, nice, system, _, _, *interrupts = map(
        int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    )
    return (user + nice + system + sum(interrupts)) / 100


def main() -> None:
    """Make steps until the input ends."""
    args = json.loads(sys.argv[1])
    fit = make_fit(LEVERS[args["lever"]], args)
    side = args["img_size"]
    images = torch.randint(0, 255, (args["batch_size"], side, side, 3), dtype=torch.uint8)
    labels = torch.arange(args["batch_size"]) % 18
    for line in sys.stdin:
        busy = busy_seconds()
        own = time.process_time()
        start = time.perf_counter()
        for _ in range(int(line)):
            fit._train_step(images, labels, None)
            fit.step += 1
        seconds = time.perf_counter() - start
        own = time.process_time() - own
        others = max(0.0, busy_seconds() - busy - own) / seconds
        print(json.dumps([seconds / int(line), others]), flush=True)


if __name__ == "__main__":
    main()
