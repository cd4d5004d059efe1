"""GPU memory that training a fold needs, by parts.

Scheduling, batch sizes, the cache and --dry-run all ask `FoldMemory`. docs/gpu.md compares its
answers with measurements.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch

from pipeline.config.resolved import ResolvedTrain
from pipeline.job import Prepared
from pipeline.models.backbones import build_model, freeze
from pipeline.training.counted_memory import peak_of, size_of, state_per_weight
from pipeline.training.optim import build_optimizer

__all__ = ["CONTEXT", "FoldMemory", "memory_of"]

# Bytes that CUDA and its libraries take in each process, in addition to torch's tensors.
CONTEXT = 800 * 2**20
# Bytes of working memory of cuDNN and cuBLAS.
WORKSPACE = 300 * 2**20
# Memory that torch's allocator takes for the passes, over what they use: blocks of 2 MB and more,
# of which parts stay empty. On an H100 it was 1.1 to 1.3.
SLACK = 1.15


@dataclass(frozen=True, kw_only=True)
class FoldMemory:
    """Bytes of GPU memory that a fold needs during training and inference."""

    weights: int
    """Weights of the model, and of the average."""
    optimizer: int
    """State of the optimiser."""
    gradients: int
    """Gradients of the trained weights; passes of training include them."""
    stored: int
    """Pixels of a batch's images as they arrive, uncropped if the GPU augments them."""
    shown: int
    """Pixels of an image as the model sees it."""
    step: int
    """Images of a training step."""
    batch: int
    """Images of a training step's largest forward pass (--batch-size)."""
    rows: int
    """Images that inference loads together (--validation-batch-size)."""
    count: Callable[[bool, int], int]
    """Function of (trains, number of images) that counts the memory of a pass."""

    @property
    def fixed(self) -> int:
        """Bytes that are in use all the time."""
        return CONTEXT + WORKSPACE + self.weights + self.optimizer

    def training(self, num: int) -> int:
        """Return the bytes of a training step besides `fixed`, with `num` images per pass."""
        # Two batches of bytes (one is computed, one arrives) and one of standardised float32.
        inputs = self.step * (2 * 3 * self.stored + 12 * self.shown)
        # The GPU augments before the pass: float32 images, and the places that they are read from.
        changing = self.step * (12 * self.stored + 32 * self.shown)
        return inputs + max(int(SLACK * self.count(True, num)), changing)

    def inference(self, num: int) -> int:
        """Return the bytes of inference besides `fixed`, with `num` images per pass."""
        inputs = self.rows * 2 * 3 * self.shown
        # The raw float32 images, a view of them, and the standardised view.
        views = num * 36 * self.shown
        return self.gradients + inputs + int(SLACK * (self.count(False, num) + views))

    def total(self, micro_batch: int, chunk: int, *, releases: bool) -> int:
        """Return the bytes of a fold.

        Parameters
        ----------
        micro_batch, chunk
            Images per forward pass, in training and in inference.
        releases
            Whether training and inference give their memory back to the GPU at the end. torch
            otherwise keeps it, and what training took is of little use to inference, whose blocks
            are larger.
        """
        training = self.training(micro_batch)
        inference = self.inference(chunk)
        both = max(training, inference) if releases else training + inference
        return self.fixed + both


def memory_of(run: Prepared) -> FoldMemory:
    """Return the memory of a run's folds, counted on a model with random weights.

    Raises CannotCount for a model that fails on fake tensors.
    """
    config = run.config
    train = config.train
    machine = config.machine
    # The random numbers of training stay what they are.
    with torch.random.fork_rng(devices=[]):
        model = build_model(
            config.model.backbone,
            num_classes=run.manifest.num_classes,
            kwargs=run.model_kwargs,
            weights=None,
            join=run.join,
        )
        state = _state(train)
    freeze(model, train.tuned)
    # Without a GPU, the answer is for a common one.
    on_cpu = not machine.device.startswith("cuda")
    amp_dtype = getattr(torch, "bfloat16" if on_cpu else machine.amp_dtype)
    if not (machine.amp or on_cpu):
        amp_dtype = None
    layout = torch.channels_last if machine.channels_last else torch.contiguous_format
    preprocess = run.preprocess
    height, width = preprocess.height, preprocess.width

    @cache
    def count(trains: bool, num: int) -> int:
        return peak_of(
            model, (num, 3, height, width), trains=trains, amp_dtype=amp_dtype, memory_format=layout
        )

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
        step=train.batch_size * train.grad_accum_steps,
        batch=train.batch_size,
        rows=config.infer.validation_batch_size,
        count=count,
    )


def _state(config: ResolvedTrain) -> float:
    """Return how many numbers the optimiser keeps per weight."""
    width = 64
    layer = torch.nn.Linear(width, width, bias=False)
    try:
        return state_per_weight(build_optimizer(layer, config, fused=False), width)
    except Exception:  # some optimisers of timm want more than a gradient
        return 2.0
