"""Processes of a run: the device of each, and the limits of its folds there."""

from __future__ import annotations

import dataclasses
from collections import deque
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
from pipeline.rates_of_run import with_rate
from pipeline.training.count_fold import memory_of, steps_of
from pipeline.training.counted_memory import CannotCount
from pipeline.training.fit import Fit
from pipeline.training.gpu_cards import Card, cards_of
from pipeline.training.gpu_plan import (
    LEAST_CHUNK,
    SHARE,
    CardPlan,
    even_shares,
    in_turn,
    largest_scale,
    least_need,
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
    """Return the bytes that images may take on each GPU that can hold a fold, None without GPUs."""
    if not cards:
        return None
    if memory is None:
        return int(DEVICE_SHARE * max(card.free for card in cards))
    inference = memory.inference(min(LEAST_CHUNK, memory.rows))
    fold = memory.fixed + max(memory.training(memory.batch), inference)
    left = [int(SHARE * card.free) - fold for card in cards]
    return min((room for room in left if room > 0), default=0)


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
    largest = max(cards, key=lambda card: card.free)
    need = least_need(memory)
    scale = largest_scale(memory, largest)
    sides = [int(side * scale) // 32 * 32 for side in (run.preprocess.width, run.preprocess.height)]
    cure = f"--img-size {sides[0]}x{sides[1]} would fit, or " if min(sides) else ""
    raise UserError(
        f"--img-size {run.config.model.img_size}: a fold needs {need / 1e9:.1f} GB of GPU memory"
        f" with the smallest passes, and {largest.name} has {largest.free / 1e9:.1f} GB free;"
        f" {cure}pass a smaller --batch-size or --backbone, or --device cpu"
    )


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
        plans = _measured(job, plans, num_todo)
    for plan in plans:
        job.say(plan.line)
    places = in_turn([plan.at_once for plan in plans])[:num_todo]
    if at_once is not None and len(places) < at_once:
        job.say(
            f"--parallel-folds {at_once}: {len(places)} at the same time, as no more fit into GPU"
            " memory with whole batches"
        )
    is_only_one = len(cards) == len(places) == 1
    return [
        FoldProcess(
            device=machine.device if is_only_one else plan.card.name,
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


def _measured(job: TrainingJob, plans: Sequence[CardPlan], num_todo: int) -> tuple[CardPlan, ...]:
    """Return the plans with the measured memory of a fold, and with fewer folds if it needs them.

    It is measured where folds share a GPU, once per kind of GPU and limits.
    """
    sizes: dict[tuple[str, Limits], int] = {}
    found = []
    most = []
    for plan in plans:
        key = (plan.card.title, plan.limits)
        if plan.at_once > 1 and key not in sizes:
            sizes[key] = measure_fold(job, plan.card.name, plan.limits)
        if plan.at_once > 1:
            plan = dataclasses.replace(plan, fold=sizes[key], measured=True)
        room = SHARE * plan.card.free - plan.images - CONTEXT
        most.append(max(1, min(plan.at_once, int(room // plan.fold))))
        found.append(plan)
    shares = even_shares(most, num_todo)
    return tuple(
        dataclasses.replace(plan, at_once=share)
        for plan, share in zip(found, shares, strict=True)
        if share
    )


def _uncounted(
    job: TrainingJob, cards: Sequence[Card], num_todo: int, at_once: int | None
) -> list[FoldProcess]:
    """Return the processes of a job whose memory cannot be counted but measured."""
    cards = sorted(cards, key=lambda card: card.free, reverse=True)
    most = [1 if card.alone else num_todo for card in cards]
    if at_once is None:
        fold = measure_fold(job, cards[0].name, Limits()) + job.feeder.source.device_bytes
        most = [
            min(one, max(1, int(SHARE * card.free // fold)))
            for one, card in zip(most, cards, strict=True)
        ]
    places = in_turn(even_shares(most, at_once or num_todo))
    if len(cards) == len(places) == 1:
        return [FoldProcess(device=job.run.config.machine.device)]
    return [FoldProcess(device=cards[place].name) for place in places]


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
    once = resolved(with_rate(config, job.run.rates), epochs=1, warmup_epochs=0.0)
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
    # Whatever an epoch holds is let go at once.
    deque(fit.epochs(batches), maxlen=0)
    if limits.releases:
        torch.cuda.empty_cache()
    batches = blank(config.infer.validation_batch_size, preprocess.width, preprocess.height)
    chunks = Chunks(job.say, most=limits.chunk)
    predict(model, batches, preprocess, compute, [lambda images: images], chunks=chunks)
    peak = torch.cuda.max_memory_reserved(compute.device) - before
    del model, fit
    torch.cuda.empty_cache()
    return peak + CONTEXT
