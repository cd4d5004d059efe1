"""The memory of a fold is counted on fake tensors, without a GPU."""

import copy
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from pipeline import fold_memory, job
from pipeline.config.settings import make_config
from pipeline.data import preprocess as preprocess_module
from pipeline.data.preprocess import Preprocess
from pipeline.device import Compute
from pipeline.fold_memory import FoldMemory
from pipeline.models.backbones import build_model
from pipeline.training import fit as fit_module
from pipeline.training.count_fold import memory_of
from pipeline.training.counted_memory import CannotCount, LiveBytes, peak_of, size_of
from pipeline.training.fit import Fit
from pipeline.training.gpu_plan import least_need
from pipeline.training.gpu_share import count_memory
from pipeline.training.saved_state import tensors_in
from tests.makers.constants import RATES
from tests.makers.jobs import fake_job

MIXED = Compute(torch.device("cpu"), torch.bfloat16, torch.channels_last)


def prepared(tmp_path, backbone, *, size, batch, rows=64, **settings):
    """Return a run of 18 classes that trains with mixed precision on batches of small images."""
    settings |= {"backbone": backbone, "batch_size": batch, "validation_batch_size": rows}
    job = fake_job(
        tmp_path,
        lambda _: None,
        manifest=SimpleNamespace(num_classes=18),
        img_size=f"{size}x{size}",
        **settings,
    )
    preprocess = Preprocess(width=size, height=size, mean=(0.5,) * 3, std=(0.5,) * 3)
    # More rows than a batch has.
    fold_RN = np.arange(6000)[None] % 6
    return dataclasses.replace(job.run, preprocess=preprocess, fold_RN=fold_RN)


def by_torch(fit, step):
    """Return the peak of a step as torch's own tracker counts it, which takes ten times as long."""
    tracker = MemTracker()
    tracker.track_external(fit.model, fit.optimizer)
    with tracker:
        step()
    return tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]


def by_blocks(fit, step):
    """Return the peak of a step, with the weights and the optimiser's state."""
    kept = [*fit.model.parameters(), *fit.model.buffers(), *tensors_in(fit.optimizer.state)]
    with LiveBytes() as live:
        step()
    return size_of(kept) + live.peak


def peak_of_fit(backbone, *, size, batch, monkeypatch, by, **settings):
    """Return the peak of a whole training step on fake tensors.

    Whatever looks at values is left out, since fake tensors have none.
    """
    monkeypatch.setattr(fit_module, "is_finite", lambda _: True)
    monkeypatch.setattr(fit_module.FiniteCheck, "check", lambda *_: None)
    # They would be kept for other tests.
    monkeypatch.setattr(preprocess_module, "_constants", preprocess_module._constants.__wrapped__)
    model = build_model(backbone, num_classes=18, kwargs={}, weights=None)
    preprocess = Preprocess(width=size, height=size, mean=(0.5,) * 3, std=(0.5,) * 3)
    config = make_config(RATES, epochs=2, batch_size=batch, **settings)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake:
        with FakeCopyMode(fake):
            model = copy.deepcopy(model)
        fit = Fit(model.train(), config, preprocess, MIXED, steps_per_epoch=2)
        labels = torch.zeros(batch, dtype=torch.long)

        def step():
            images = torch.empty(batch, size, size, 3, dtype=torch.uint8)
            fit._train_step(images, labels, None)

        step()  # it makes the optimiser's state
        return by(fit, step)


def counted(memory):
    """Return the count of a training step without allowances for CUDA and its libraries."""
    return (
        memory.fixed - fold_memory.CONTEXT - fold_memory.WORKSPACE + memory.training(memory.batch)
    )


def check_count(backbone, tmp_path, monkeypatch, *, size, batch, by, **settings):
    monkeypatch.setattr(fold_memory, "SLACK", 1.0)
    memory = memory_of(prepared(tmp_path, backbone, size=size, batch=batch, **settings))
    there = peak_of_fit(
        backbone, size=size, batch=batch, monkeypatch=monkeypatch, by=by, **settings
    )
    print(f"{backbone} at {size}: {counted(memory) / there:.3f} of {there / 1e9:.2f} GB")
    assert counted(memory) == pytest.approx(there, rel=0.15)


@pytest.mark.parametrize(
    ("backbone", "size", "settings"),
    [
        ("test_vit", 160, {"opt": "sgd"}),
        ("test_resnet", 96, {"opt": "lamb"}),
    ],
)
def test_the_count_is_that_of_a_whole_step(tmp_path, monkeypatch, backbone, size, settings):
    check_count(backbone, tmp_path, monkeypatch, size=size, batch=16, by=by_torch, **settings)


TEN = {
    "resnet18": 224,
    "resnet50": 224,
    "efficientnet_b0": 224,
    "efficientnet_b3": 288,
    "tf_efficientnet_lite0": 224,
    "vit_small_patch16_224": 224,
    "convnext_tiny": 224,
    "mobilenetv3_large_100": 224,
    "swin_tiny_patch4_window7_224": 224,
    "regnety_008": 224,
}


