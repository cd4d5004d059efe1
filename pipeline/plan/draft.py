"""Facts of the data and the machine, collected while a plan is made."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from foldblend.cli import Say, quiet
from foldblend.cluster.cluster import opened
from foldblend.errors import UserError, in_a_line, listed
from foldblend.failures import device_failure, memory_failure
from foldblend.files import home, is_file
from foldblend.flags import flags_of
from foldblend.plugins import is_custom, is_downloaded
from foldblend.runs.folder import is_in_use
from folds.data.manifest import slug
from pipeline.cluster.speed import room_for, speed_on
from pipeline.config.run import RunConfig, parse_size
from pipeline.config.settings import flatten, replace
from pipeline.config.trust import own_parts
from pipeline.job import Prepared
from pipeline.models.backbones import check_backbone
from pipeline.models.pretrained import HubUnreachableError
from pipeline.plan.config import PlanConfig
from pipeline.plan.estimate import START, Size, Speed
from pipeline.plan.fingerprint import Fingerprint, fingerprint
from pipeline.plan.measure import size_of_data, speed_of
from pipeline.plan.plan_file import OF_THE_PLAN, Plan, changed_settings, read_plan
from pipeline.plan.portfolio import BACKBONES, Backbone
from pipeline.plan.sizes import fitted_size
from pipeline.plan.speeds import speeds_in
from pipeline.prepare import prepare
from pipeline.time_limit import Clock, TimeUp

__all__ = [
    "Draft",
    "backbones_of",
    "common_settings",
    "freezes",
    "has_attributes",
    "measure",
    "sizes_of",
    "tunes",
    "usual_pixels",
]


# Seconds that a backbone may take in any case to be loaded and measured, and the longest time
# between the start of a run and its first image that is believed: engines are measured in it.
LEAST_MEASURING = 30.0
MOST_START = 10.0


@dataclass(slots=True)
class Draft:
    """The facts that a plan is made from, collected one after the other."""

    config: PlanConfig
    clock: Clock
    say: Say
    speeds: dict[str, Speed] = field(default_factory=dict)
    """Speeds of the backbones that can be tried."""
    known: dict[str, Speed] = field(default_factory=dict)
    """Speeds that an earlier call has measured."""
    before: Plan | None = None
    """The plan of that call."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Backbones that cannot be tried, with the reason."""
    seconds_of_measuring: float = 0.0
    """Seconds that the first measurement took."""
    first: Prepared | None = None
    """The first run that was prepared."""
    facts: Fingerprint | None = None

    def begin(self, run: Prepared) -> None:
        """Take the first run that was prepared, and what is known of an earlier plan."""
        self.first = run
        self.facts = fingerprint(run.manifest)
        empty = Plan(name=self.name, output=self.config.output.output, settings={}, runs=())
        if is_in_use(empty.runs_folder):
            raise UserError(
                f"{empty.runs_folder}: another process makes this plan; wait for it, or pass"
                " another --name"
            )
        if is_file(empty.file):
            self.before = read_plan(empty.file, cure="mend it, or pass another --name")
            _check_before(self.before, self.config)
            self.known = speeds_in(self.before.about.get("speeds"), run.config.machine)

    @property
    def name(self) -> str:
        """Name of the plan."""
        return self.config.output.name or slug(f"{self.data.name}_plan")

    @property
    def run(self) -> Prepared:
        assert self.first is not None
        return self.first

    @property
    def device(self) -> str:
        """Kind of device of the runs: cpu or cuda."""
        return self.run.config.machine.device.partition(":")[0]

    @property
    def size(self) -> Size:
        machine = self.config.machine
        with opened(machine.backend, machine.ray_address, quiet) as cluster:
            at_once = 1 if cluster is None else room_for(cluster, self.run)
        return dataclasses.replace(size_of_data(self.run), num_at_once=at_once)

    @property
    def data(self) -> Fingerprint:
        assert self.facts is not None
        return self.facts


def _check_before(before: Plan, config: RunConfig) -> None:
    """Raise UserError if an earlier plan of this name is another one, or names untyped code."""
    changed = changed_settings(before, common_settings(config))
    if changed:
        raise UserError(
            f"{before.file}: has runs with other settings ({listed(changed)}); pass the same flags,"
            " --plan with this file, or another --name"
        )
    typed = {name for _, name in own_parts(config)}
    for run in before.runs:
        for setting, name in own_parts(before.config_of(run)):
            if name not in typed:
                raise UserError(
                    f"{before.file}: {setting} {name} of run {run.name} is code of its own; type"
                    f" --plan {before.file} to import it"
                )


def common_settings(config: RunConfig) -> dict[str, Any]:
    """Return the settings that were typed for all runs of a plan; paths are absolute."""
    given = flatten(config)
    paths = {name for name, about in flags_of(RunConfig).items() if about.path} | {"data", "csv"}
    settings = {}
    for name in given:
        value = given[name]
        if name not in config.typed or name in OF_THE_PLAN:
            continue
        if name in paths and isinstance(value, str) and home(value).exists():
            value = str(home(value).resolve())
        settings[name] = value
    return settings


def backbones_of(config: RunConfig) -> tuple[Backbone, ...]:
    """Return the backbones that a plan may try: the one that was typed, or all of the portfolio."""
    if "backbone" not in config.typed:
        return BACKBONES
    name = config.model.backbone
    known = next((one for one in BACKBONES if name in (one.name, one.name.partition(".")[0])), None)
    if known is not None:
        return (dataclasses.replace(known, name=name),)
    return (Backbone(name, "other", BACKBONES[0].top1, multiple=32, square=True),)


