"""The checked inputs of a search: settings, space, data, folds and the place of its result."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from foldblend.cli import Say
from foldblend.errors import UserError, require
from foldblend.files import home
from foldblend.flags import flag_name, flags_of
from foldblend.plugins import source_hash
from foldblend.reading import open_regular
from pipeline.checks import check_flags, needs_of
from pipeline.config.identity import identity_settings
from pipeline.config.run import MachineConfig, RunConfig
from pipeline.config.settings import flatten, replace
from pipeline.config.trust import check_typed
from pipeline.engines.registry import TORCH
from pipeline.job import Prepared
from pipeline.models.backbones import check_backbone
from pipeline.prepare import prepare
from pipeline.rates_of_run import OF_RATES
from pipeline.search.config import SearchConfig
from pipeline.search.record import AUTO_DECIDED, OWN_MODULES, WEIGHTS
from pipeline.search.scoring import Scoring
from pipeline.search.space import Space, read_space
from pipeline.search.winner import check_place
from pipeline.training.optim import check_optimizer

__all__ = ["Search", "set_up"]

# Parts of the run key that the settings of a trial may change, or that have an entry of their own.
# Whether files have changed is told by `_contents`.
OF_SETTINGS = ("configuration", "weights", "own modules", "backbone", "fold file")
# Settings that are drawn to see which of them have an effect.
NUM_DRAWN = 50
# Settings that may change the last bits of logits only, so that a study can go on elsewhere.
OF_BITS = (
    "validation_batch_size",
    "infer_engine",
    *(one.name for one in dataclasses.fields(MachineConfig)),
)


@dataclass(frozen=True)
class Search:
    """A search whose inputs are checked."""

    settings: SearchConfig
    base: RunConfig
    """The settings of the command."""
    space: Space
    run: Prepared
    """The run with the settings of the command."""
    folder: Path
    """Folder of the study."""
    place: Path
    """Folder of the run with the best settings."""
    scoring: Scoring
    say: Say
    rates: Mapping[str, Any] = field(default_factory=dict)
    """What auto decided when the study began, where its table has changed since."""

    @property
    def engine(self) -> str:
        """The engine of inference of all trials, where --infer-engine is auto."""
        # Another backbone may not run in the engine that is the fastest for this one.
        return TORCH if "backbone" in self.space.of else self.run.config.infer.infer_engine

    def record(self) -> dict[str, Any]:
        """Return what the study compares, by which a study that goes on is recognised."""
        data = {name: one for name, one in self.run.run_key.items() if name not in OF_SETTINGS}
        given = identity_settings(flatten(self.run.config))
        away = {*OF_BITS, *self.space.of}
        fixed = {name: value for name, value in given.items() if name not in away}
        record = {
            "data set": _hash(json.dumps(data, sort_keys=True).encode()),
            "folds": _hash(self.run.fold_RN.tobytes()),
            "metric": self.scoring.metric.title,
            "fixed settings": fixed,
            "space": self.space.record(),
            # These may be decided by another table later (see `going_on`).
            AUTO_DECIDED: {
                name: flatten(self.run.config)[name]
                for name in self.run.rates.get("auto", [])
                if name not in self.space.of
            },
        }
        record |= _contents(self.base, self.space)
        # As it is read back.
        found: dict[str, Any] = json.loads(json.dumps(record))
        return found

    def going_on(self, record: Mapping[str, Any]) -> Search:
        """Return the search with what auto decided when its study began, by the study's record."""
        before = record.get(AUTO_DECIDED, {})
        now = self.record()[AUTO_DECIDED]
        # Where such settings vary, each trial has rates of its own.
        varies = self.space.of.keys() & {*OF_RATES}
        changed = {name: before[name] for name in now if before.get(name, now[name]) != now[name]}
        return dataclasses.replace(self, rates={} if varies else changed)

    def config(self, own: Mapping[str, Any], *, engine: str) -> RunConfig:
        """Return the settings of a trial."""
        given = self.base.infer.infer_engine
        return replace(
            self.base,
            **self.rates,
            **own,
            infer_engine=engine if given == "auto" else given,
            output=str(self.folder / "trials"),
            name="trial",
            config=None,
        )