@pytest.mark.slow
@pytest.mark.parametrize("backbone", TEN)
def test_the_count_of_common_architectures(tmp_path, monkeypatch, backbone):
    check_count(backbone, tmp_path, monkeypatch, size=TEN[backbone], batch=32, by=by_blocks)


def test_passes_of_more_images_need_more_and_inference_needs_less_than_training():
    model = build_model("test_resnet", num_classes=4, kwargs={}, weights=None)

    def peak(num, trains, amp_dtype=torch.bfloat16):
        return peak_of(model, (num, 3, 64, 64), trains=trains, amp_dtype=amp_dtype)

    assert peak(8, False) < peak(8, True) < peak(16, True)
    # Inference has no gradients, so that it grows in proportion.
    assert peak(64, False) == pytest.approx(8 * peak(8, False), rel=0.3)
    assert peak(16, True) < peak(16, True, None) < 2.2 * peak(16, True)


def test_counting_changes_neither_weights_nor_random_numbers(tmp_path):
    before = torch.get_rng_state()
    memory = memory_of(prepared(tmp_path, "test_resnet", size=32, batch=4))
    memory.training(4)
    memory.inference(8)
    assert torch.equal(torch.get_rng_state(), before)
    model = build_model("test_resnet", num_classes=4, kwargs={}, weights=None)
    weights = copy.deepcopy(model.state_dict())
    peak_of(model, (4, 3, 32, 32), trains=True, amp_dtype=None)
    for name, one in model.state_dict().items():
        assert torch.equal(one, weights[name])
    assert all(one.grad is None for one in model.parameters())


def test_settings_show_in_the_parts(tmp_path):
    def parts(**settings):
        memory = memory_of(prepared(tmp_path, "test_efficientnet", size=32, batch=4, **settings))
        return memory.weights, memory.optimizer, memory.gradients

    weights, optimizer, gradients = parts()
    assert optimizer == pytest.approx(2 * gradients, rel=0.01)
    assert parts(model_ema=True)[0] == 2 * weights
    assert parts(opt="sgd")[1] == pytest.approx(gradients, rel=0.01)
    assert parts(finetune="1")[2] < gradients


def test_blocks_are_counted_while_they_live():
    with LiveBytes() as live:
        first = torch.zeros(1000)
        second = first * 2
        third = second.view(10, 100)
        del first, second
        assert live.now == 4096
        del third
    assert live.now == 0
    assert live.peak == 8192


class Looks(torch.nn.Module):
    """A model whose result depends on a value, which a fake tensor does not have."""

    def forward(self, pixels):
        return pixels.mean((2, 3)) if float(pixels.sum()) > 0 else pixels.amax((2, 3))


def test_a_model_that_looks_at_values_cannot_be_counted():
    with pytest.raises(CannotCount):
        peak_of(Looks(), (2, 3, 8, 8), trains=False, amp_dtype=None)


@pytest.mark.parametrize(("amp", "share"), [(True, 0.5), (False, 1.0)])
def test_mixed_precision_of_a_gpu_is_that_of_the_settings(tmp_path, amp, share):
    settings = {"device": "cuda", "amp": amp, "amp_dtype": "float16" if amp else "auto"}
    memory = memory_of(prepared(tmp_path, "test_resnet", size=64, batch=8, **settings))
    whole = memory_of(
        prepared(tmp_path, "test_resnet", size=64, batch=8, device="cuda", amp_dtype="auto")
    )
    assert memory.count(True, 64) == pytest.approx(share * whole.count(True, 64), rel=0.15)


def test_a_model_that_looks_at_values_is_known_before_a_plan(tmp_path, monkeypatch):
    monkeypatch.setattr(job, "build_model", lambda *_, **__: Looks())
    said = []
    assert count_memory(prepared(tmp_path, "test_resnet", size=32, batch=4), said.append) is None
    assert "the GPU memory of a fold cannot be counted" in said[0]


def test_a_pass_that_fails_for_one_image_is_no_choice(tmp_path, monkeypatch):
    """Batch norm on maps of one pixel cannot train on one image."""

    def build(*_, **__):
        layers = (torch.nn.AdaptiveAvgPool2d(1), torch.nn.BatchNorm2d(3), torch.nn.Flatten())
        return torch.nn.Sequential(*layers)

    monkeypatch.setattr(job, "build_model", build)
    memory = memory_of(prepared(tmp_path, "test_resnet", size=32, batch=4))
    assert memory.training(1) > 10**15
    assert least_need(memory) < 10**10


def test_memory_that_is_given_back_is_needed_once():
    memory = FoldMemory(
        weights=0,
        optimizer=0,
        gradients=0,
        stored=0,
        shown=0,
        step=8,
        batch=8,
        rows=8,
        count=lambda trains, num: num * (1000 if trains else 100),
    )
    fixed = memory.fixed
    assert memory.total(8, 8, releases=True) - fixed == memory.training(8)
    assert memory.total(8, 8, releases=False) - fixed == memory.training(8) + memory.inference(8)
    assert np.isclose(memory.training(8), 8 * 1000 * fold_memory.SLACK)
