"""Measurement of this machine: how fast a backbone reads, predicts and learns the data's images."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from foldblend.cli import quiet
from foldblend.images import boxes_of
from pipeline.config.resolved import resolved
from pipeline.device import compute_of
from pipeline.engines.forward import Forward
from pipeline.job import Prepared
from pipeline.plan.estimate import Size, Speed
from pipeline.training.counted_memory import CannotCount, peak_of, size_of
from pipeline.training.fit import Fit

__all__ = ["size_of_data", "speed_of"]

# Images that are read and predicted for a measurement, and those of a training step.
NUM_READ = 32
NUM_PREDICTED = 32
NUM_LEARNT = 16
ROUNDS = 3


def size_of_data(run: Prepared) -> Size:
    """Return the numbers of images of a prepared run."""
    manifest = run.manifest
    return Size(
        num_train=len(manifest.train),
        num_labelled=len(manifest.labelled),
        num_test=0 if manifest.test is None else len(manifest.test),
        num_folds=run.num_folds,
        num_repeats=run.num_repeats,
        num_classes=manifest.num_classes,
    )


def _least(work: Callable[[], object], rounds: int) -> float:
    """Return the least seconds of some rounds: other programs may hold one up."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def speed_of(run: Prepared, *, learns: bool) -> Speed:
    """Measure the seconds per image of a prepared run, on the data's own images.

    It takes seconds on a CPU. Nothing is written, and no label is looked at.

    Parameters
    ----------
    run
        The run. Its engine of inference is decided already.
    learns
        Whether training is measured too.
    """
    images_NHWC, read = _read(run)
    compute = compute_of(run.config.machine)
    is_tuned = learns and not run.config.train.frozen
    with torch.random.fork_rng(devices=[]):
        built = run.new_model()
        weights = size_of(built.parameters())
        memory = _step_bytes(run, built) if is_tuned else None
        model: torch.nn.Module = built.to(  # type: ignore[call-overload]
            device=compute.device, memory_format=compute.memory_format
        )
        infer = _infer_seconds(run, model, images_NHWC)
        train = _train_seconds(run, model, images_NHWC) if is_tuned else None
    if compute.is_cuda:
        torch.cuda.empty_cache()
    return Speed(
        read=read,
        infer=infer,
        train=train,
        pixels=run.preprocess.width * run.preprocess.height,
        engine=run.config.infer.infer_engine,
        memory=memory,
        weights=weights,
    )


def _read(run: Prepared) -> tuple[np.ndarray, float]:
    """Return images N x H x W x 3 for the model, and the seconds to read one."""
    table = run.manifest.train
    every = max(1, len(table) // NUM_READ)
    some = table.iloc[::every].head(NUM_READ)
    start = time.perf_counter()
    load = run.preprocess.load
    stored = [load(path, box) for path, box in zip(some["path"], boxes_of(some), strict=True)]
    seconds = (time.perf_counter() - start) / len(stored)
    return np.ascontiguousarray(run.preprocess.crop(np.stack(stored))), seconds


def _repeated(images_NHWC: np.ndarray, num: int) -> torch.Tensor:
    images = torch.from_numpy(images_NHWC)
    return images.repeat(-(-num // len(images)), 1, 1, 1)[:num]


@torch.inference_mode()
def _infer_seconds(run: Prepared, model: torch.nn.Module, images_NHWC: np.ndarray) -> float:
    """Return the seconds to predict an image; a model whose backbone is frozen loses its head."""
    compute = compute_of(run.config.machine)
    model.eval()
    if run.config.train.frozen and hasattr(model, "reset_classifier"):
        model.reset_classifier(0)  # type: ignore[operator]
    num = min(NUM_PREDICTED, run.config.infer.validation_batch_size)
    num = run.config.infer.validation_batch_size if compute.is_cuda else num
    forward = Forward(model, run.preprocess, compute, run.spec_for(run.config.infer.infer_engine))
    pixels = _repeated(images_NHWC, num).to(compute.device).permute(0, 3, 1, 2).float()

    def once() -> None:
        with compute.autocast():
            forward(pixels).float().cpu()

    once()
    return _least(once, ROUNDS) / num


def _train_seconds(run: Prepared, model: torch.nn.Module, images_NHWC: np.ndarray) -> float:
    """Return the seconds of a training step per image; the first step is not timed."""
    # The rate does not matter to the speed, and --lr find has none yet.
    config = resolved(run.config, epochs=1, compile="off", lr=1e-4, min_lr=0.0)
    compute = compute_of(config.machine)
    batch_size = config.train.batch_size
    num = batch_size if compute.is_cuda else min(NUM_LEARNT, batch_size)
    times: list[float] = []

    def tick() -> None:
        if compute.is_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter())

    fit = Fit(
        model,
        config,
        run.preprocess,
        compute,
        steps_per_epoch=ROUNDS,
        count_C=np.ones(run.manifest.num_classes, int),
        say=quiet,
    )
    batch = (_repeated(images_NHWC, num), torch.arange(num) % run.manifest.num_classes)
    for _ in fit.epochs([batch] * ROUNDS, after_step=tick):
        pass
    return float(np.diff(times).min()) / num


def _step_bytes(run: Prepared, model: torch.nn.Module) -> int | None:
    """Return the bytes of a training step on the CPU, None where they cannot be counted."""
    shape = (run.config.train.batch_size, 3, run.preprocess.height, run.preprocess.width)
    try:
        peak = peak_of(model, shape, trains=True, amp_dtype=None)
    except CannotCount:
        return None
    # Weights, and the two numbers that Adam keeps for each.
    return peak + 3 * size_of(model.parameters())
