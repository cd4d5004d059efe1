"""torch.compile is tried on a batch, and training goes on without it where that fails."""

import contextlib
import dataclasses
import functools
import shutil
import subprocess
import sysconfig

import numpy as np
import pytest
import torch
from filelock import Timeout

from foldblend.runs.run import Run
from pipeline.as_started import as_started
from pipeline.config.settings import make_config
from pipeline.data.preprocess import Preprocess
from pipeline.device import Compute
from pipeline.training import compiling
from pipeline.training.fit import Fit
from tests.makers.constants import RATES, TINY

CPU = Compute(torch.device("cpu"), None, torch.channels_last)
COMPILED = dataclasses.replace(CPU, compile=True)
PREPROCESS = Preprocess(width=8, height=8, mean=(0.5,) * 3, std=(0.25,) * 3)
REAL_COMPILE = torch.compile


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """Forget what other tests have tried."""
    monkeypatch.setattr(compiling, "_failed", set())
    monkeypatch.setattr(compiling, "_said", set())
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def model():
    """Return a model with running statistics and dropout, of known weights."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3),
        torch.nn.BatchNorm2d(4),
        torch.nn.Dropout(0.5),
        torch.nn.Flatten(),
        torch.nn.Linear(4 * 36, 2),
    )


def batches(num=3, side=8):
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (num, 8, side, side, 3), dtype=np.uint8))
    return [(one, torch.arange(8) % 2) for one in images]


def train(compute, *, lines=None, batch_size=8, **flags):
    """Return the weights, running statistics and next random number after an epoch."""
    said = [] if lines is None else lines
    config = make_config(
        {
            **RATES,
            "batch_size": batch_size,
            "epochs": 1,
            "warmup_epochs": 0,
            "backbone": "toy",
            **flags,
        }
    )
    made = model()
    torch.manual_seed(1)
    fit = Fit(made, config, PREPROCESS, compute, steps_per_epoch=3, say=said.append)
    list(fit.epochs(batches()))
    values = [*made.state_dict().values(), torch.rand(1)]
    return fit, torch.cat([one.flatten().double() for one in values])


def fails_to_compile(*_, **__):
    raise RuntimeError("no backend")


def broken_backend(*_):
    raise subprocess.CalledProcessError(1, ["gcc", "main.c"])


class LateFailure:
    """Compute the loss as eager steps do, also the statistics, and fail."""

    def __init__(self, made):
        self.made = made

    def __call__(self, pixels):
        self.made(pixels)
        raise RuntimeError("gcc failed\n\nSet TORCHDYNAMO_VERBOSE=1 for the internal stack trace")


BROKEN = {
    "at once": fails_to_compile,
    "in the backend": functools.partial(REAL_COMPILE, backend=broken_backend),
    "in the step": LateFailure,
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_compiler_that_fails_leaves_the_bits_of_eager_steps(monkeypatch, how):
    _, expected = train(CPU)
    monkeypatch.setattr(torch, "compile", BROKEN[how])
    lines = []
    fit, found = train(COMPILED, lines=lines)
    assert torch.equal(found, expected)
    assert fit.forward is fit.model
    (line,) = lines
    assert line.startswith("torch.compile does not work here (")
    assert "); training goes on without it" in line
    assert "TORCHDYNAMO" not in line
    assert "\n" not in line


def test_the_trial_of_a_compiler_that_works_leaves_nothing(monkeypatch):
    _, expected = train(CPU)
    calls = []

    def same(made):
        calls.append(made)
        return made.forward

    monkeypatch.setattr(torch, "compile", same)
    lines = []
    fit, found = train(COMPILED, lines=lines)
    assert torch.equal(found, expected)
    assert fit.forward == fit.model.forward
    assert lines == ["training steps are compiled (0 s)"]
    train(COMPILED, lines=lines)
    assert len(lines) == 1
    assert len(calls) == 2


def test_a_failure_is_not_repeated_in_later_folds(monkeypatch):
    calls = []

    def fails(made):
        calls.append(made)
        raise RuntimeError("no backend")

    monkeypatch.setattr(torch, "compile", fails)
    lines = []
    for _ in range(2):
        train(COMPILED, lines=lines)
    assert len(calls) == len(lines) == 1
    train(COMPILED, lines=lines, backbone="another")
    assert len(calls) == 2


def test_memory_that_runs_out_in_the_trial_halves_micro_batches(monkeypatch):
    class Large:
        def __init__(self, made):
            self.made = made

        def __call__(self, pixels):
            if len(pixels) > 2:
                # The compiler wraps errors of what it calls.
                raise RuntimeError("backend='inductor' raised") from torch.OutOfMemoryError("x")
            return self.made(pixels)

    monkeypatch.setattr(torch, "compile", Large)
    lines = []
    fit, found = train(COMPILED, lines=lines)
    assert fit.micro_batch == 2
    assert isinstance(fit.forward, Large)
    assert [line.split(":")[0] for line in lines[:2]] == ["out of memory"] * 2
    assert lines[2].startswith("training steps are compiled")
    expected = train(CPU, batch_size=2, grad_accum_steps=4)[1]
    torch.testing.assert_close(found, expected)


def test_an_error_that_eager_steps_have_too_is_not_put_on_the_compiler(monkeypatch):
    monkeypatch.setitem(globals(), "model", lambda: torch.nn.Linear(8, 9))
    lines = []
    with pytest.raises(RuntimeError, match="spatial targets"):
        train(COMPILED, lines=lines)
    assert lines == []


def test_missing_headers_are_named_with_their_package(monkeypatch, tmp_path):
    monkeypatch.setattr(torch, "compile", fails_to_compile)
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    lines = []
    train(COMPILED, lines=lines)
    assert "Python.h" in lines[0]
    assert "python3-dev" in lines[0]
    assert "--compile off" in lines[0]
    (tmp_path / "Python.h").touch()
    train(COMPILED, lines=lines, backbone="another")
    assert "Python.h" not in lines[1]


def test_images_that_the_device_crops_are_tried_at_the_training_size(monkeypatch):
    sizes = []

    class Seen:
        def __init__(self, made):
            self.made = made

        def __call__(self, pixels):
            sizes.append(tuple(pixels.shape))
            return self.made(pixels)

    monkeypatch.setattr(torch, "compile", Seen)
    fit = Fit(
        model(),
        make_config({**RATES, "batch_size": 8, "backbone": "toy"}, epochs=1),
        PREPROCESS,
        COMPILED,
        steps_per_epoch=3,
        say=lambda _: None,
    )
    fit._try_compiled(*batches(side=10)[0])
    assert {*sizes} == {(8, 3, 8, 8)}


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("gcc"), reason="torch.compile needs a C compiler")
def test_the_real_compiler_learns_nearly_the_same(monkeypatch):
    # Compiled dropout draws other numbers.
    whole = model
    monkeypatch.setitem(globals(), "model", lambda: whole().apply(no_dropout))
    expected = train(CPU, opt="sgd", lr=0.01)[1]
    lines = []
    fit, found = train(COMPILED, lines=lines, opt="sgd", lr=0.01)
    assert lines[0].startswith("training steps are compiled (")
    assert fit.forward is not fit.model
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def no_dropout(module):
    if isinstance(module, torch.nn.Dropout):
        module.p = 0.0


@pytest.mark.slow
def test_a_compiler_that_cannot_run_leaves_eager_steps(monkeypatch, tmp_path):
    expected = train(CPU)[1]
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    lines = []
    # monkeypatch would delete the setting when it undoes this, and no later test could compile.
    with torch._inductor.config.patch({"cpp.cxx": (None, "/bin/false")}):
        found = train(COMPILED, lines=lines)[1]
    assert torch.equal(found, expected)
    assert lines[0].startswith("torch.compile does not work here")


def test_a_run_that_is_continued_keeps_what_was_decided():
    """The number of steps from which a run is compiled may differ between versions."""
    config = make_config({})
    for kept in ("on", "off"):
        assert as_started(config, {"compile": kept}).machine.compile == kept
        typed = make_config({"compile": "off"})
        assert as_started(typed, {"compile": kept}).machine.compile == "off"
    assert as_started(config, {}).machine.compile == "auto"


def test_a_run_keeps_its_precision():
    config = make_config()
    for kept in ("bfloat16", "float16"):
        assert as_started(config, {"amp_dtype": kept}).machine.amp_dtype == kept
        typed = make_config(amp_dtype="float16")
        assert as_started(typed, {"amp_dtype": kept}).machine.amp_dtype == "float16"
    assert as_started(config, {"amp_dtype": "auto"}).machine.amp_dtype == "auto"


def test_a_run_without_a_compiler_has_the_bits_of_an_eager_one(
    tiny_layout, tmp_path, cv_command, monkeypatch
):
    monkeypatch.setattr(torch, "compile", LateFailure)
    base = ["--data", tiny_layout, "--output", tmp_path, "--backbone", "test_efficientnet", *TINY]
    logits = []
    for compiled in ("off", "on"):
        done = cv_command(*base, "--name", compiled, "--compile", compiled)
        assert done.code == 0, done.err
        run = Run(tmp_path / compiled)
        logits.append(run.logits(run.oof))
        # Once, and not in each fold.
        told = (done.out + done.err).count("torch.compile does not work here")
        assert told == (compiled == "on")
    np.testing.assert_array_equal(*logits)


def test_one_process_compiles_at_a_time(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(torch, "compile", lambda made: made.forward)
    held = []
    hold = compiling.hold

    @contextlib.contextmanager
    def noted(file, *, wait):
        wait()
        with hold(file):
            held.append(file)
            with pytest.raises(Timeout), hold(file):
                pass
            yield

    monkeypatch.setattr(compiling, "hold", noted)
    lines = []
    train(COMPILED, lines=lines)
    assert held == [tmp_path / "cache" / compiling.LOCK]
    assert lines[0] == "waiting for another process that compiles its training steps"


def test_a_cache_that_cannot_be_locked_is_no_reason_not_to_compile(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(torch, "compile", lambda made: made.forward)
    lines = []
    train(COMPILED, lines=lines)
    assert lines == ["training steps are compiled (0 s)"]
