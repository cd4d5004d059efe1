"""GPU memory that training a fold needs, by parts.

Scheduling, batch sizes, the cache and --dry-run all ask `FoldMemory`. docs/gpu.md compares its
answers with measurements.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["CONTEXT", "SLACK", "WORKSPACE", "FoldMemory"]

# Bytes that CUDA and its libraries take in each process, in addition to torch's tensors.
CONTEXT = 800 * 2**20
# Bytes of working memory of cuDNN and cuBLAS.
WORKSPACE = 300 * 2**20
# Memory that torch's allocator takes for the passes, over what they use: blocks of 2 MB and more,
# of which parts stay empty. It was chosen so that the sum is right for two models on an H100; for
# a third one it is 11 % too small (docs/gpu.md).
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
        """Return the bytes that are in use all the time."""
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

    def parts(self, micro_batch: int, chunk: int) -> dict[str, int]:
        """Return the bytes by parts, for people; the last two are not needed at the same time."""
        return {
            "CUDA and its libraries": CONTEXT + WORKSPACE,
            "weights": self.weights,
            "state of the optimiser": self.optimizer,
            f"training step, {micro_batch} images per pass": self.training(micro_batch),
            f"inference, {chunk} images per pass": self.inference(chunk),
        }
