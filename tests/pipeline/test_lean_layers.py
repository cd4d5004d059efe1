"""Lean layers copy less in a training step, and leave every bit as it is."""

import copy
import itertools

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.config.settings import make_config
from pipeline.data.preprocess import Preprocess
from pipeline.device import Compute
from pipeline.models.timm_import import timm
from pipeline.training import fit as fit_module
from pipeline.training.fit import Fit
from pipeline.training.lean_layers import make_lean

SIDE = 40
PREPROCESS = Preprocess(width=SIDE, height=SIDE, mean=(0.5,) * 3, std=(0.25,) * 3)
# Clamps with padding, SiLU with padding, Hardswish, clamps without padding, and none of these.
BACKBONES = (
    "tf_efficientnet_lite0",
    "tf_efficientnet_b0",
    "mobilenetv3_small_050",
    "mobilenetv2_050",
    "test_resnet",
)


class Calls(TorchDispatchMode):
    """Counts the calls of torch's functions of images by name.

    Values per image, as in squeeze-and-excitation, are few.
    """

    def __init__(self):
        super().__init__()
        self.num = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if isinstance(args[0], torch.Tensor) and args[0].shape[2:].numel() > 1:
            self.num[name] = self.num.get(name, 0) + 1
        return function(*args, **(kwargs or {}))


def batches(num):
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (num, 6, SIDE, SIDE, 3), dtype=np.uint8))
    return [(one, torch.arange(6) % 3) for one in images]


def trained(backbone, memory_format, **flags):
    """Return all that three steps change, as tensors."""
    torch.manual_seed(0)
    model = timm.create_model(backbone, num_classes=3, drop_path_rate=0.2)
    model = model.to(memory_format=memory_format)
    config = make_config(epochs=1, batch_size=6, model_ema=True, **flags)
    compute = Compute(torch.device("cpu"), None, memory_format)
    fit = Fit(model, config, PREPROCESS, compute, steps_per_epoch=3)
    list(fit.epochs(batches(3)))
    return fit.state_dict()


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return all(map(same, one, other))
    return one == other


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_training_keeps_its_bits(backbone, memory_format, monkeypatch):
    lean = trained(backbone, memory_format)
    monkeypatch.setattr(fit_module, "make_lean", lambda model: None)
    assert same(lean, trained(backbone, memory_format))


def calls_of(backbone, *, lean):
    """Return the calls of a forward pass with channels last, and those of a backward pass."""
    model = timm.create_model(backbone, num_classes=3).to(memory_format=torch.channels_last)
    if lean:
        make_lean(model)
    pixels = torch.randn(2, 3, SIDE, SIDE).to(memory_format=torch.channels_last)
    with Calls() as forward:
        logits = model.train()(pixels)
    with Calls() as backward:
        logits.sum().backward()
    return forward.num, backward.num


@pytest.mark.parametrize("backbone", BACKBONES)
def test_no_activation_is_copied(backbone):
    forward, _ = calls_of(backbone, lean=True)
    assert "clone" not in forward


def test_passes_that_lite0_is_spared():
    (forward, backward), (lean_forward, lean_backward) = (
        calls_of("tf_efficientnet_lite0", lean=lean) for lean in (False, True)
    )
    # Its 33 clamps, and its 5 paddings but that of the images, which need no gradient.
    assert forward["clone"] == 33
    assert (forward["constant_pad_nd"], lean_forward["constant_pad_nd"]) == (5, 1)
    # The gradients of these 4 paddings.
    assert backward["constant_pad_nd"] == 4
    assert "constant_pad_nd" not in lean_backward
    assert "clone" not in lean_backward


def test_a_clamp_at_its_bounds():
    values = torch.tensor([-1.0, -0.0, 0.0, 1e-38, 3.0, 6.0, 7.0, torch.nan, torch.inf])
    model = torch.nn.Sequential(torch.nn.Identity(), torch.nn.ReLU6(inplace=True))
    given = values.clone().requires_grad_()
    make_lean(model)
    clamped = model(given * 1)
    clamped.backward(torch.full_like(values, 2.0))
    # At and beyond the bounds the gradient is 0; a value that is no number lets it pass.
    assert torch.equal(given.grad, torch.tensor([0.0, 0, 0, 2, 2, 0, 0, 2, 0]))
    assert torch.equal(clamped[:7], values.clamp(0, 6)[:7])
    assert clamped[7].isnan()


@pytest.mark.parametrize("make", [torch.nn.ReLU6, torch.nn.Hardtanh])
@pytest.mark.parametrize("inplace", [True, False])
@pytest.mark.parametrize("part", [slice(None), slice(0, 2)])
def test_clamps_of_views_and_in_place(make, inplace, part):
    """A view of what is computed, in place or not, gives the gradients that torch gives."""
    found = []
    for lean in (False, True):
        torch.manual_seed(0)
        model = torch.nn.Sequential(make(inplace=inplace))
        if lean:
            make_lean(model)
        given = (torch.randn(4, 5) * 5).requires_grad_()
        whole = given * 2
        clamped = model(whole[part] if part.stop else whole)
        (whole * 3).sum().backward(retain_graph=True)
        (clamped * 5).sum().backward()
        found.append((clamped.detach(), whole.detach(), given.grad))
    assert all(map(torch.equal, *found))


def same_convolution(height, width, kernel, stride, *, groups, lean):
    """Return output and gradients of a convolution with TensorFlow's padding."""
    torch.manual_seed(0)
    layer = timm.layers.Conv2dSame(4, 4, kernel, stride=stride, groups=groups, bias=False)
    if lean:
        make_lean(layer)
    given = torch.randn(2, 4, height, width).to(memory_format=torch.channels_last)
    given.requires_grad_()
    # A gradient that is not dense, as that of padding is, passes through another layer.
    output = layer((given * 2).tanh())
    output.square().sum().backward()
    return output.detach(), given.grad, layer.weight.grad


SIZES = list(itertools.product((4, 7, 8), (5, 8)))


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("kernel", [2, 3, 5])
@pytest.mark.parametrize("groups", [1, 4])
def test_padding_equals_that_of_timm(height, width, kernel, groups):
    for stride in (1, 2, 3):
        one, other = (
            same_convolution(height, width, kernel, stride, groups=groups, lean=lean)
            for lean in (False, True)
        )
        assert all(map(torch.equal, one, other))


def test_lean_models_can_be_copied_and_scored():
    model = timm.create_model("tf_efficientnet_lite0", num_classes=3)
    pixels = torch.randn(2, 3, SIDE, SIDE)
    with torch.inference_mode():
        before = model.eval()(pixels)
    make_lean(model)
    twin = copy.deepcopy(model)
    with torch.inference_mode():
        assert torch.equal(before, twin.eval()(pixels))
    assert twin.state_dict().keys() == model.state_dict().keys()


def test_subclasses_stay():
    class Own(torch.nn.ReLU6):
        """A user's own activation."""

    model = torch.nn.Sequential(Own(inplace=True), torch.nn.SiLU(inplace=True))
    make_lean(model)
    assert type(model[0]) is Own
    # Other layers may see what it changes, outside of timm's.
    assert model[1].inplace
