"""Tests that need a GPU; skipped without one.

They are meant to end within 90 seconds on a large GPU, with whole runs first.
"""

import copy
import dataclasses
import os
import shutil

import numpy as np
import pytest
import torch

import foldblend as fb
import run_cv
from foldblend.attributes import Attribute
from foldblend.runs.run import Run
from pipeline.config.run import MachineConfig
from pipeline.config.settings import make_config
from pipeline.data.device_augment import device_augmentation
from pipeline.data.preprocess import Preprocess
from pipeline.device import compute_of
from pipeline.engines.forward import Forward
from pipeline.engines.spec import spec_of
from pipeline.frozen import features
from pipeline.infer import features_of, predict
from pipeline.machine import resolve_machine
from pipeline.models.attribute_head import make_join
from pipeline.models.backbones import build_model
from pipeline.predict.config import PredictConfig
from pipeline.predict.inputs import read_inputs
from pipeline.predict.run import Prediction
from pipeline.predict.session import open_session
from pipeline.training import gpu_share
from pipeline.training.checkpoint import Checkpoints
from pipeline.training.fit import Fit
from tests.makers.constants import RATES, TINY
from tta.views.names import view_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
# cuBLAS reads it once, at its first call in a process; --deterministic needs it.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
PREPROCESS = Preprocess(width=64, height=64, mean=(0.5,) * 3, std=(0.5,) * 3)


def compute(**changes):
    return compute_of(
        MachineConfig(
            **{**resolve_machine(MachineConfig(device="cuda")), "compile": "off", **changes}
        )
    )


def batches(num, size=16):
    rng = torch.Generator().manual_seed(0)
    shape = (size, 64, 64, 3)
    return [
        (
            torch.randint(0, 255, shape, generator=rng, dtype=torch.uint8).pin_memory(),
            (torch.arange(size) % 4).pin_memory(),
        )
        for _ in range(num)
    ]


def small_model(here, name="test_efficientnet", **kwargs):
    torch.manual_seed(3)
    model = build_model(name, num_classes=4, kwargs=kwargs, weights=None)
    return model.to(here.device, memory_format=here.memory_format)


def fit_of(model, here, *, steps, augment=None, **settings):
    config = make_config({**RATES, "batch_size": 16, "sched": "constant", **settings})
    quiet = {"augment": augment, "say": lambda _: None}
    return Fit(model, config, PREPROCESS, here, steps_per_epoch=steps, **quiet)


def weights_of(model):
    return torch.cat([one.detach().float().cpu().flatten() for one in model.parameters()])


@pytest.fixture
def exact():
    """Use kernels that give the same bits each time, and float32 without TF32."""
    cudnn = torch.backends.cudnn
    matmul = torch.backends.cuda.matmul
    options = [(cudnn, "benchmark", False), (cudnn, "deterministic", True)]
    options += [(cudnn, "allow_tf32", False), (matmul, "allow_tf32", False)]
    before = [(where, name, getattr(where, name)) for where, name, _ in options]
    here = compute(amp=False)
    for where, name, value in options:
        setattr(where, name, value)
    yield here
    for where, name, value in before:
        setattr(where, name, value)


def finished(folder, layout, name, *more):
    """Return a run of the tiny data set on the GPU."""
    argv = ["--data", layout, "--output", folder, "--backbone", "test_efficientnet", *TINY]
    argv += ["--device", "cuda", "--name", name, *more]
    assert run_cv.main([str(word) for word in argv]) == 0
    return Run(folder / name)


def bits(run):
    return [run.logits(table).tobytes() for table in (run.oof, run.test)]


REPEATED = ["--deterministic", "--tta", "hflip"]


@pytest.fixture(scope="module")
def a_run(tiny_layout, tmp_path_factory):
    """Return a deterministic run with two views, its images on the GPU; read-only."""
    return finished(tmp_path_factory.mktemp("cuda"), tiny_layout, "a", *REPEATED)


