"""Learning rate, layer-wise decay and stochastic depth of a run, where auto decides them."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from foldblend.cli import Say
from foldblend.errors import UserError, counted, listed
from foldblend.files import is_file
from foldblend.flags import flag_name
from foldblend.runs.info import RatesInfo
from foldblend.runs.run import Run
from foldblend.runs.schema import read_info
from pipeline.config.resolved import ResolvedConfig, resolved
from pipeline.config.run import RunConfig
from pipeline.config.settings import flatten, replace
from pipeline.config.train import AUTO, FIND, check_min_lr
from pipeline.models.family import family_of, layers_of
from pipeline.models.timm_import import timm
from pipeline.training.rates import decay_of, kind_of, rate_of

__all__ = ["OF_RATES", "Before", "Rates", "auto_again", "decide_rates", "keep_rates", "with_rate"]

NAMES: tuple[Literal["lr", "layer_decay", "drop_path"], ...] = ("lr", "layer_decay", "drop_path")
# Settings that the decision depends on.
OF_RATES = (
    "backbone",
    "pretrained",
    "weights",
    "finetune",
    "opt",
    "batch_size",
    "grad_accum_steps",
)
# What frozen runs, which have no use for them, have in all versions.
UNUSED: dict[str, Any] = {"lr": 1e-3, "layer_decay": None, "drop_path": None}


@dataclass(frozen=True, slots=True)
class Before:
    """The run that is continued; empty for a new one."""

    written: Mapping[Any, Any] = field(default_factory=dict)
    """Its config.yaml."""
    rates: RatesInfo = field(default_factory=RatesInfo)
    """What auto decided for it."""

    @classmethod
    def of(cls, folder: Path) -> Before:
        """Return the run in a folder, which need not exist."""
        try:
            info = read_info(folder) if is_file(folder / "run.json") else None
        except UserError:  # opening the folder raises it again, with what to do
            info = None
        return cls(Run(folder).settings, RatesInfo() if info is None else info.get("rates", {}))

    def kept(self, given: Mapping[str, Any]) -> list[str]:
        """Return the settings that auto decided for the run and that it still has."""
        return [
            name
            for name in self.rates.get("auto", [])
            if name in self.written and given[name] == self.written[name]
        ]


def auto_again(config: RunConfig, before: Before, say: Say) -> RunConfig:
    """Return the settings with auto for what it decided for another backbone, and say so.

    The config.yaml of a run, given as --config, has the numbers that auto decided for that run.

    Parameters
    ----------
    config
        The settings as given.
    before
        The run that is continued; the numbers that it has stay.
    say
        Prints which settings are decided again, and why.
    """
    given = flatten(config)
    has = {name for name in before.written if given.get(name) == before.written[name]}
    again: dict[str, str] = {}
    changed: list[str] = []
    # All files are read, but there is only one: that of --config.
    for file in {config.read_back[name] for name in NAMES if name in config.read_back}:
        source = Before.of(Path(file).resolve().parent)
        changed += [name for name in OF_RATES if given[name] != source.written.get(name)]
        again |= {
            name: AUTO
            for name in source.kept(given)
            if config.read_back.get(name) == file and name not in has
        }
    if not (again and changed):
        return config
    others = listed(flag_name(name) for name in changed)
    say(
        f"{listed(map(flag_name, again))}: auto decides again, for another {others} than the file's"
    )
    return dataclasses.replace(replace(config, **again), typed=config.typed)


def keep_rates(config: RunConfig, before: Before) -> RunConfig:
    """Return the settings with the numbers that auto decided when the run was started.

    The run keeps them where the table of --lr auto has changed. Numbers that the user gave then are
    not kept: the same command gives them again.
    """
    given = flatten(config)
    kept = {
        name: before.written[name]
        for name in before.rates.get("auto", [])
        if name in before.written and given[name] == AUTO
    }
    return dataclasses.replace(replace(config, **kept), typed=config.typed) if kept else config


@dataclass(frozen=True, slots=True)
class Rates:
    """Decided learning rate, layer-wise decay and stochastic depth of a run."""

    settings: dict[str, Any]
    """The settings that are decided now, by name."""
    record: RatesInfo
    """What run.json keeps; empty where auto decides nothing."""
    told: Mapping[str, Any] = field(default_factory=dict)
    """The numbers that the log names, by the name of the setting."""
    idle: str = ""
    """A line of the log on a setting that has no effect."""

    def without_depth(self) -> Rates:
        """Return the same for a backbone that has no stochastic depth."""
        none = {"drop_path": None}
        return dataclasses.replace(self, settings=self.settings | none, told={**self.told, **none})

    @property
    def line(self) -> str:
        """The line of the log on what was decided; empty for nothing."""
        names = {"lr": "learning rate", "layer_decay": "layer decay", "drop_path": "drop path"}
        parts = [
            f"{names[name]} {self.told[name]:g}"
            for name in NAMES
            if self.told.get(name) is not None
        ]
        if "fallback" in self.record:
            rate = self.record["fallback"]
            parts.insert(0, f"learning rate: by a test in each fold, {rate:g} where it finds none")
        return f"{', '.join(parts)} (auto: {self.record['why']})" if parts else self.idle


def _own_rate(optimizer: str) -> float:
    """Return the default learning rate of one of timm's optimisers."""
    try:
        made = timm.optim.get_optimizer_class(optimizer, bind_defaults=False)
    except Exception:  # it needs a package or a GPU, which `check_schedule` says
        return 1e-3
    found = inspect.signature(made).parameters.get("lr")
    default = None if found is None else found.default
    return float(default) if isinstance(default, int | float) and default > 0 else 1e-3


