"""Number of folds that share a GPU, from the measured memory of one fold."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import torch

from pipeline.config.resolved import resolved
from pipeline.infer import predict
from pipeline.job import TrainingJob
from pipeline.training.fit import Fit

__all__ = ["devices_of", "share_of_gpu"]

# Memory that CUDA and its libraries take in each process, in addition to torch's tensors.
CONTEXT_BYTES = 800 * 2**20
# Training steps of all folds from which on they share GPUs. Measuring the memory of a fold and
# starting a process take ten seconds each, in which a GPU makes several hundred steps.
SHARE_STEPS = 1_000


def devices_of(job: TrainingJob, num_todo: int) -> list[str]:
    """Return the device of each process."""
    machine = job.run.config.machine
    if machine.device == "cuda":
        gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    else:
        gpus = [machine.device]
    if machine.parallel_folds != "auto":
        num = int(machine.parallel_folds)
    elif job.compute.is_cuda and num_todo > 1 and _num_steps(job, num_todo) >= SHARE_STEPS:
        free = torch.cuda.mem_get_info(gpus[0])[0]
        peak = _fold_memory(job)
        each = share_of_gpu(free=free, peak=peak, most=math.ceil(num_todo / len(gpus)))
        job.say(
            f"a fold needs {peak / 1e9:.1f} GB of GPU memory (measured) and {free / 1e9:.1f} GB"
            f" are free: {each} at the same time per GPU"
        )
        num = each * len(gpus)
    else:
        num = 1
    return list(itertools.islice(itertools.cycle(gpus), min(num, num_todo)))


def _num_steps(job: TrainingJob, num_todo: int) -> int:
    """Return the number of training steps of all folds together."""
    train = job.run.config.train
    num_folds = job.run.num_folds
    num_rows = job.run.fold_RN.shape[1] * (num_folds - 1) // num_folds
    steps = max(1, num_rows // (train.batch_size * train.grad_accum_steps))
    return num_todo * train.epochs * steps


def share_of_gpu(*, free: int, peak: int, most: int) -> int:
    """Return how many folds to run at the same time on one GPU, at least 1.

    Parameters
    ----------
    free
        Free bytes of the GPU, of which 90 % are used.
    peak
        Bytes that one fold needs.
    most
        Upper limit.

    Examples
    --------
    >>> share_of_gpu(free=40, peak=10, most=5)
    3
    """
    return max(1, min(most, int(0.9 * free // peak)))


def _fold_memory(job: TrainingJob) -> int:
    """Measure the GPU memory of a fold, in bytes, by two steps and one inference batch."""
    config = job.run.config
    compute = job.compute
    preprocess = job.run.preprocess
    torch.cuda.reset_peak_memory_stats(compute.device)
    model = job.new_model()

    def blank(num: int, width: int, height: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [
            (
                torch.zeros(num, height, width, 3, dtype=torch.uint8),
                torch.zeros(num, dtype=torch.long),
            )
        ]

    # With augmentation on the device, batches hold uncropped stored images.
    augment = job.feeder.device_augmentation
    size = (preprocess.width, preprocess.height) if augment is None else preprocess.stored_size
    batches = blank(config.train.batch_size * config.train.grad_accum_steps, *size) * 2
    once = resolved(config, epochs=1, warmup_epochs=0.0)
    eager = dataclasses.replace(compute, compile=False)
    counts_C = np.ones(job.run.manifest.num_classes, int)
    fit = Fit(
        model,
        once,
        preprocess,
        eager,
        steps_per_epoch=2,
        count_C=counts_C,
        augment=augment,
        say=job.say,
    )
    for _ in fit.epochs(batches):
        pass
    batches = blank(config.infer.validation_batch_size, preprocess.width, preprocess.height)
    predict(model, batches, preprocess, compute, [lambda images: images])
    peak = torch.cuda.max_memory_reserved(compute.device) + CONTEXT_BYTES
    del model, fit
    torch.cuda.empty_cache()
    source = job.feeder.source
    resident = (
        len(source.records) * math.prod(source.records.shape)
        if source.records and source.mode == "device"
        else 0
    )
    return peak + resident