def test_the_same_deterministic_run_has_equal_bits(a_run, tiny_layout, tmp_path):
    assert np.isfinite(a_run.logits(a_run.oof)).all()
    assert bits(finished(tmp_path, tiny_layout, "a", *REPEATED)) == bits(a_run)


def test_folds_share_the_gpu(tiny_layout, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_share, "SHARE_STEPS", 0)
    run = finished(tmp_path, tiny_layout, "a", "--parallel-folds", "auto")
    said = capsys.readouterr().out
    assert "2 folds at the same time" in said
    # The second process reads the images of the first one.
    assert "cannot be" not in said
    assert np.isfinite(run.logits(run.oof)).all()


def test_a_killed_run_continues(tiny_layout, tmp_path, cv_command, monkeypatch):
    """With images on disk, two loading processes, and gradients of two micro-batches a step."""
    base = ["--data", tiny_layout, "--output", tmp_path, "--backbone", "test_efficientnet", *TINY]
    base += ["--device", "cuda", "--epochs", "2", "--save-every", "0", "--model-ema"]
    base += ["--batch-size", "4", "--grad-accum-steps", "2", "--cache", "disk", "--workers", "2"]
    taken = []
    step = Fit._train_step

    def stopped(self, *args):
        if len(taken) == 7:
            raise KeyboardInterrupt
        taken.append(1)
        step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Fit, "_train_step", stopped)
        assert cv_command(*base, "--name", "a").code != 0
    done = cv_command(*base, "--name", "a")
    assert done.code == 0, done.err
    assert "continued at epoch 2 step" in done.out
    done = cv_command(*base, "--name", "b")
    assert done.code == 0, done.err
    again, whole = (run.logits(run.oof) for run in (Run(tmp_path / "a"), Run(tmp_path / "b")))
    # On an H100 they were equal bit for bit; torch does not promise it.
    assert np.linalg.norm(again - whole) < 0.02 * np.linalg.norm(whole)


def test_features_of_a_frozen_backbone_are_halved(tiny_layout, tmp_path, monkeypatch, capsys):
    def hungry(backbone, images, *args):
        if len(images) > 100:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return features_of(backbone, images, *args)

    monkeypatch.setattr(features, "features_of", hungry)
    more = ["--finetune", "head", "--tta", "hflip", "--feature-views", "1"]
    run = finished(tmp_path, tiny_layout, "a", *more)
    assert "out of memory: continuing with 64 images" in capsys.readouterr().out
    assert np.isfinite(run.logits(run.oof)).all()


def test_images_augmented_by_workers(tiny_layout, tmp_path):
    more = ["--augment-on", "cpu", "--workers", "2", "--cache", "off", "--select", "inner"]
    run = finished(tmp_path, tiny_layout, "a", *more, "--amp-dtype", "float16")
    assert np.isfinite(run.logits(run.oof)).all()


def test_new_images_get_the_logits_of_the_run(a_run, tiny_layout, tmp_path):
    """From the run's folder and from its exported file, in half-filled batches and two views."""
    fb.export_model(a_run, tmp_path / "a.zip", say=lambda _: None)
    images = str(tiny_layout / "eval" / "images")
    for place in (a_run.path, tmp_path / "a.zip"):
        config = PredictConfig(run=str(place))
        session = open_session(place, config, say=lambda _: None)
        inputs = read_inputs(images, config.reading(session.predictor.settings), ())
        _, logits_NC, _ = Prediction(session, inputs, config, say=lambda _: None).logits()
        table = a_run.test.set_index("image_id").loc[inputs.ids]
        expected = a_run.logits(table)
        # The run used deterministic algorithms; without them, both were equal on an H100.
        assert np.linalg.norm(logits_NC - expected) < 0.01 * np.linalg.norm(expected)