def _weights(pretrained: bool | None) -> str:
    names = {True: "pretrained weights", False: "random weights", None: "weights of its own"}
    return names[pretrained]


def with_rate(config: ResolvedConfig, rates: RatesInfo) -> ResolvedConfig:
    """Return the settings with a number as learning rate: that of auto in place of find."""
    return resolved(config, lr=rates["fallback"]) if config.train.lr == FIND else config


def decide_rates(
    config: RunConfig,
    model: torch.nn.Module,
    *,
    pretrained: bool | None,
    num_rows: int,
    before: Before,
) -> Rates:
    """Decide the learning rate, layer-wise decay and stochastic depth that are auto.

    Parameters
    ----------
    config
        The settings, with those that the run has kept (see `keep_rates`).
    model
        A model of the run.
    pretrained
        Whether its weights are pretrained; None: a backbone of the user's own, which may load
        weights of its own. It gets the lower rate, and no decay.
    num_rows
        Training images of a fold, which a step has no more of.
    before
        The run that is continued.

    Raises
    ------
    UserError
        If --min-lr is not below the learning rate.
    """
    given = flatten(config)
    train = config.train
    if train.frozen:
        unused = {name: value for name, value in UNUSED.items() if given[name] in (AUTO, FIND)}
        idle = "--lr find has no effect here: it needs a --finetune other than head"
        return Rates(unused, RatesInfo(), idle=idle if given["lr"] == FIND else "")
    family = family_of(model)
    images = min((train.batch_size or 1) * train.grad_accum_steps, max(1, num_rows))
    own = _own_rate(train.opt)
    states = (True, False) if pretrained is None else (pretrained,)
    rate = min(
        rate_of(train.opt, family, images=images, pretrained=state, own=own) for state in states
    )
    if given["lr"] == before.written.get("lr") == FIND:
        rate = before.rates.get("fallback", rate)
    layers = layers_of(model)
    decay = decay_of(family, layers=layers) if pretrained and layers is not None else None
    values = {
        "lr": rate,
        "layer_decay": None if decay is None else decay.layer_decay,
        "drop_path": None if decay is None else decay.drop_path,
    }
    settings = {name: value for name, value in values.items() if given[name] == AUTO}
    if "lr" in settings or given["lr"] == FIND:
        check_min_lr(train.min_lr, rate, whence=f" (which --lr {given['lr']} takes)")
    kept = {name: given[name] for name in before.kept(given)}
    size = "" if kind_of(train.opt) is None else f", {counted(images, 'image')} per step"
    why = f"{family}, {_weights(pretrained)}, {train.opt}{size}"
    if kept:
        why = before.rates.get("why", why)
    auto = [name for name in NAMES if name in settings or name in kept]
    record = RatesInfo(auto=auto, why=why) if auto or given["lr"] == FIND else RatesInfo()
    if given["lr"] == FIND:
        record["fallback"] = rate
    return Rates(settings, record, told=kept | settings)
