"""--deterministic: deterministic algorithms on CUDA, until the next run, and nothing on the CPU."""

import os

import numpy as np
import pytest
import torch

from foldblend.errors import UserError
from foldblend.failures import device_failure
from foldblend.runs.run import Run
from pipeline.config.identity import identity_hash
from pipeline.config.settings import make_config
from pipeline.device import open_compute
from pipeline.training.fit import Fit
from tests.makers.constants import TINY


def state():
    """Return all settings of torch that the flag changes."""
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.deterministic,
        torch.utils.deterministic.fill_uninitialized_memory,
    )


@pytest.fixture
def environment(monkeypatch):
    """Return a copy of the environment that stands in its place."""
    copy = {key: value for key, value in os.environ.items() if key != "CUBLAS_WORKSPACE_CONFIG"}
    monkeypatch.setattr(os, "environ", copy)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
    yield copy
    opened("cpu")


def opened(name, **settings):
    threads = torch.get_num_threads()
    return open_compute(name, threads=threads, amp_dtype=None, channels_last=True, **settings)


def test_the_flag_holds_for_one_run_of_a_process(environment):
    before = state()
    opened("cuda", deterministic=True, compiled=True)
    assert state() == (True, False, True, False)
    assert torch.backends.cudnn.benchmark is False
    assert environment["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    opened("cuda", deterministic=True)
    assert state() == (True, False, True, False)
    opened("cuda", compiled=True)
    assert state() == before
    assert torch.backends.cudnn.benchmark is True


def test_what_a_program_has_set_itself_stays(environment):
    environment["CUBLAS_WORKSPACE_CONFIG"] = ":16:8"
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        before = state()
        opened("cuda")
        assert state() == before
        opened("cuda", deterministic=True)
        opened("cpu")
        assert state() == before
    finally:
        torch.use_deterministic_algorithms(False)
    assert environment["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_on_the_cpu_the_flag_changes_no_setting_and_no_bit(tiny_layout, tmp_path, cv_command):
    before = state()
    base = ["--data", tiny_layout, "--output", tmp_path, "--backbone", "test_efficientnet", *TINY]
    logits = []
    for name, flags in (("plain", []), ("flag", ["--deterministic"])):
        done = cv_command(*base, "--name", name, *flags)
        assert done.code == 0, done.err
        run = Run(tmp_path / name)
        logits.append(run.logits(run.oof))
    assert state() == before
    np.testing.assert_array_equal(*logits)


def test_only_runs_with_the_flag_have_another_key():
    plain, given, without = (
        identity_hash(make_config(settings, epochs=1))
        for settings in ({}, {"deterministic": True}, {"deterministic": False})
    )
    assert plain == without != given


def missing_algorithm():
    """Return what torch says of an operation without a deterministic algorithm."""
    torch.use_deterministic_algorithms(True)
    try:
        torch.zeros(2).put_(torch.tensor([0]), torch.ones(1))
    except RuntimeError as error:
        return error
    finally:
        torch.use_deterministic_algorithms(False)
    raise AssertionError("put_ has a deterministic algorithm now")


def test_an_operation_without_a_deterministic_algorithm_is_one_line(
    tiny_layout, tmp_path, cv_command, monkeypatch
):
    error = missing_algorithm()
    told = device_failure(error)
    assert isinstance(told, UserError)
    assert str(told) == (
        "--deterministic: put_ has no deterministic algorithm on CUDA; leave --deterministic out,"
        " or pass another --backbone"
    )

    def fails(*_):
        raise error

    monkeypatch.setattr(Fit, "_micro_batches", fails)
    done = cv_command(
        *["--data", tiny_layout, "--output", tmp_path, "--backbone", "test_efficientnet"], *TINY
    )
    assert done.code == 2
    assert "error: --deterministic: put_ has no deterministic algorithm" in done.err
    assert "Traceback" not in done.err


def test_cublas_that_was_started_without_the_flag_is_one_line():
    told = (
        "Deterministic behavior was enabled with either `torch.use_deterministic_algorithms(True)`"
        " or `at::Context::setDeterministicAlgorithms(true)`, but this operation is not"
        " deterministic because it uses CuBLAS and you have CUDA >= 10.2. To enable deterministic"
        " behavior in this case, you must set an environment variable before running your PyTorch"
        " application: CUBLAS_WORKSPACE_CONFIG=:4096:8 or CUBLAS_WORKSPACE_CONFIG=:16:8."
    )
    assert "set it to :4096:8 in the environment" in str(device_failure(RuntimeError(told)))
    assert device_failure(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    assert device_failure(ValueError(told)) is None