@pytest.mark.skipif(not shutil.which("gcc"), reason="torch.compile needs a C compiler")
def test_compiled_steps_are_close_to_eager_ones(exact):
    """With augmentation, in float32; a small model, because compiling takes long."""
    moved = {}
    for name, here in (("eager", exact), ("compiled", dataclasses.replace(exact, compile=True))):
        torch.manual_seed(3)
        model = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, stride=2),
            torch.nn.BatchNorm2d(8),
            torch.nn.ReLU(),
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
            torch.nn.Linear(8, 4),
        ).to(here.device, memory_format=here.memory_format)
        start = weights_of(model)
        augment = device_augmentation("default", PREPROCESS, here.memory_format)
        fit = fit_of(
            model, here, steps=4, epochs=2, opt="sgd", lr=0.01, warmup_epochs=0, augment=augment
        )
        list(fit.epochs(batches(4)))
        assert (fit.forward is model) == (name == "eager")
        moved[name] = weights_of(model) - start
    assert (moved["compiled"] - moved["eager"]).norm() < 0.01 * moved["eager"].norm()


def test_micro_batches_add_up_to_the_whole_batch(exact):
    """Batches of 16 with --batch-size 8 --grad-accum-steps 2; a model without batch norm."""
    moved = {}
    for size, steps in ((16, 1), (8, 2)):
        model = small_model(exact, "test_vit", img_size=64)
        start = weights_of(model)
        sizes = []
        model.register_forward_pre_hook(lambda _, args, to=sizes: to.append(len(args[0])))
        settings = {"opt": "sgd", "lr": 0.01, "warmup_epochs": 0, "epochs": 1}
        fit = fit_of(model, exact, steps=3, batch_size=size, grad_accum_steps=steps, **settings)
        list(fit.epochs(batches(3)))
        assert sizes == [size] * 3 * steps
        moved[size] = weights_of(model) - start
    assert (moved[8] - moved[16]).norm() < 1e-3 * moved[16].norm()


# Batches of 16 are two micro-batches of 8 in "losses".
OPTIONS = {
    "average and clipping": {"clip_grad": 1.0, "model_ema": True},
    "mixing": {"mixup": 0.2, "cutmix": 1.0, "reprob": 0.5},
    "losses": {"loss": "0.5*focal+0.5*f1", "logit_adjust": 1.0, "batch_size": 8},
    "heads": {},
}


class KnownLabels:
    def labels(self, epoch, step):
        return np.arange(16) % 4


# What float16 adds to a step, the gradient scale, matters to clipping alone.
STEPS = [*(("bfloat16", name) for name in OPTIONS), ("float16", "average and clipping")]


@pytest.mark.parametrize(("amp_dtype", "options"), STEPS)
def test_no_step_waits_for_the_gpu(amp_dtype, options):
    """PyTorch raises an error in this mode for every call that waits for the GPU."""

    class Strict(list):
        def __iter__(self):
            for number, batch in enumerate(super().__iter__()):
                if number == 3:  # the first steps allocate memory and choose kernels
                    torch.cuda.set_sync_debug_mode("error")
                yield batch
            torch.cuda.set_sync_debug_mode("default")

    here = compute(amp_dtype=amp_dtype)
    parts = [Attribute(name="a", values=("0", "1"), of_class=(0, 0, 1, 1))]
    parts += [Attribute(name="b", values=("0", "1"), of_class=(0, 1, 0, 1))]
    join = make_join(parts, "b") if options == "heads" else None
    model = build_model("test_efficientnet", num_classes=4, kwargs={}, weights=None, join=join)
    model = model.to(here.device, memory_format=here.memory_format)
    config = make_config({**RATES, "epochs": 2, "batch_size": 16, **OPTIONS[options]})
    augment = device_augmentation("default", PREPROCESS, here.memory_format)
    counts_C = np.array([4, 4, 4, 4])
    fit = Fit(model, config, PREPROCESS, here, steps_per_epoch=8, count_C=counts_C, augment=augment)
    # A loader has its labels on the CPU; those of a list would be fetched from the GPU.
    if options == "mixing":
        step = fit._train_step
        fit._train_step = lambda images, labels, _: step(images, labels, KnownLabels())
    try:
        epochs = list(fit.epochs(Strict(batches(8))))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(np.isfinite(epoch.train_loss) for epoch in epochs)


