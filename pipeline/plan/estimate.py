"""Estimated times of a plan's runs, from the speeds that were measured."""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = [
    "FIRST_BLEND",
    "REPORT",
    "START",
    "Size",
    "Speed",
    "fold_seconds",
    "frozen_seconds",
    "reserve_for",
    "run_seconds",
]

# Seconds before the first image of a run, until that was measured, and of a first blend.
START = 2.0
FIRST_BLEND = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Numbers of images that decide the time of a run."""

    num_train: int
    """Labelled images that are held out in turn."""
    num_labelled: int
    """All labelled images, with those for training only."""
    num_test: int
    num_folds: int
    num_repeats: int = 1
    num_classes: int = 2
    num_at_once: int = 1
    """Models that are trained at the same time, on the nodes of a cluster."""

    @property
    def num_models(self) -> int:
        return self.num_folds * self.num_repeats

    @property
    def num_learnt(self) -> int:
        """Images that a model trains on."""
        alone = self.num_labelled - self.num_train
        return self.num_train * (self.num_folds - 1) // self.num_folds + alone

    @property
    def num_held_out(self) -> int:
        """Images that are held out from a model."""
        return -(-self.num_train // self.num_folds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Times of a backbone at a size on this machine, in seconds per image."""

    read: float
    """To decode and resize an image of the data."""
    infer: float
    """To predict an image."""
    train: float | None = None
    """To train on an image; None where it was not measured."""
    start: float = START
    """Seconds before the first image of a run: checks, weights, folder."""
    pixels: int = 1
    """Pixels of the input at which it was measured."""
    engine: str = "torch"
    """What runs inference fastest."""
    memory: int | None = None
    """Bytes that a training step needs, counted; None where the model cannot be counted."""
    weights: int = 0
    """Bytes of the model's weights."""

    def at(self, pixels: int) -> Speed:
        """Return the speed at another size of the input.

        Reading an image costs the same: most of it is decoding.
        """
        ratio = pixels / self.pixels
        return replace(
            self,
            pixels=pixels,
            infer=self.infer * ratio,
            train=None if self.train is None else self.train * ratio,
            memory=None if self.memory is None else int(self.memory * ratio),
        )


# Seconds to fit the linear heads of all folds, per image and class, and what every run costs
# besides: files, tables and the report. They hold until the first run has shown the real figures.
HEADS_PER_CELL = 3e-4
REPORT = 4.0


def frozen_seconds(size: Size, speed: Speed) -> float:
    """Return the seconds of a run with a frozen backbone.

    Examples
    --------
    >>> size = Size(num_train=500, num_labelled=500, num_test=100, num_folds=5, num_classes=10)
    >>> round(frozen_seconds(size, Speed(read=0.001, infer=0.01)))
    14
    """
    images = size.num_labelled + size.num_test
    heads = HEADS_PER_CELL * size.num_labelled * size.num_classes * size.num_repeats
    return speed.start + images * (speed.read + speed.infer) + heads + REPORT


def fold_seconds(size: Size, speed: Speed, epochs: int) -> float:
    """Return the seconds of one fold of a fine-tuned run, whose images are decoded already."""
    assert speed.train is not None, speed
    training = epochs * size.num_learnt * speed.train
    # Each epoch predicts the held-out images.
    inference = (epochs * size.num_held_out + size.num_test) * speed.infer
    return training + inference + 1.0


def run_seconds(size: Size, speed: Speed, epochs: int) -> float:
    """Return the seconds of a fine-tuned run, with reading and the report."""
    reading = (size.num_labelled + size.num_test) * speed.read
    rounds = -(-size.num_models // size.num_at_once)
    folds = rounds * fold_seconds(size, speed, epochs)
    return speed.start + reading + folds + REPORT


def reserve_for(blend_seconds: float) -> float:
    """Return the seconds that are kept for the last blend, if the one before took so many.

    Each blend has more members than the one before it.
    """
    return 1.3 * blend_seconds + 2.0
