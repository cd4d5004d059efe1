"""Choice of the device, and machines whose GPU torch cannot use."""

from unittest.mock import Mock

import numpy as np
import pytest
import torch

import pipeline.job
from foldblend.errors import UserError
from foldblend.runs.environment import describe_environment
from pipeline.config.run import MachineConfig
from pipeline.device import Compute, free_memory, open_compute
from pipeline.job import FoldJob, NotFiniteLogitsError
from pipeline.machine import resolve_machine
from pipeline.training.fit import Fit
from tests.makers.constants import TINY


@pytest.fixture
def old_driver(monkeypatch):
    """Count one GPU, as torch does with a driver that is too old for it, and fail to use it."""

    def fails(*_):
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", fails)


def test_an_old_driver_leaves_the_cpu_usable(old_driver):
    assert resolve_machine(MachineConfig(device="auto"))["device"] == "cpu"
    assert describe_environment()["gpus"] == []


@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_an_old_driver_is_named_where_cuda_is_asked_for(old_driver, name):
    with pytest.raises(UserError, match=f"--device {name}: .*driver is too old; update") as error:
        resolve_machine(MachineConfig(device=name))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "num", "words"),
    [
        ("mps", 0, "--device mps: unknown kind of device; pass cuda, cuda:1 or cpu"),
        ("meta", 1, "--device meta: unknown kind of device; pass cuda, cuda:1 or cpu"),
        ("cuda", 0, "--device cuda: this machine has 0 CUDA devices; pass --device cpu"),
        ("cuda:1", 1, "--device cuda:1: this machine has 1 CUDA device; pass --device cuda or cpu"),
        ("cuda:7", 4, "4 CUDA devices; pass --device cuda:0 to cuda:3, cuda or cpu"),
    ],
)
def test_a_missing_device_is_named(monkeypatch, name, num, words):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: num > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num)
    with pytest.raises(UserError, match=words):
        resolve_machine(MachineConfig(device=name))


def test_memory_that_torch_keeps_is_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (100, 400))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 250)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 220)
    assert free_memory(torch.device("cuda")) == 130
    assert free_memory(torch.device("cpu")) is None


def test_a_gpu_that_another_process_holds_alone_is_one_line(monkeypatch):
    def busy(*_):
        raise RuntimeError(
            "CUDA error: CUDA-capable device(s) is/are busy or unavailable\nCUDA ..."
        )

    monkeypatch.setattr(torch.cuda, "set_device", busy)
    monkeypatch.setattr(torch.cuda, "memory_reserved", busy)
    for opens in (
        lambda: open_compute("cuda:1", threads=1, amp_dtype=None, channels_last=True),
        lambda: free_memory(torch.device("cuda:1")),
    ):
        with pytest.raises(UserError, match=r"--device cuda:1: another process holds it") as error:
            opens()
        assert "\n" not in str(error.value)
        for cure in ("nvidia-smi -c 0", "another --device", "--parallel-folds 1"):
            assert cure in str(error.value)


def test_other_errors_of_a_gpu_stay(monkeypatch):
    def fails(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "memory_reserved", fails)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        free_memory(torch.device("cuda:1"))


def test_a_fold_whose_gpu_is_held_names_it(tiny_layout, tmp_path, cv_command, monkeypatch):
    def busy(*_):
        raise RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable")

    monkeypatch.setattr(Fit, "_micro_batches", busy)
    done = cv_command(
        *["--data", tiny_layout, "--output", tmp_path, "--backbone", "test_efficientnet"], *TINY
    )
    assert done.code == 2
    assert "error: --device cpu: another process holds it" in done.err


@pytest.fixture
def gpus(monkeypatch):
    """Return a function that makes torch see GPUs of the given capabilities."""

    def see(*capabilities):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda one: capabilities[one])
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda one: f"Card {one}")

    return see


T4 = (7, 5)
A100 = (8, 0)
H100 = (9, 0)


@pytest.mark.parametrize(
    ("cards", "device", "answer"),
    [
        ([A100], "cuda", "bfloat16"),
        ([T4], "cuda", "float16"),
        ([H100, T4], "cuda:0", "bfloat16"),
        ([H100, T4], "cuda:1", "float16"),
        # Folds are spread over all of them, and their logits belong together.
        ([H100, T4], "cuda", "float16"),
        ([H100, T4], "auto", "float16"),
    ],
)
def test_bfloat16_is_asked_of_the_cards_that_are_used(gpus, cards, device, answer):
    gpus(*cards)
    assert resolve_machine(MachineConfig(device=device))["amp_dtype"] == answer


def test_bfloat16_that_a_card_only_emulates_is_refused(gpus):
    gpus(H100, T4)
    for device in ("cuda", "cuda:1"):
        with pytest.raises(
            UserError, match=r"--amp-dtype bfloat16: cuda:1 \(Card 1\) only emulates it"
        ):
            resolve_machine(MachineConfig(device=device, amp_dtype="bfloat16"))
    for settings in (
        {"device": "cuda:0", "amp_dtype": "bfloat16"},
        {"device": "cuda", "amp_dtype": "float16"},
        {"device": "cuda", "amp_dtype": "bfloat16", "amp": False},
        {"device": "cpu", "amp_dtype": "bfloat16"},
    ):
        resolve_machine(MachineConfig(**settings))


def test_every_card_of_amd_has_bfloat16(gpus, monkeypatch):
    gpus((7, 5))
    monkeypatch.setattr(torch.version, "hip", "6.0")
    assert resolve_machine(MachineConfig(device="cuda"))["amp_dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("card", "amp_dtype", "cure"),
    [
        (H100, None, "lower --lr or pass --clip-grad 1"),
        (H100, torch.bfloat16, "lower --lr or pass --clip-grad 1"),
        (H100, torch.float16, "pass --no-amp, --amp-dtype bfloat16, or lower --lr"),
        (T4, torch.float16, "pass --no-amp, or lower --lr"),
    ],
)
def test_what_overflows_in_float16_is_not_only_the_learning_rate(gpus, card, amp_dtype, cure):
    gpus(card)
    compute = Compute(torch.device("cuda"), amp_dtype, torch.channels_last)
    job = Mock(compute=compute, title=lambda index: f"fold {index}")
    logits = np.zeros((1, 2, 3), np.float32)
    FoldJob.check_finite(job, 0, logits)
    logits[0, 1, 2] = np.inf
    with pytest.raises(NotFiniteLogitsError, match="fold 0: the logits are not finite; ") as error:
        FoldJob.check_finite(job, 0, logits)
    assert cure in str(error.value)
    assert ("float16" in str(error.value)) == (amp_dtype == torch.float16)


@pytest.mark.parametrize("augment_on", ["cpu", "device"])
def test_images_that_do_not_fit_the_gpu_are_refused_wherever_they_are_augmented(
    tiny_layout, tmp_path, cv_command, monkeypatch, augment_on
):
    monkeypatch.setattr(pipeline.job, "free_memory", lambda _: 1000)
    base = ["--data", tiny_layout, "--output", tmp_path, "--backbone", "test_efficientnet", *TINY]
    done = cv_command(*base, "--cache", "device", "--augment-on", augment_on)
    assert done.code == 2
    assert "error: --cache device: needs" in done.err
    assert "but only 0.00 GB of the GPU are free for images; pass --cache auto" in done.err
