"""Peak learning rate of a fold with --lr find, which is tested once and kept in its folder."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from foldblend.errors import UserError
from foldblend.files import exists
from foldblend.progress import duration
from foldblend.runs.folder import check_there, write_json
from foldblend.runs.info import FoundRateInfo
from foldblend.runs.schema import read_checked
from pipeline.config.resolved import ResolvedConfig, resolved
from pipeline.job import TrainingJob
from pipeline.seeding import derive_seed
from pipeline.training.fit import Fit
from pipeline.training.range_test import Curve, choose_rate, num_steps, range_test, rates_around

__all__ = ["FoldRate"]

FILE = "lr.json"
# Part of the seeds of a test's batches, so that training does not begin with the same ones.
TEST = 1


class FoldRate:
    """The learning rate that --lr find takes for a fold.

    A fold that is continued reads it from its folder. It is found from the training rows alone.
    """

    def __init__(
        self,
        job: TrainingJob,
        index: int,
        train: pd.DataFrame,
        count_C: np.ndarray,
        share_NC: np.ndarray | None = None,
    ):
        """Read the rate of a fold, or test rates on its training rows `train`.

        `count_C` is the number of training images of each class, and `share_NC` has the shares of
        classes that the rows learn, if that is not one class.
        """
        self.job = job
        self.index = index
        self.file = job.folder / job.run.name_of(index) / FILE
        self.share_NC = share_NC
        self.info = _read(self.file, job.fold_key) or self._test(train, count_C)

    @property
    def settings(self) -> ResolvedConfig:
        """The settings of the run, with the rate of this fold."""
        return resolved(self.job.run.config, lr=self.info["lr"])

    def write(self) -> None:
        """Write the rate to the folder of the fold, if it is not there."""
        if _read(self.file, self.job.fold_key) != self.info:
            check_there(self.job.folder)
            write_json(self.file, self.info)

    def record(self) -> dict[str, Any]:
        """Return what done.json has of it."""
        return {"lr": self.info["lr"], "lr_found": self.info["found"]}

    def _test(self, train: pd.DataFrame, count_C: np.ndarray) -> FoundRateInfo:
        job = self.job
        fallback = job.run.rates["fallback"]
        start = time.perf_counter()
        curve = self._curve(train, count_C, fallback)
        rate = None
        why = "training has too few steps for a test"
        if curve is not None:
            rate, why = choose_rate(curve, around=fallback)
        if rate is not None and rate <= job.run.config.train.min_lr:
            rate, why = None, f"{rate:g} is not above --min-lr"
        seconds = time.perf_counter() - start
        lr = fallback if rate is None else rate
        steps = 0 if curve is None else len(curve.loss_L)
        cost = f", {steps} steps on {len(train):,} training images, {duration(seconds)}"
        if rate is None:
            say = f"finds no learning rate ({why}{cost if steps else ''}); {lr:g} of auto is taken"
        else:
            say = f"finds the learning rate {lr:g} ({why}{cost}; auto: {fallback:g})"
        job.say(f"{job.title(self.index)}: --lr find {say}")
        return FoundRateInfo(
            run_key=job.fold_key,
            lr=lr,
            found=rate is not None,
            why=why,
            curve=[] if curve is None else _pairs(curve),
            seconds=seconds,
        )

    def _curve(self, train: pd.DataFrame, count_C: np.ndarray, fallback: float) -> Curve | None:
        job = self.job
        config = job.run.config
        seeds = (config.train.seed, self.index, TEST)
        loader = job.feeder.train(train, seed_parts=seeds, share_NC=self.share_NC, say=job.say)
        steps = num_steps(config.train.epochs * len(loader))
        if not steps:
            return None
        lr_L = rates_around(fallback, steps)
        settings = resolved(
            config,
            lr=float(lr_L[0]),
            epochs=-(-steps // len(loader)),
            sched="constant",
            warmup_epochs=0.0,
            min_lr=0.0,
            model_ema=False,
            average_last=0,
        )
        # The model that training starts with.
        torch.manual_seed(derive_seed("torch", config.train.seed, self.index))
        fit = Fit(
            job.new_model(),
            settings,
            job.run.preprocess,
            # A compiled test would take longer than it saves.
            dataclasses.replace(job.compute, compile=False),
            steps_per_epoch=len(loader),
            count_C=count_C,
            augment=job.feeder.device_augmentation,
            seed_parts=seeds,
            micro_batch=job.limits.micro_batch,
            say=lambda line: job.say(f"{job.title(self.index)}: {line}"),
        )
        return range_test(fit, loader, lr_L)


def _pairs(curve: Curve) -> list[list[float]]:
    finite = np.isfinite(curve.loss_L)
    return np.stack([curve.lr_L, curve.loss_L], axis=1)[finite].tolist()


def _read(file: Path, key: dict[str, str]) -> FoundRateInfo | None:
    """Return the rate in a file, or None if it is absent, damaged or of another run."""
    if not exists(file):
        return None
    names = [*FoundRateInfo.__annotations__]
    try:
        found: FoundRateInfo = read_checked(file, FoundRateInfo, needed=names, cure="remove it")
    except UserError:
        return None
    return found if found["run_key"] == key else None