def _contents(base: RunConfig, space: Space) -> dict[str, str]:
    """Return hashes of the weights files and of the own modules of all settings of a search."""
    given = flatten(base)
    values: dict[str, list[Any]] = {name: [value] for name, value in given.items()}
    values |= {name: one.samples() for name, one in space.of.items()}
    files = [_hash(home(file).read_bytes()) for file in values["weights"] if file is not None]
    parts = {
        part
        for name, about in flags_of(RunConfig).items()
        if about.parts is not None
        for value in values[name]
        for part in about.parts(value)
    }
    own = source_hash(sorted(parts))
    found = {WEIGHTS: _hash(json.dumps(sorted(files)).encode())} if files else {}
    return found if own is None else found | {OWN_MODULES: own}


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _check(config: RunConfig) -> None:
    """Raise UserError for settings that no run can have, before the data are read."""
    refusal = _refusal_of(config.model.backbone, config.train.opt)
    require(refusal is None, str(refusal))
    if config.model.weights is not None:
        open_regular(home(config.model.weights), cure="check --weights").close()
    check_flags(config)


@functools.cache
def _refusal_of(backbone: str, optimizer: str) -> str | None:
    """Return why names are refused, or None; looking for similar names takes a while."""
    try:
        check_backbone(backbone)
        check_optimizer(optimizer)
    except UserError as error:
        return str(error)
    return None


def _without_effect(space: Space, base: RunConfig) -> list[str]:
    """Return a line for each setting of the space that no trial can be expected to depend on."""
    rng = np.random.default_rng(0)
    configs = []
    for _ in range(NUM_DRAWN):
        try:
            configs.append(replace(base, **{name: one.draw(rng) for name, one in space.of.items()}))
        except UserError:  # such a trial fails
            continue
    needs = {name: [needs_of(name, config) for config in configs] for name in space.of}
    return [
        f"{flag_name(name)}: has no effect in this search: it needs {found[0]}"
        for name, found in needs.items()
        if found and None not in found
    ]


def set_up(search: SearchConfig, config: RunConfig, say: Say) -> Search:
    """Return a search whose settings, space and data are checked; nothing is written.

    Raises UserError for the first problem that the user must fix.
    """
    # Before names are looked up, which imports own parts.
    check_typed(config)
    output = config.output
    require(output.only_folds is None, "--only-folds: a search scores all folds; leave it out")
    require(not config.train.soup, "--soup: a trial is one model per fold; make a soup afterwards")
    require(config.train.seeds == 1, "--seeds: a trial is one run; train several seeds afterwards")
    labels = config.labels
    require(
        labels.source is None,
        f"{labels.source_flag}: a search tries no labels of other models; leave it out, and train a"
        " student with the settings that the search finds",
    )
    require(output.resume, "--no-resume: a study goes on; pass another --study to start a new one")
    space = read_space(search.space_file, config, check=_check)
    require(
        not search.nested or (config.train.frozen and "finetune" not in space.of),
        "--nested: needs --finetune head, with which a trial takes seconds",
    )
    for line in _without_effect(space, config):
        say(line)
    # An ordinary run of the default name is none of ours, so its settings do not count.
    run = prepare(replace(config, resume=False, dry_run=False), say)
    require(
        not search.nested or run.num_folds >= 3,
        f"--nested: needs 3 or more folds, and there are {run.num_folds}: a search without one is"
        " a cross-validation on the others; pass --folds 3 or more",
    )
    name = search.study or f"study_{run.config.output.name}"
    folder = Path(output.output) / name
    place = Path(output.output) / (output.name or f"{name}_best")
    require(folder != place, f"--study {name}: is the name of the run as well; pass another --name")
    require(not (folder / "run.json").exists(), f"{folder}: is a run folder; pass another --study")
    check_place(place, name)
    return Search(search, config, space, run, folder, place, Scoring.of(run), say)
