"""Images that one process holds and others read."""

import pytest
import torch
import torch.multiprocessing

from pipeline.training.shared_images import SharedImages


@pytest.fixture
def by_file():
    """Share memory by file name, so that a test can open its own."""
    before = torch.multiprocessing.get_sharing_strategy()
    torch.multiprocessing.set_sharing_strategy("file_system")
    yield
    torch.multiprocessing.set_sharing_strategy(before)


def test_the_memory_is_shared_and_not_copied(by_file):
    pixels = torch.arange(24, dtype=torch.uint8).view(2, 3, 4)
    there = SharedImages.of(pixels).open(print)
    assert torch.equal(there, pixels)
    pixels[0, 0, 0] = 99
    assert there[0, 0, 0] == 99


def test_a_process_that_cannot_reach_them_says_so():
    def fails():
        raise RuntimeError("CUDA error: invalid device context")

    said = []
    assert SharedImages(rebuild=fails, parts=()).open(said.append) is None
    assert said == [
        "images of another process cannot be read on the GPU (RuntimeError: CUDA error: invalid"
        " device context); this process reads them from the cache"
    ]
