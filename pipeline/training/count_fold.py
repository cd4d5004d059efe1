"""The GPU memory of a run's folds, counted on its model."""

from __future__ import annotations

import dataclasses
from functools import cache

import numpy as np
import torch

from pipeline.config.resolved import ResolvedTrain
from pipeline.fold_memory import FoldMemory
from pipeline.job import Prepared
from pipeline.machine import rows_of
from pipeline.training.counted_memory import CannotCount, peak_of, size_of, state_per_weight
from pipeline.training.optim import build_optimizer

__all__ = ["memory_of", "steps_of"]

# Bytes of a pass that fails.
TOO_MUCH = 2**60


def steps_of(run: Prepared) -> int:
    """Return the training steps per epoch and fold, for folds of equal size."""
    train = run.config.train
    num_rows = run.manifest.num_training_rows(run.num_folds)
    return max(1, num_rows // (train.batch_size * train.grad_accum_steps))


def memory_of(run: Prepared) -> FoldMemory:
    """Return the memory of a run's folds, counted on a model with random weights.

    Raises CannotCount for a model that fails on fake tensors.
    """
    memory = _memory_of(run)
    # Whether it can be counted shows now, and not in the middle of a plan.
    memory.training(memory.batch)
    memory.inference(memory.rows)
    return memory


def _smallest_fold(fold_RN: np.ndarray) -> int:
    """Return the fewest rows that are held out at a time."""
    return min(int(np.bincount(fold_N[fold_N >= 0]).min()) for fold_N in fold_RN)


def _memory_of(run: Prepared) -> FoldMemory:
    config = run.config
    train = config.train
    machine = config.machine
    # The random numbers of training stay what they are.
    with torch.random.fork_rng(devices=[]):
        model = run.new_model(pretrained=False)
        state = _state(train)
    # Without a GPU, the answer is for a common one.
    on_cpu = not machine.device.startswith("cuda")
    amp_dtype = torch.bfloat16 if on_cpu else None
    if machine.amp:
        amp_dtype = getattr(torch, machine.amp_dtype)
    layout = torch.channels_last if machine.channels_last else torch.contiguous_format
    preprocess = run.preprocess
    height = preprocess.height
    width = preprocess.width
    # A fold may have fewer images than a batch.
    num_rows = max(1, run.fold_RN.shape[1] - _smallest_fold(run.fold_RN))
    batch = min(train.batch_size, num_rows)
    rows = config.infer.validation_batch_size
    if on_cpu and "validation_batch_size" not in config.typed:
        rows = rows_of("cuda")

    @cache
    def count(trains: bool, num: int) -> int:
        shape = (num, 3, height, width)
        try:
            return peak_of(model, shape, trains=trains, amp_dtype=amp_dtype, memory_format=layout)
        except CannotCount:
            # Such as a single image with batch norm, which is then no choice.
            if num in (batch, rows):
                raise
            return TOO_MUCH

    weights = size_of([*model.parameters(), *model.buffers()])
    trained = size_of(one for one in model.parameters() if one.requires_grad)
    averages = 1 + bool(train.model_ema or train.average_last)
    stored_width, stored_height = preprocess.stored_size
    on_device = machine.augment_on == "device" or on_cpu
    return FoldMemory(
        weights=weights * averages,
        optimizer=int(trained * state),
        gradients=trained,
        stored=stored_width * stored_height if on_device else width * height,
        shown=width * height,
        step=min(train.batch_size * train.grad_accum_steps, num_rows),
        batch=batch,
        rows=rows,
        count=count,
    )


def _state(config: ResolvedTrain) -> float:
    """Return how many numbers the optimiser keeps per weight."""
    width = 64
    layer = torch.nn.Linear(width, width, bias=False)
    try:
        # The number does not depend on the learning rate, which --lr find decides in each fold,
        # nor on its decay over layers.
        any_rate = dataclasses.replace(config, lr=1e-3, min_lr=0.0, layer_decay=None)
        return state_per_weight(build_optimizer(layer, any_rate, fused=False), width)
    except Exception:  # some optimisers of timm want more than a gradient
        return 2.0
