"""Choice of the device, and machines whose GPU torch cannot use."""

import pytest
import torch

from foldblend.errors import UserError
from foldblend.runs.environment import describe_environment
from pipeline.config.run import MachineConfig
from pipeline.device import free_memory, resolve_machine


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


def test_a_missing_device_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match="--device cuda: this machine has 0 CUDA devices"):
        resolve_machine(MachineConfig(device="cuda"))


def test_memory_that_torch_keeps_is_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (100, 400))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 250)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 220)
    assert free_memory(torch.device("cuda")) == 130
    assert free_memory(torch.device("cpu")) is None
