"""Batches are split when memory runs out, with the same results."""

import importlib

import numpy as np
import pandas as pd
import pytest
import torch

import foldblend as fb
from foldblend.errors import UserError
from foldblend.runs.run import Run
from pipeline.data.preprocess import Preprocess
from pipeline.device import Compute
from pipeline.infer import predict
from pipeline.job import FoldJob
from pipeline.memory import Chunks, is_out_of_memory
from tests.makers.constants import TINY
from tta.views.names import view_of

PREPROCESS = Preprocess(width=8, height=8, mean=(0.5,) * 3, std=(0.5,) * 3)
CPU = Compute(torch.device("cpu"), None, torch.channels_last)


class Hungry(torch.nn.Module):
    """A model that runs out of memory for more than `most` images."""

    def __init__(self, most, error=torch.OutOfMemoryError, words="CUDA out of memory"):
        super().__init__()
        self.most = most
        self.error = error
        self.words = words
        self.sizes = []

    def forward(self, pixels):
        self.sizes.append(len(pixels))
        if len(pixels) > self.most:
            raise self.error(self.words)
        return pixels.mean((2, 3))


def predicted(model, said, sizes=(12, 5)):
    rng = torch.Generator().manual_seed(0)
    batches = [
        (torch.randint(256, (num, 8, 8, 3), generator=rng, dtype=torch.uint8), torch.zeros(num))
        for num in sizes
    ]
    views = [view_of("identity"), view_of("hflip")]
    return predict(model, batches, PREPROCESS, CPU, views, chunks=Chunks(said.append))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError, "CUDA out of memory. Tried to allocate 2 GiB"),
        (
            RuntimeError,
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`",
        ),
        (RuntimeError, "GET was unable to find an engine to execute this computation"),
    ],
)
def test_inference_continues_with_half_of_the_images(error, words):
    said = []
    model = Hungry(3, error, words)
    found = predicted(model, said)
    # 12 -> 6 -> 3 in two views, and the number stays: no batch fails again.
    assert model.sizes == [12, 6, *[3, 3] * 4, 3, 3, 2, 2]
    assert said == [
        f"out of memory: continuing with {num} images per forward pass at inference"
        for num in (6, 3)
    ]
    assert found.shape == (2, 17, 3)
    np.testing.assert_array_equal(found, predicted(Hungry(12), []))


def test_a_single_image_that_does_not_fit_is_an_error():
    with pytest.raises(UserError, match="one image at a time; pass a smaller --img-size"):
        predicted(Hungry(0), [])


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="illegal memory access"):
        predicted(Hungry(3, RuntimeError, "CUDA error: an illegal memory access"), [])
    assert not is_out_of_memory(ValueError("CUDA error: out of memory"))


def short_of_memory(monkeypatch, place, most):
    """Let a pass with more than `most` images run out of memory; `place` is module.function."""
    module, _, name = place.rpartition(".")
    real = getattr(importlib.import_module(module), name)

    def limited(model, images, *args, **kwargs):
        if len(images) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return real(model, images, *args, **kwargs)

    monkeypatch.setattr(f"{module}.{name}", limited)


@pytest.mark.parametrize(
    ("place", "flags"),
    [
        ("pipeline.frozen.features.features_of", ["--finetune", "head", "--cache", "off"]),
        ("pipeline.infer.logits_of", ["--tta", "hflip"]),
    ],
)
def test_a_run_goes_on_with_smaller_passes(
    tiny_layout, tmp_path, cv_command, monkeypatch, place, flags
):
    base = ["--data", tiny_layout, "--output", tmp_path, "--backbone", "test_efficientnet"]
    base += [*TINY, "--batch-size", "8", *flags]
    assert cv_command(*base, "--name", "whole").code == 0
    short_of_memory(monkeypatch, place, 7)
    done = cv_command(*base, "--name", "parts")
    assert done.code == 0, done.err
    assert "out of memory: continuing with 4 images per forward pass at inference" in done.out
    whole, parts = (Run(tmp_path / name) for name in ("whole", "parts"))
    np.testing.assert_allclose(parts.logits(parts.oof), whole.logits(whole.oof), atol=1e-4)
    if "--tta" in flags:
        assert parts.info["folds"][0]["inference_chunk"] == 4
        assert "inference_chunk" not in whole.info["folds"][0]


def test_views_and_predictions_go_on_with_smaller_passes(
    tiny_layout, tmp_path, cv_command, monkeypatch
):
    base = ["--data", tiny_layout, "--output", tmp_path, "--backbone", "test_efficientnet"]
    for name in ("whole", "parts"):
        assert cv_command(*base, *TINY, "--name", name).code == 0
    images = str(tiny_layout / "eval" / "images")

    def results(name, say):
        tta = fb.run_tta(tmp_path / name, views="hflip", name=f"{name}_tta", page=False, say=say)
        predicted = fb.predict(tmp_path / name, images, say=say)
        return tta.logits(tta.oof), predicted.drop(columns="image_id", errors="ignore")

    whole_NC, whole = results("whole", lambda _: None)
    short_of_memory(monkeypatch, "pipeline.infer.logits_of", 7)
    short_of_memory(monkeypatch, "pipeline.predict.nets.logits_of", 7)
    said = []
    parts_NC, parts = results("parts", said.append)
    assert len([line for line in said if "out of memory: continuing with" in line]) >= 2
    np.testing.assert_allclose(parts_NC, whole_NC, atol=1e-4)
    pd.testing.assert_frame_equal(parts, whole, atol=1e-4)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate`"),
    ],
)
def test_weights_that_do_not_fit_are_one_line(
    tiny_layout, tmp_path, cv_command, monkeypatch, error
):
    def fails(_):
        raise error

    monkeypatch.setattr(FoldJob, "new_model", fails)
    base = ["--data", tiny_layout, "--output", tmp_path, "--backbone", "test_efficientnet"]
    done = cv_command(*base, *TINY)
    assert done.code == 2
    assert "its memory ran out; end other programs that use it" in done.err
    assert "Traceback" not in done.err
