"""The training loop of one model.

It runs for a fixed number of epochs and ends with the last or the averaged weights. Its state can
be saved and restored between any two steps.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from foldblend.errors import UserError, in_a_line
from pipeline.config.resolved import ResolvedConfig
from pipeline.data.dataset import TrainLoader
from pipeline.data.parts import WHOLE
from pipeline.data.preprocess import Preprocess
from pipeline.device import Compute
from pipeline.memory import OutOfMemory, is_out_of_memory
from pipeline.models.backbones import start_training
from pipeline.training.averaging import build_average
from pipeline.training.batch_pixels import Augmenter, BatchPixels
from pipeline.training.compiling import compiles, is_known_to_fail
from pipeline.training.finite import FiniteCheck, NotFiniteError
from pipeline.training.losses import build_loss
from pipeline.training.mixing import Mixing
from pipeline.training.optim import build_optimizer, build_scheduler
from pipeline.training.saved_state import MisfitError, check_state, is_finite, tensors_in
from pipeline.training.team import Team, unsynced

__all__ = ["Epoch", "Fit"]

STEP_FLAGS = "--batch-size or --grad-accum-steps"
# Gradient scale of float16. It starts at 65,536 and each overflow halves it; below this value every
# step has overflowed.
LEAST_SCALE = 1e-3


@dataclass(frozen=True, slots=True)
class Epoch:
    """Record of one epoch; `model` is the model to score (the weight average if there is one)."""

    index: int
    train_loss: float
    lr: float
    seconds: float
    images: int
    model: torch.nn.Module


class Fit:
    """A model in training with everything that a step changes.

    That is the optimiser, the schedule, the weight average, the gradient scaler and the position
    in the data. `state_dict` and `load_state_dict` move all of it to another process between any
    two steps.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        config: ResolvedConfig,
        preprocess: Preprocess,
        compute: Compute,
        *,
        steps_per_epoch: int,
        count_C: np.ndarray | None = None,
        augment: Augmenter | None = None,
        seed_parts: tuple[int, ...] = (),
        micro_batch: int | None = None,
        stop_after: int | None = None,
        say: Callable[[str], None] = print,
        team: Team | None = None,
    ) -> None:
        """Set up the optimiser, schedule, weight average, loss and mixing of `config`.

        `augment` changes and standardises N x H x W x 3 uint8 images on the device. `count_C` is
        the number of training images of each class. Training ends after `stop_after` epochs of the
        schedule (None: at its end). The processes of `team` take each step together.
        """
        counts_C = np.ones(1, int) if count_C is None else count_C
        self.model = model
        self.config = config
        self.preprocess = preprocess
        self.compute = compute
        self.seed_parts = seed_parts
        self.say = say
        self.scaler = compute.scaler()
        self.optimizer = build_optimizer(
            model, config.train, fused=compute.is_cuda, scaled=self.scaler.is_enabled()
        )
        self.schedule = build_scheduler(
            self.optimizer, config.train, steps_per_epoch=steps_per_epoch
        )
        self.average = build_average(model, config.train)
        self.loss = build_loss(config.loss, counts_C, compute.device)
        self.pixels = BatchPixels(
            preprocess, augment, Mixing.of(config.augment, counts_C), config.augment.reprob
        )
        # A compiled model shares the weights. Inference uses the uncompiled one, because its
        # batches vary in size and each new size would be compiled.
        self.forward: Callable[..., Any] = model if team is None else team.wrap(model)
        self.team = team
        self._untried = compute.compile and not is_known_to_fail(
            config.model.backbone, compute.device
        )
        self.watch: Callable[[torch.Tensor], None] | None = None
        """Called with every batch as the model sees it."""
        self.micro_batch = min(micro_batch or config.train.batch_size, config.train.batch_size)
        self.stop_after = stop_after or config.train.epochs
        self.epoch = 0
        self.step = 0
        self.images_seen = 0
        self.updates = 0
        self.first_lr = config.train.peak_lr
        """Learning rate at the first step of the epoch."""
        # The sum stays on the device: reading each loss would stall a GPU.
        self.loss_sum = torch.zeros((), device=compute.device)
        self._finite = FiniteCheck()
        self._steps = steps_per_epoch
        # Weights such as masks may be infinite from the start.
        self._infinite = {name for name, one in self._weights() if not is_finite(one)}
        self._restored = False

    def _weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the weights and buffers by name, and those of the average."""
        for kind, state in (("model", self.model), ("average", self.average)):
            for name, one in state.state_dict().items():
                if isinstance(one, torch.Tensor):
                    yield f"{kind} {name}", one

    def is_finite(self) -> bool:
        """Return whether all weights, averages and values of the optimiser are finite."""
        weights = (one for name, one in self._weights() if name not in self._infinite)
        kept = (one for state in self.optimizer.state.values() for one in tensors_in(state))
        return all(map(is_finite, itertools.chain(weights, kept)))

    @property
    def scored(self) -> torch.nn.Module:
        """The model to score now: the weight average if there is one."""
        average = self.average.scored
        return self.model if average is None else average

    @property
    def is_done(self) -> bool:
        return self.epoch >= self.stop_after

    def epochs(
        self, loader: Any, *, after_step: Callable[[], None] = lambda: None
    ) -> Iterator[Epoch]:
        """Train from the current position and yield a record after every epoch.

        `loader` yields batches of N x H x W x 3 uint8 images and N labels. The number of epochs is
        fixed in advance, so held-out rows do not influence when training stops. Raises
        NotFiniteError.
        """
        while not self.is_done:
            start_training(self.model)
            if isinstance(loader, TrainLoader):
                loader.enter(self.epoch, self.step)
            if self.step == 0:
                # The last group is the head, which has the highest learning rate.
                self.first_lr = float(self.optimizer.param_groups[-1]["lr"])
            start = time.perf_counter()
            images_before = self.images_seen
            for images, labels in self.compute.feed(loader):
                try:
                    if self._untried:
                        self._try_compiled(images, labels)
                    self._train_step(
                        images, labels, loader if isinstance(loader, TrainLoader) else None
                    )
                except Exception as error:
                    if not is_out_of_memory(error):
                        self._blame_state(error)
                        raise
                    # Forward passes are retried with smaller micro-batches (`_backward`), so the
                    # memory ran out elsewhere in the step.
                    raise OutOfMemory(
                        f"out of memory with {len(images)} images per step; lower {STEP_FLAGS}"
                    ) from None
                self.step += 1
                after_step()
            self._finite.settle()
            # If float16 still overflows at this scale, the scaler has skipped every update.
            if self.scaler.is_enabled() and self.scaler.get_scale() < LEAST_SCALE:
                raise NotFiniteError("gradient", self.epoch, self.step - 1)
            mean_loss = float(self.loss_sum) / self.images_seen
            seconds = time.perf_counter() - start
            images_seen = self.images_seen - images_before
            try:
                self.average.after_epoch(self.model, self.epoch)
                if hasattr(self.schedule, "end_epoch"):
                    self.schedule.end_epoch(mean_loss)
            except Exception as error:
                self._blame_state(error)
                raise
            self._restored = False
            self.loss_sum.zero_()
            self.epoch = self.epoch + 1
            self.step = 0
            self.images_seen = 0
            yield Epoch(self.epoch - 1, mean_loss, self.first_lr, seconds, images_seen, self.scored)

    def _blame_state(self, error: Exception) -> None:
        """Raise MisfitError for an error in the first epoch after a state was restored."""
        # Another process of a team may have ended, which is no fault of the state.
        if self._restored and self.team is None and not isinstance(error, UserError):
            raise MisfitError(in_a_line(error)) from error

    def _train_step(
        self, images: torch.Tensor, labels: torch.Tensor, loader: TrainLoader | None
    ) -> None:
        config = self.config
        label_N = None
        if loader is not None and (self.pixels.mixing is not None or self.team is not None):
            label_N = loader.labels(self.epoch, self.step)
        share_NC = None if loader is None else loader.shares(self.epoch, self.step)
        place = (*self.seed_parts, self.epoch, self.step)
        num = len(images)
        if self.team is None:
            pixels, target = self.pixels(images, labels, label_N, place, share_NC)
        else:
            assert label_N is not None
            num = len(label_N)
            self.team.seed(place)
            pixels, target = self.team.own_pixels(
                self.pixels, images, labels, label_N, place, share_NC, config.train.batch_size
            )
        if self.watch is not None:
            self.watch(pixels)
        loss = self._backward(pixels, target, num)
        norm = torch.zeros((), device=loss.device)
        clip = config.train.clip_grad
        if clip is not None:
            self.scaler.unscale_(self.optimizer)
            norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        elif not self.scaler.is_enabled():
            norm = torch.nn.utils.get_total_norm(
                [one.grad for one in self.model.parameters() if one.grad is not None]
            )
        if self.scaler.is_enabled():
            # The scaler skips a step whose gradients overflow float16 and lowers its scale, so an
            # infinite norm is not an error here.
            norm = torch.zeros_like(norm)
        self._finite.check(torch.stack([loss, norm]), self.epoch, self.step)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        self.updates += 1
        self.average.after_step(self.model, self.updates)
        self.loss_sum += loss * num
        self.images_seen += num

    def _backward(self, pixels: torch.Tensor, target: torch.Tensor, num: int) -> torch.Tensor:
        """Compute the gradients of the mean loss of a step of `num` images and return that loss.

        If memory runs out, the batch is split into smaller micro-batches and tried again.
        """
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            try:
                return self._micro_batches(pixels, target, num)
            except ValueError as error:
                # What torch's batch norm says of a single value, which has no variance.
                if "more than 1 value per channel" not in str(error):
                    raise
                raise UserError(
                    "batch norm cannot be trained on one image at a time; train on more images, or"
                    " pass a larger --batch-size or --img-size, or a --backbone without batch norm"
                ) from None
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if self.team is not None:
                    # The other processes wait for the gradients of this pass.
                    raise OutOfMemory(
                        f"out of memory with {len(pixels)} images of each step in a process; pass a"
                        " smaller --batch-size with more --grad-accum-steps"
                    ) from None
                if self.micro_batch <= 1:
                    raise OutOfMemory(
                        "out of memory with one image at a time; pass a smaller --img-size"
                    ) from None
            self.optimizer.zero_grad(set_to_none=True)
            self._halve(len(pixels))

    def _halve(self, num: int) -> None:
        """Split steps of `num` images into smaller micro-batches, since memory ran out."""
        if self.compute.is_cuda:
            torch.cuda.empty_cache()
        self.micro_batch = -(-min(self.micro_batch, num) // 2)
        self.say(
            f"out of memory: continuing with {self.micro_batch} images per forward pass, still"
            f" {num} per step (batch norm and --loss f1 now see fewer images at a time)"
        )

    def _try_compiled(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Compile the training steps, and go on without where that does not work.

        The trial leaves weights, buffers, gradients and random states as they were.
        """
        self._untried = False
        wanted = self.micro_batch
        pixels = self.preprocess.normalise(self.preprocess.crop(images))

        def step(compiled: bool) -> None:
            self.forward = torch.compile(self.model) if compiled else self.model
            self._micro_batches(pixels, labels, len(pixels))

        def halve() -> bool:
            can = self.micro_batch > 1
            if can:
                self._halve(len(pixels))
            return can

        if not compiles(
            self.model,
            step,
            halve,
            backbone=self.config.model.backbone,
            device=self.compute.device,
            say=self.say,
        ):
            self.forward = self.model
            self.micro_batch = wanted

    def _micro_batches(self, pixels: torch.Tensor, target: torch.Tensor, num: int) -> torch.Tensor:
        team = self.team
        whole = WHOLE if team is None else team.part
        size = self.micro_batch if team is None else self.config.train.batch_size
        sizes = [len(rows) for rows in whole.of_step(num, size)]
        parts = [*zip(pixels.split(sizes), target.split(sizes), strict=True)]
        total = torch.zeros((), device=pixels.device)
        for number, (part, part_target) in enumerate(parts, start=1):
            part = part.contiguous(memory_format=self.compute.memory_format)
            with unsynced(self.forward, is_last=team is None or number == len(parts)):
                with self.compute.autocast():
                    loss = self.loss(self.forward(part).float(), part_target) * (len(part) / num)
                # Processes exchange the mean of their gradients; the sum of their parts is needed.
                self.scaler.scale(loss if team is None else loss * team.size).backward()
            total += loss.detach()
        if team is None:
            return total
        team.check_gradients(self.model)
        return team.sum(total)

    def state_dict(self) -> dict[str, Any]:
        """Return everything needed to continue training, as tensors and plain data."""
        self._finite.settle()
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "average": self.average.state_dict(),
            "scaler": self.scaler.state_dict(),
            "place": [self.epoch, self.step, self.images_seen, self.updates, self.micro_batch],
            "first_lr": self.first_lr,
            "loss_sum": self.loss_sum,
            "rng": torch.get_rng_state(),
            "rng_cuda": (
                torch.cuda.get_rng_state(self.compute.device) if self.compute.is_cuda else None
            ),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the state of another Fit with the same settings.

        Raises MisfitError if the state is none of such a Fit; this one is then of no use.
        """
        check_state(
            state,
            self.state_dict(),
            self.optimizer,
            epochs=self.config.train.epochs,
            steps=self._steps,
            batch_size=self.config.train.batch_size,
        )
        try:
            self._restore(state)
        except Exception as error:  # parts of users and libraries may raise anything
            raise MisfitError(in_a_line(error)) from error
        self._restored = True

    def _restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.average.load_state_dict(state["average"])
        self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.step, self.images_seen, self.updates, self.micro_batch = state["place"]
        self.first_lr = state["first_lr"]
        self.loss_sum = state["loss_sum"].to(self.compute.device)
        torch.set_rng_state(state["rng"].cpu())
        if self.compute.is_cuda and state["rng_cuda"] is not None:
            torch.cuda.set_rng_state(state["rng_cuda"].cpu(), self.compute.device)
