"""Layout of the pixels that views and models see, on the CPU and on a GPU that is made up."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.data.preprocess import Preprocess, _constants
from pipeline.device import Compute
from pipeline.fetch import fetched, mark, seconds_between
from pipeline.infer import logits_of

PREPROCESS = Preprocess(width=16, height=16, mean=(0.11, 0.12, 0.13), std=(0.21, 0.22, 0.23))


@pytest.fixture(autouse=True)
def _constants_of_this_test():
    """Forget constants on made-up devices."""
    _constants.cache_clear()
    yield
    _constants.cache_clear()


class Copies(TorchDispatchMode):
    """Count the copies of a batch, such as changes of its layout."""

    num = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.clone.default, torch.ops.aten._to_copy.default):
            self.num += args[0].ndim == 4
        return func(*args, **(kwargs or {}))


def seen(device, memory_format):
    """Return the layouts that a view and the model see, and the number of copies."""
    layouts = []

    def note(pixels):
        layouts.append(pixels.is_contiguous(memory_format=torch.channels_last))
        return pixels

    def model(pixels):
        layouts.append(pixels.is_contiguous(memory_format=torch.channels_last))
        return pixels.mean((2, 3))

    images = torch.zeros(4, 16, 16, 3, dtype=torch.uint8, device=device)
    compute = Compute(torch.device(device), None, memory_format)
    with Copies() as copies:
        logits = logits_of(model, images, PREPROCESS, compute, [note])
    assert logits.shape == (1, 4, 3)
    return layouts, copies.num


@pytest.mark.parametrize(
    ("device", "memory_format", "layouts", "copies"),
    [
        ("cuda", torch.channels_last, [True, True], 1),
        ("cpu", torch.channels_last, [False, True], 3),
        ("cpu", torch.contiguous_format, [False, False], 2),
    ],
)
def test_pixels_are_not_turned_twice_on_a_gpu(device, memory_format, layouts, copies):
    with FakeTensorMode():
        assert seen(device, memory_format) == (layouts, copies)


def test_views_on_the_cpu_see_the_layout_in_which_they_are_fast():
    assert seen("cpu", torch.channels_last)[0] == [False, True]


def test_results_of_a_gpu_are_copied_while_the_next_ones_are_computed(monkeypatch):
    """Of a GPU that is made up: its stream notes what is queued and what is waited for."""
    done = []

    class Event:
        def __init__(self, number):
            self.number = number

        def synchronize(self):
            done.append(f"wait {self.number}")

    class Stream:
        def record_event(self):
            return Event(len([line for line in done if line.startswith("compute")]))

    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *args, pin_memory, **more: empty(*args, **more))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: Stream())

    def computed(num):
        for number in range(1, num + 1):
            done.append(f"compute {number}")
            yield torch.full((2,), float(number))

    compute = Compute(torch.device("cuda"), None, torch.channels_last)
    found = [one.tolist() for one in fetched(compute, computed(3))]
    assert found == [[1, 1], [2, 2], [3, 3]]
    assert done == ["compute 1", "compute 2", "wait 1", "compute 3", "wait 2", "wait 3"]
    assert [*fetched(compute, computed(0))] == []
    on_cpu = Compute(torch.device("cpu"), None, torch.channels_last)
    assert [one.tolist() for one in fetched(on_cpu, computed(3))] == found
    assert 0 <= seconds_between(mark(on_cpu), mark(on_cpu)) < 60