def _is_own(backbone: str) -> bool:
    return is_custom(backbone) and not is_downloaded(backbone)


def freezes(config: RunConfig, backbone: Backbone) -> bool:
    """Return whether the plan has runs with this backbone frozen."""
    allowed = "finetune" not in config.typed or config.train.frozen
    return allowed and not _is_own(backbone.name) and config.model.head == "joint"


def tunes(config: RunConfig) -> bool:
    """Return whether the plan has fine-tuned runs."""
    return "finetune" not in config.typed or not config.train.frozen


def has_attributes(draft: Draft) -> bool:
    """Return whether fine-tuned runs get one head for each attribute."""
    known = draft.facts is not None and bool(draft.facts.attributes)
    return known and "head" not in draft.config.typed


def measure(draft: Draft, backbone: Backbone, *, learns: bool, most: float = 0.0) -> None:
    """Measure a backbone at its usual size, or at --img-size; note why it cannot be tried.

    What an earlier call of the same plan has measured is taken from its plan.yaml. All but the
    first backbone are given up after `most` seconds.
    """
    first = draft.first is None
    began = draft.clock.spent
    config = _config_of(draft, backbone, learns=learns)
    # A backbone whose weights come slowly must not take the time of the runs.
    most = max(LEAST_MEASURING, draft.clock.left if first else most)
    try:
        with draft.clock.alarm_in(most):
            known = _speed(draft, backbone, config, learns=learns)
    except TimeUp:
        if first:
            raise UserError(
                f"--time-limit {draft.config.planning.time_limit}: has passed before"
                f" {backbone.name} was measured; pass a longer one, a smaller --img-size or another"
                " --backbone"
            ) from None
        draft.left_out[backbone.name] = "loading and measuring it would take too long"
        return
    except HubUnreachableError:
        if first:
            raise
        draft.left_out[backbone.name] = "its weights are not here, and the hub cannot be reached"
        return
    except (UserError, RuntimeError, MemoryError) as error:
        # What is wrong with the data or with a typed flag is wrong for every backbone.
        if first:
            raise
        known_failure = device_failure(error) or memory_failure(error)
        draft.left_out[backbone.name] = str(known_failure or in_a_line(error))
        return
    draft.speeds[backbone.name] = known
    if first:
        draft.seconds_of_measuring = draft.clock.spent - began


def _speed(draft: Draft, backbone: Backbone, config: RunConfig, *, learns: bool) -> Speed:
    """Return the speed of a backbone, from an earlier call or measured now."""

    def is_enough(known: Speed | None) -> TypeGuard[Speed]:
        return known is not None and not (learns and known.train is None)

    known = draft.known.get(backbone.name)
    if draft.first is not None and is_enough(known):
        return known
    first = draft.first is None
    start = draft.clock.spent
    run = prepare(config, draft.say if first else quiet)
    if first:
        draft.begin(run)
        known = draft.known.get(backbone.name)
        if is_enough(known):
            return known
    # Engines are measured once in a while, and loading torch is done: both are no part of a run.
    spent = min(MOST_START, draft.clock.spent - start)
    machine = config.machine
    with opened(machine.backend, machine.ray_address, quiet) as cluster:
        if cluster is None:
            found = speed_of(run, learns=learns)
        else:
            found = speed_on(cluster, run, learns=learns)
    return dataclasses.replace(found, start=max(START, spent))


def _config_of(draft: Draft, backbone: Backbone, *, learns: bool) -> RunConfig:
    """Return the settings of a run that is measured; it has no folder."""
    typed = draft.config
    size = _measured_size(draft, backbone)
    chosen: dict[str, Any] = {"backbone": backbone.name, "img_size": size}
    if not learns:
        chosen |= {"finetune": "head"}
    elif "finetune" not in typed.typed:
        chosen |= {"finetune": "full"}
    if learns and has_attributes(draft):
        chosen |= {"head": "attributes"}
    settings = {**common_settings(typed), **chosen, "output": typed.output.output}
    return replace(RunConfig(), **settings, dry_run=False, resume=False)


def usual_pixels(backbone: Backbone) -> int:
    """Return the pixels of the input that a backbone was trained with."""
    record = check_backbone(backbone.name)
    _, height, width = record["input_size"]
    return int(height) * int(width)


def _measured_size(draft: Draft, backbone: Backbone) -> str | None:
    if "img_size" in draft.config.typed:
        return draft.config.model.img_size
    if backbone.square or draft.first is None:
        return None
    return sized(draft, backbone, 1.0)


def sized(draft: Draft, backbone: Backbone, scale: float) -> str:
    """Return the input size of a backbone with so many times its usual pixels."""
    pixels = usual_pixels(backbone) * scale
    shape = (draft.data.width, draft.data.height)
    width, height = fitted_size(pixels, shape, multiple=backbone.multiple)
    return f"{width}x{height}"


def sizes_of(draft: Draft, backbone: Backbone, scales: Sequence[float]) -> list[str]:
    """Return the input sizes that are tried with a backbone, without equal ones."""
    typed = draft.config.model.img_size
    if "img_size" in draft.config.typed and typed is not None:
        return ["{}x{}".format(*parse_size(typed))]
    if backbone.square:
        side = round(math.sqrt(usual_pixels(backbone)))
        return [f"{side}x{side}"]
    return [*dict.fromkeys(sized(draft, backbone, scale) for scale in scales)]
