"""Processes of a run: the device of each, and the limits of its folds there."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from foldblend.cli import Say
from foldblend.errors import UserError
from pipeline.config.resolved import resolved
from pipeline.data.images import DEVICE_SHARE
from pipeline.fold_memory import CONTEXT, FoldMemory
from pipeline.infer import predict
from pipeline.job import Prepared, TrainingJob
from pipeline.memory import Chunks, Limits
from pipeline.training.count_fold import memory_of, steps_of
from pipeline.training.counted_memory import CannotCount
from pipeline.training.fit import Fit
from pipeline.training.gpu_cards import Card, cards_of
from pipeline.training.gpu_plan import (
    LEAST_CHUNK,
    SHARE,
    CardPlan,
    in_turn,
    largest_side,
    plan_cards,
)

__all__ = ["FoldProcess", "count_memory", "plan_of", "processes_of", "room_for_images"]

# Training steps of all folds from which on they share GPUs. Measuring the memory of a fold and
# starting a process take ten seconds each, in which a GPU makes several hundred steps.
SHARE_STEPS = 1_000


@dataclass(frozen=True, kw_only=True)
class FoldProcess:
    """A process that trains folds, one after another."""

    device: str
    limits: Limits = field(default_factory=Limits)
    shares_images: bool = False
    """Whether it reads images that another process holds in the memory of its GPU."""
    holds_images: bool = True
    """Whether there is room for images on its GPU, if the cache is there."""


def count_memory(run: Prepared, say: Say) -> FoldMemory | None:
    """Return the memory of a run's folds, None for a model that cannot be counted.

    Nor are runs with a frozen backbone counted: they train no folds on the GPU.
    """
    if run.config.train.frozen:
        return None
    try:
        return memory_of(run)
    except CannotCount as error:
        say(f"the GPU memory of a fold cannot be counted ({error})")
        return None


def room_for_images(memory: FoldMemory | None, cards: Sequence[Card]) -> int | None:
    """Return the bytes that images may take on the GPU with the least memory, None without GPU.

    A single fold has its room first.
    """
    if not cards:
        return None
    free = min(card.free for card in cards)
    if memory is None:
        return int(DEVICE_SHARE * free)
    inference = memory.inference(min(LEAST_CHUNK, memory.rows))
    fold = memory.fixed + max(memory.training(memory.batch), inference)
    return max(0, int(SHARE * free) - fold)


def plan_of(
    run: Prepared, memory: FoldMemory, cards: Sequence[Card], *, num_todo: int, images: int
) -> tuple[CardPlan, ...]:
    """Return the plan of a run's folds on its GPUs, by the counted memory of a fold.

    `images` are the bytes of images to keep in GPU memory. Raises UserError if no GPU has memory
    for a single image.
    """
    plans = plan_cards(
        memory,
        cards,
        num_folds=num_todo,
        images=images,
        at_once=_at_once(run, num_todo),
        must_hold=run.config.machine.cache == "device",
    )
    if plans:
        return plans
    # The count is an estimate, so that a fold that nearly fits is tried.
    largest = max(cards, key=lambda card: card.free)
    need = memory.fixed + max(memory.training(1), memory.inference(1))
    if need > largest.free:
        side = largest_side(memory, largest, min(run.preprocess.width, run.preprocess.height))
        raise UserError(
            f"--img-size {run.config.model.img_size}: a fold needs {need / 1e9:.1f} GB of GPU"
            f" memory for one image at a time, and {largest.name} has {largest.free / 1e9:.1f} GB"
            f" free; --img-size {side} would fit, or pass --device cpu"
        )
    tight = Limits(micro_batch=1, chunk=1, releases=True)
    return (CardPlan(card=largest, at_once=1, limits=tight, fold=need, images=0),)


def processes_of(job: TrainingJob, num_todo: int) -> list[FoldProcess]:
    """Return the processes of a job with `num_todo` folds, at most one per fold.

    On GPUs, the memory of a fold decides. It is counted, and measured too before folds share a GPU
    unasked. Raises UserError if no GPU has memory for a single image.
    """
    machine = job.run.config.machine
    cards = cards_of(machine.device)
    if not cards:
        asked = _number(machine.parallel_folds) or 1
        return [FoldProcess(device=machine.device)] * min(asked, num_todo)
    at_once = _at_once(job.run, num_todo)
    if job.memory is None:
        return _uncounted(job, cards, num_todo, at_once)
    images = job.feeder.source.device_bytes
    plans = plan_of(job.run, job.memory, cards, num_todo=num_todo, images=images)
    if at_once is None:
        plans = _measured(job, plans)
    for plan in plans:
        job.say(plan.line)
    places = in_turn([plan.at_once for plan in plans])[:num_todo]
    return [
        FoldProcess(
            device=machine.device if len(cards) == 1 and len(places) == 1 else plan.card.name,
            limits=plan.limits,
            shares_images=plan.images > 0 and plan.at_once > 1,
            holds_images=plan.images > 0,
        )
        for plan in (plans[place] for place in places)
    ]


def _number(parallel_folds: str) -> int | None:
    """Return the number of --parallel-folds, None for "auto"."""
    return None if parallel_folds == "auto" else int(parallel_folds)


def _at_once(run: Prepared, num_todo: int) -> int | None:
    """Return how many folds GPUs train at the same time; None: as many as fit."""
    asked = _number(run.config.machine.parallel_folds)
    if asked is not None:
        return min(asked, num_todo)
    steps = num_todo * run.config.train.epochs * steps_of(run)
    pays = num_todo > 1 and steps >= SHARE_STEPS
    return None if pays else 1


def _measured(job: TrainingJob, plans: Sequence[CardPlan]) -> tuple[CardPlan, ...]:
    """Return the plans with the measured memory of a fold, and with fewer folds if it needs them.

    It is measured where folds share a GPU, once per kind of GPU and limits.
    """
    sizes: dict[tuple[str, Limits], int] = {}
    found = []
    for plan in plans:
        if plan.at_once > 1:
            key = (plan.card.title, plan.limits)
            if key not in sizes:
                sizes[key] = measure_fold(job, plan.card.name, plan.limits)
            room = SHARE * plan.card.free - plan.images - CONTEXT
            at_once = min(plan.at_once, max(1, int(room // sizes[key])))
            plan = dataclasses.replace(plan, fold=sizes[key], at_once=at_once, measured=True)
        found.append(plan)
    return tuple(found)


def _uncounted(
    job: TrainingJob, cards: Sequence[Card], num_todo: int, at_once: int | None
) -> list[FoldProcess]:
    """Return the processes of a job whose memory cannot be counted but measured."""
    shares = [1] if at_once is None else [0] * len(cards)
    if at_once is None:
        images = job.feeder.source.device_bytes
        per_fold = measure_fold(job, cards[0].name, Limits()) + images
        shares = [1 if card.alone else max(1, int(SHARE * card.free // per_fold)) for card in cards]
        places = in_turn(shares)
    else:
        places = list(itertools.islice(itertools.cycle(range(len(cards))), at_once))
    return [FoldProcess(device=cards[place].name) for place in places[:num_todo]]


def measure_fold(job: TrainingJob, device: str, limits: Limits) -> int:
    """Measure the GPU memory of a fold, in bytes, by two steps and one inference batch.

    Images that are kept in GPU memory are not included.
    """
    config = job.run.config
    compute = dataclasses.replace(job.compute, device=torch.device(device), compile=False)
    preprocess = job.run.preprocess
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(compute.device)
    before = torch.cuda.memory_reserved(compute.device)
    with torch.random.fork_rng(devices=[]):
        model = dataclasses.replace(job, compute=compute).new_model()

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
    counts_C = np.ones(job.run.manifest.num_classes, int)
    fit = Fit(
        model,
        once,
        preprocess,
        compute,
        steps_per_epoch=2,
        count_C=counts_C,
        augment=augment,
        micro_batch=limits.micro_batch,
        say=job.say,
    )
    for _ in fit.epochs(batches):
        pass
    if limits.releases:
        torch.cuda.empty_cache()
    batches = blank(config.infer.validation_batch_size, preprocess.width, preprocess.height)
    chunks = Chunks(job.say, most=limits.chunk)
    predict(model, batches, preprocess, compute, [lambda images: images], chunks=chunks)
    peak = torch.cuda.max_memory_reserved(compute.device) - before
    del model, fit
    torch.cuda.empty_cache()
    return peak + CONTEXT