def test_batches_arrive_complete_and_in_order():
    sent = batches(20, size=64)
    for (images, labels), (there, their_labels) in zip(
        sent, compute().feed(iter(sent)), strict=True
    ):
        assert there.is_cuda
        torch.cuda._sleep(1_000_000)  # copies of later batches run during this
        assert torch.equal(images, there.cpu())
        assert torch.equal(labels, their_labels.cpu())


def test_repeated_feeds_take_no_more_memory():
    here = compute()
    sent = batches(6, size=1024)
    reserved = []
    for _ in range(12):
        for images, _ in here.feed(iter(sent)):
            images.float().sum()
            # Otherwise the copies run ahead, as far as the speed of the moment allows.
            torch.cuda.synchronize()
        reserved.append(torch.cuda.memory_reserved())
    assert max(reserved[2:]) == reserved[2]


def test_weights_and_logits_are_close_to_those_of_the_cpu(exact):
    on_cpu = compute_of(MachineConfig(**resolve_machine(MachineConfig(device="cpu"))))
    found = {}
    start = None
    for name, here in (("cuda", exact), ("cpu", on_cpu)):
        model = small_model(here)
        start = weights_of(model)
        fit = fit_of(model, here, steps=6, epochs=1, opt="sgd", lr=0.01, warmup_epochs=0)
        list(fit.epochs(batches(6)))
        logits = predict(model, batches(2), PREPROCESS, here, [view_of("hflip")])
        found[name] = (weights_of(model) - start, torch.from_numpy(logits))
    for ours, theirs in zip(found["cuda"], found["cpu"], strict=True):
        assert (ours - theirs).norm() < 1e-3 * theirs.norm()


@pytest.mark.parametrize("amp_dtype", ["bfloat16", "float16"])
def test_mixed_precision_gives_nearly_the_same_logits(exact, amp_dtype):
    model = small_model(exact)
    views = [view_of("identity")]
    whole = predict(model, batches(2), PREPROCESS, exact, views)
    mixed = predict(model, batches(2), PREPROCESS, compute(amp_dtype=amp_dtype), views)
    assert mixed.dtype == np.float32
    assert np.linalg.norm(mixed - whole) < 0.05 * np.linalg.norm(whole)


@pytest.mark.parametrize("amp", [True, False])
def test_compiled_inference_gives_nearly_the_same_logits(amp):
    here = compute(amp=amp)
    spec = spec_of(
        "compile",
        backbone="test_efficientnet",
        kwargs={},
        num_classes=4,
        attributes=(),
        ordinal=None,
        frozen=False,
        preprocess=PREPROCESS,
        batch_size=16,
        threads=1,
        folder=None,
    )
    model = small_model(here).eval()
    forward = Forward(model, PREPROCESS, here, spec)
    views = [view_of("identity")]
    found = predict(forward, batches(2), PREPROCESS, here, views, pad_to=16)
    assert (forward.engine, forward.problem) == ("compile", None)
    expected = predict(model, batches(2), PREPROCESS, here, views)
    assert np.linalg.norm(found - expected) < 0.05 * np.linalg.norm(expected)


def test_a_fit_continues_from_its_state(exact, tmp_path):
    """Dropout on the GPU, the average, momentum and the gradient scale are restored."""
    here = dataclasses.replace(exact, amp_dtype=torch.float16)
    settings = {"epochs": 3, "steps": 4, "opt": "sgd", "lr": 0.01, "model_ema": True}

    def new():
        return fit_of(small_model(here, drop_rate=0.5), here, **settings)

    whole = new()
    for epoch in whole.epochs(batches(4)):
        if epoch.index == 0:
            Checkpoints(tmp_path, {}, 0).save(whole.state_dict())
    torch.cuda.manual_seed(99)
    again = new()
    again.load_state_dict(Checkpoints(tmp_path, {}, 0).load())
    assert again.epoch == 1
    list(again.epochs(batches(4)))
    for one, other in ((whole.model, again.model), (whole.scored, again.scored)):
        torch.testing.assert_close(weights_of(other), weights_of(one), rtol=0, atol=1e-6)
    assert again.scaler.get_scale() == whole.scaler.get_scale()


