"""Making of a plan: measure, choose what fits into the time, and name the runs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

from foldblend.errors import UserError
from foldblend.failures import check_room
from foldblend.progress import duration
from folds.data.manifest import slug
from pipeline.config.identity import identity_hash
from pipeline.config.run import parse_size
from pipeline.data.images import free_ram
from pipeline.plan.choices import Choices
from pipeline.plan.done import progress_of
from pipeline.plan.draft import (
    Draft,
    backbones_of,
    common_settings,
    freezes,
    has_attributes,
    measure,
    sizes_of,
    tunes,
    usual_pixels,
)
from pipeline.plan.estimate import (
    FIRST_BLEND,
    Speed,
    frozen_seconds,
    reserve_for,
    run_seconds,
)
from pipeline.plan.plan_file import Plan, PlannedRun, run_name
from pipeline.plan.portfolio import Backbone, Candidate, in_order
from pipeline.plan.speeds import speeds_as_data

__all__ = ["make_plan"]

# Shares of the time: for measuring, for frozen runs, and what fine-tuned runs leave for views and
# the blend.
MEASURING = 0.04
LEAST_MEASURING = 20.0  # seconds, if that is not more than a tenth of the time
FROZEN = 0.25
LEFT_FOR_VIEWS = 0.1
# Input sizes in pixels, as multiples of what a backbone was trained with.
FROZEN_SIZES = (1.0, 2.0)
TUNED_SIZES = {"cpu": (0.5, 1.0), "cuda": (1.0, 2.0)}
MOST_FROZEN = 6
NUM_SEEDS = 3
# A training step may take this share of the free memory.
MEMORY_SHARE = 0.8


def candidates(draft: Draft, *, fine_tuned: bool) -> Iterator[Candidate]:
    """Yield the runs that the plan may make with the backbones that were measured."""
    device = draft.device
    scales = TUNED_SIZES[device] if fine_tuned else FROZEN_SIZES
    free = free_ram()
    for backbone in backbones_of(draft.config):
        measured = draft.speeds.get(backbone.name)
        allowed = tunes(draft.config) if fine_tuned else freezes(draft.config, backbone)
        if measured is None or not allowed or (fine_tuned and measured.train is None):
            continue
        for size in sizes_of(draft, backbone, scales):
            width, height = parse_size(size)
            speed = measured.at(width * height)
            needed = speed.memory if device == "cpu" and fine_tuned else None
            if needed is not None and needed > MEMORY_SHARE * free:
                draft.left_out[f"{backbone.name} at {size}"] = (
                    f"a training step needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free"
                )
                continue
            yield Candidate(
                backbone=backbone,
                width=width,
                height=height,
                usual_pixels=usual_pixels(backbone),
                fine_tuned=fine_tuned,
                seconds=_seconds(draft, speed, fine_tuned=fine_tuned),
            )


def _seconds(draft: Draft, speed: Speed, *, fine_tuned: bool) -> float:
    if not fine_tuned:
        return frozen_seconds(draft.size, speed)
    return run_seconds(draft.size, speed, draft.run.config.train.epochs)


def planned(draft: Draft, candidate: Candidate, *, seed: int | None = None) -> PlannedRun:
    """Return a candidate as a run of the plan, with settings that decide its bits."""
    backbone = candidate.backbone.name
    settings: dict[str, Any] = {"backbone": backbone, "img_size": candidate.size}
    kind = "head"
    if candidate.fine_tuned:
        kind = "full" if "finetune" not in draft.config.typed else draft.config.train.finetune
        if has_attributes(draft):
            settings["head"] = "attributes"
    settings["finetune"] = kind
    if "infer_engine" not in draft.config.typed:
        settings["infer_engine"] = draft.speeds[backbone].engine
    if "threads" not in draft.config.typed:
        settings["threads"] = draft.run.config.machine.threads
    parts = [slug(backbone.partition(".")[0]), candidate.size, kind]
    if seed is not None:
        settings["seed"] = seed
        parts.append(f"seed{seed}")
    common = common_settings(draft.config)
    own = {name: value for name, value in settings.items() if common.get(name) != value}
    return PlannedRun(name=run_name(*parts), settings=own, seconds=candidate.seconds)


def make_plan(draft: Draft) -> Plan:
    """Measure candidates, and return the plan of those that fit into the time.

    Raises
    ------
    UserError
        If the time does not suffice for the first run, no backbone can be tried, or the disk will
        not hold the runs.
    """
    config = draft.config
    limit = draft.clock.limit
    backbones = backbones_of(config)
    first, *others = backbones
    frozen_first = freezes(config, first)
    measure(draft, first, learns=not frozen_first)
    options = [*candidates(draft, fine_tuned=not frozen_first)]
    if not options:
        raise UserError(f"--backbone {first.name}: {'; '.join(draft.left_out.values())}")
    quickest = min(options, key=lambda one: one.seconds)
    needed = draft.clock.spent + quickest.seconds + reserve_for(FIRST_BLEND)
    if needed > limit:
        raise UserError(
            f"--time-limit {config.planning.time_limit}: one run"
            f" ({quickest.backbone.name} at {quickest.size}"
            f"{', frozen' if frozen_first else ''}) takes about {duration(needed)} here, with its"
            f" start and report; pass at least {_round_up(needed)}"
        )
    _measure_more(draft, first, others)
    chosen = _choose(draft, quickest)
    plan = Plan(
        name=draft.name,
        output=config.output.output,
        settings=common_settings(config),
        runs=tuple(_with_earlier(draft, chosen)),
        time_limit=config.planning.time_limit,
        stop_losers=config.planning.stop_losers,
        views=config.planning.views,
        about=_about(draft),
    )
    _check_disk(draft, plan)
    return plan


def _round_up(seconds: float) -> str:
    """Return a time limit that suffices, in whole half minutes."""
    halves = math.ceil(1.3 * seconds / 30)
    return f"{halves // 2}m" if halves % 2 == 0 else f"{30 * halves}s"


def _measure_more(draft: Draft, first: Backbone, others: Sequence[Backbone]) -> None:
    """Measure training, and further backbones, while that takes a small share of the time."""
    clock = draft.clock
    end = clock.spent + max(MEASURING * clock.limit, min(LEAST_MEASURING, clock.limit / 10))
    cost = draft.seconds_of_measuring
    learns = tunes(draft.config) and _may_fit(draft, first)
    if learns and draft.speeds[first.name].train is None and clock.spent + cost <= end:
        measure(draft, first, learns=True, most=end - clock.spent)
    for backbone in others:
        if clock.spent + cost > end:
            draft.left_out.setdefault(backbone.name, "the time is too short to measure them")
            continue
        before = clock.spent
        measure(draft, backbone, learns=learns, most=end - before)
        cost = clock.spent - before


def _may_fit(draft: Draft, first: Backbone) -> bool:
    """Return whether the smallest fine-tuned run may fit into the time.

    A training step takes at least three times as long as a forward pass: the backward pass alone
    takes two.
    """
    speed = draft.speeds[first.name]
    pixels = round(min(TUNED_SIZES[draft.device]) * speed.pixels)
    least = dataclasses.replace(speed, train=3 * speed.infer).at(pixels)
    seconds = run_seconds(draft.size, least, draft.run.config.train.epochs)
    return seconds <= draft.clock.left


def _choose(draft: Draft, first: Candidate) -> list[PlannedRun]:
    """Return the runs in the order in which they are made."""
    left = draft.clock.left - reserve_for(FIRST_BLEND) + _seconds_of_done(draft)
    if first.fine_tuned:
        frozen: list[Candidate] = []
    else:
        rest = [one for one in candidates(draft, fine_tuned=False) if not _equal(one, first)]
        room = max(0.0, _share_of_frozen(draft, left) * left - first.seconds)
        more = in_order(rest, before=[first], seconds=room)
        frozen = [first, *more][:MOST_FROZEN]
    left -= sum(one.seconds for one in frozen)
    room = left * (1 - LEFT_FOR_VIEWS * (draft.config.planning.views == "auto"))
    tuned = in_order([*candidates(draft, fine_tuned=True)], before=frozen, seconds=room)
    runs = [planned(draft, one) for one in [*frozen, *tuned]]
    room -= sum(one.seconds for one in tuned)
    return [*runs, *_seeds(draft, tuned, room)]


def _share_of_frozen(draft: Draft, left: float) -> float:
    """Return the share of the time that frozen runs may take: most of it where no other fits."""
    seconds = [one.seconds for one in candidates(draft, fine_tuned=True)]
    rest = 1 - FROZEN - LEFT_FOR_VIEWS
    return FROZEN if min(seconds, default=math.inf) <= rest * left else FROZEN + rest


def _seconds_of_done(draft: Draft) -> float:
    """Return the estimated seconds of an earlier plan's runs that need no more time."""
    before = draft.before
    if before is None:
        return 0.0
    stopped = Choices.read(before).stopped
    return sum(
        run.seconds or 0.0
        for run in before.runs
        if run.name in stopped or progress_of(before.runs_folder / run.name).state == "done"
    )


