"""Batches are split when memory runs out, with the same results."""

import numpy as np
import pytest
import torch

from foldblend.errors import UserError
from pipeline.data.preprocess import Preprocess
from pipeline.device import Compute
from pipeline.infer import predict
from pipeline.memory import Chunks, is_out_of_memory
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