class Hungry(torch.nn.Module):
    """A model that has no memory for more than five images."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, pixels):
        if len(pixels) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.inner(pixels)


@pytest.mark.parametrize("amp_dtype", ["bfloat16", "float16"])
def test_micro_batches_are_halved(amp_dtype):
    here = compute(amp_dtype=amp_dtype)
    model = Hungry(small_model(here))
    fit = fit_of(model, here, steps=3, epochs=1, model_ema=True, clip_grad=1.0)
    epochs = list(fit.epochs(batches(3)))
    assert fit.micro_batch == 4
    assert np.isfinite(epochs[0].train_loss)
    views = [view_of("identity"), view_of("hflip*scale:1.1")]
    halved = predict(model, batches(2), PREPROCESS, here, views)
    whole = predict(model.inner, batches(2), PREPROCESS, here, views)
    assert np.linalg.norm(halved - whole) < 0.05 * np.linalg.norm(whole)


@pytest.fixture
def limited():
    """Return a function that limits this process's GPU memory to a number of bytes."""
    total = torch.cuda.get_device_properties(0).total_memory

    def limit(size):
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(size / total)

    yield limit
    torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_batch_that_does_not_fit_is_halved(limited):
    """The allocator itself refuses: what the failed pass held must be free for the next try."""
    here = compute()
    model = small_model(here)
    views = [view_of("identity"), view_of("hflip")]
    sent = batches(1, size=1024)
    half = [tuple(part[:512] for part in sent[0]), tuple(part[512:] for part in sent[0])]

    def train(num_batches):
        fit = fit_of(
            copy.deepcopy(model), here, steps=1, epochs=1, batch_size=len(num_batches[0][0])
        )
        list(fit.epochs(num_batches))
        return fit

    for job in (train, lambda given: predict(model, given, PREPROCESS, here, views)):
        peaks = []
        for given in (sent, half[:1]):
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            job(given)
            peaks.append(torch.cuda.max_memory_reserved())
        assert peaks[1] < peaks[0]
        # What a half needs, besides the whole batch of pixels.
        limited(peaks[1] + 0.5 * (peaks[0] - peaks[1]))
        result = job(sent)
        limited(torch.cuda.get_device_properties(0).total_memory)
        if job is train:
            assert result.micro_batch < 1024
        else:
            assert np.isfinite(result).all()


def test_augmentation_is_that_of_the_cpu():
    """The card computes in float32, though matrix products may use TF32."""
    here = compute()
    assert torch.backends.cuda.matmul.allow_tf32
    images = torch.randint(0, 255, (8, 72, 72, 3), dtype=torch.uint8)
    augment = device_augmentation("default", PREPROCESS, here.memory_format)
    there = augment(images.cuda(), np.random.default_rng(0))
    assert there.is_contiguous(memory_format=here.memory_format)
    expected = augment(images, np.random.default_rng(0))
    torch.testing.assert_close(there.cpu(), expected, rtol=0, atol=2e-3)


def test_a_run_has_nearly_the_logits_of_the_cpu(tiny_layout, tmp_path, cv_command):
    base = ["--data", tiny_layout, "--output", tmp_path, "--backbone", "test_efficientnet"]
    base += [*TINY, "--no-amp", "--augment-on", "cpu", "--lr", "1e-5"]
    logits = {}
    for device in ("cpu", "cuda"):
        done = cv_command(*base, "--device", device, "--name", device)
        assert done.code == 0, done.err
        run = Run(tmp_path / device)
        logits[device] = run.logits(run.oof)
    far = np.linalg.norm(logits["cuda"] - logits["cpu"])
    # Products in TF32 have ten bits.
    assert far < 0.02 * np.linalg.norm(logits["cpu"])