def _with_earlier(draft: Draft, chosen: Sequence[PlannedRun]) -> Iterator[PlannedRun]:
    """Yield the runs of an earlier plan of this name as they are, and then new ones."""
    before = draft.before
    if before is None:
        yield from chosen
        return
    yield from before.runs
    # A run that was renamed in plan.yaml is known by its settings.
    known = {identity_hash(before.config_of(run)) for run in before.runs}
    for run in chosen:
        if run.name not in before.names and identity_hash(before.config_of(run)) not in known:
            yield run


def _equal(one: Candidate, other: Candidate) -> bool:
    return (one.backbone.name, one.size, one.fine_tuned) == (
        other.backbone.name,
        other.size,
        other.fine_tuned,
    )


def _seeds(draft: Draft, tuned: Sequence[Candidate], room: float) -> Iterator[PlannedRun]:
    """Yield fine-tuned runs with other seeds, the best first, while there is time for them."""
    start = draft.run.config.train.seed
    for seed in range(start + 1, start + NUM_SEEDS):
        for one in reversed(tuned):
            if one.seconds <= room:
                room -= one.seconds
                yield planned(draft, one, seed=seed)


def _about(draft: Draft) -> dict[str, Any]:
    """Return what the plan was made from, for plan.yaml and the report."""
    return {
        "data": draft.data.as_dict(),
        "speeds": speeds_as_data(draft.known | draft.speeds, draft.run.config.machine),
        "left_out": dict(draft.left_out),
    }


def _check_disk(draft: Draft, plan: Plan) -> None:
    """Raise UserError if the disk will not hold the runs that are not done."""
    check_room(plan.runs_folder, bytes_of_runs(draft, plan))


# Bytes of a logit in a parquet file, and of a report with its thumbnails.
LOGIT_BYTES = 4
REPORT_BYTES = 5e6
# Weights, their average and the two numbers that Adam keeps for each, in a checkpoint.
CHECKPOINT = 4


def bytes_of_runs(draft: Draft, plan: Plan) -> int:
    """Return the bytes that the runs of a plan will take which are not done."""
    size = draft.size
    rows = size.num_train * size.num_repeats + size.num_test * size.num_models
    tables = rows * size.num_classes * LOGIT_BYTES * 2 + REPORT_BYTES
    total = 0.0
    for run in plan.runs:
        if progress_of(plan.runs_folder / run.name).state == "done":
            continue
        backbone = str(run.settings.get("backbone", draft.config.model.backbone))
        weights = draft.speeds[backbone].weights if backbone in draft.speeds else 0
        models = 1 if plan.is_frozen(run) else size.num_models + CHECKPOINT
        total += models * weights + tables
    return int(total)
