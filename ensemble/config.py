"""The settings of a blend: defaults, then a blend.yaml, then flags."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
import yaml

from ensemble.methods.registry import METHODS
from foldblend.cli import check_name, early_value, parse_flags
from foldblend.errors import UserError, did_you_mean, listed, require
from foldblend.scores.metrics import check_metric

__all__ = [
    "ALLOWS",
    "AUTO",
    "DECIDES",
    "BlendConfig",
    "parse_blend_config",
    "parse_budget",
    "read_blend_file",
    "read_members",
]

AUTO = "auto"
MAY_BE = {
    "weights": (list, type(None)),
    "budget": (str, type(None)),
    "metric": (str, type(None)),
}  # in a blend.yaml


def parse_budget(text: str) -> float:
    """Return how many times the cheapest member's cost "3x", "2.5x" or "3" allows. Raises
    UserError.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)x?", text.strip(), re.ASCII | re.IGNORECASE)
    budget = float(match[1]) if match else 0.0
    if not 1 <= budget < math.inf:
        raise UserError(
            f"--budget {text}: pass how often the cheapest member's cost, 1x or more, such as 3x or"
            " 2.5x"
        )
    return budget


@dataclass(frozen=True, kw_only=True, slots=True)
class BlendConfig:
    """What goes into a blend, how it is combined, and where it is written."""

    runs: tyro.conf.Positional[tuple[str, ...]] = ()
    """Run folders, such as outputs/*; what is no finished run is skipped."""
    config: Annotated[str | None, tyro.conf.arg(aliases=["-c"])] = None
    """blend.yaml of an earlier blend, to make the same again; flags win."""
    method: str = AUTO
    """auto (simplest of the best), soft, log, hard, rank, tempered, weights, greedy,
    weights-metric, stack or trees.
    """
    weights: Annotated[tuple[float, ...] | None, tyro.conf.arg(metavar="W [W ...]")] = None
    """One weight a run, in the order of the runs, which are named first. For votes: soft (unless
    told), log, hard.
    """
    budget: str | None = None
    """Most inference cost, in multiples of the cheapest member's: 3x. Members are chosen within
    it.
    """
    thorough: bool = False
    """Try the slow methods too, and score the choice of the method itself on people that had no say
    in it.
    """
    dataset: str | None = None
    """Blend the runs of this data set, where there are runs of several."""
    intersect: bool = False
    """Blend the test images that all runs have, where test sets differ."""
    include_blends: bool = False
    """Take in earlier blends too."""
    output: str | None = None
    """Folder of the blend; default: the first run's."""
    name: str | None = None
    """Name of the blend; default: blend_ and a hash of members and settings."""
    allow_optimistic: bool = False
    """Take in runs whose epochs were chosen on the rows that are scored (--select best); the blend
    is marked so too.
    """
    allow_leaks: bool = False
    """Take in runs whose groups leak between folds (--split random); the blend is marked so too."""
    allow_different_folds: bool = False
    """Fit on runs of different folds; without it those are only voted on."""
    overwrite: bool = False
    """Replace a blend of that name."""
    page: bool = True
    """Draw report.html too."""
    metric: str | None = None
    """The score that counts; see run_cv.py --help. Default: the runs' own, or f1_macro where they
    differ.
    """

    def __post_init__(self) -> None:
        if self.metric is not None:
            check_metric(self.metric)
        check_name(self.name)
        known = [AUTO, *METHODS]
        near = did_you_mean(self.method, known)
        require(
            self.method in known,
            f"--method {self.method}: unknown{near}; there are {', '.join(known)}",
        )
        if self.budget is not None:
            parse_budget(self.budget)
        if self.weights is not None:
            fine = (
                len(self.weights) > 0 and min(self.weights) >= 0 and 0 < sum(self.weights) < np.inf
            )
            said = f"--weights {listed(self.weights, most=9)}"
            require(fine, f"{said}: pass numbers of 0 or more, one of them above 0")
            takes = (AUTO, "soft", "log", "hard")
            require(
                self.method in takes,
                f"{said}: --method {self.method} finds its own; leave one of them out",
            )
            require(
                self.budget is None,
                f"{said}: --budget chooses members by itself; leave one of them out",
            )


# What decides what a blend is; the rest is where it lies and what was let in.
DECIDES = (
    "method",
    "metric",
    "weights",
    "budget",
    "thorough",
    "intersect",
    "allow_different_folds",
)
ALLOWS = ("include_blends", "allow_optimistic", "allow_leaks")


def read_members(file: str | Path) -> Mapping[str, Any]:
    """Return a blend.yaml, which names its members. Raises UserError where it is absent or is
    none.
    """
    try:
        settings = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; check --config") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(
            f"{file}: not valid YAML ({' '.join(str(error).split())[:80]}); check --config"
        ) from None
    members = settings.get("members") if isinstance(settings, dict) else None
    whole = isinstance(members, list) and all(
        isinstance(one, dict) and isinstance(one.get("path"), str) for one in members
    )
    require(
        bool(members) and whole,
        f"{file}: is no blend.yaml, which names its members; check --config",
    )
    assert isinstance(settings, dict)
    return settings


def read_blend_file(file: str | Path) -> BlendConfig:
    """Return the settings of a blend.yaml, whose members' paths are as seen from its folder. Raises
    UserError.
    """
    settings = read_members(file)
    folder = Path(file).parent
    taken = {name: settings[name] for name in (*DECIDES, *ALLOWS) if name in settings}
    known = {one.name: one for one in dataclasses.fields(BlendConfig)}
    for name, value in taken.items():
        kinds = MAY_BE.get(name, (type(known[name].default),))
        require(
            isinstance(value, kinds), f"{file}: {name}: {value!r} is not what blend.py writes there"
        )
    weights = taken.pop("weights", None)
    runs = tuple(os.path.normpath(folder.resolve() / one["path"]) for one in settings["members"])
    try:
        given = None if weights is None else tuple(float(one) for one in weights)
        return BlendConfig(runs=runs, config=str(file), weights=given, **taken)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    except (TypeError, ValueError):
        raise UserError(
            f"{file}: weights: {weights!r} are not what blend.py writes there"
        ) from None


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def parse_blend_config(argv: Sequence[str], *, prog: str, description: str) -> BlendConfig:
    """Return the settings of a blend: defaults, then the file of --config, then the flags. Raises
    UserError.
    """
    file = early_value(argv, ("--config", "-c"))
    default = BlendConfig() if file is None else read_blend_file(file)
    for index, word in enumerate(argv):
        flag, _, value = word.partition("=")
        if flag == "--weights" and not value:
            numbers = itertools.takewhile(lambda one: not one.startswith("--"), argv[index + 1 :])
            odd = [one for one in numbers if not _is_number(one)]
            require(
                not odd, f"--weights: {listed(odd)}: name the runs first, then --weights W W .."
            )
    return parse_flags(BlendConfig, argv, prog=prog, description=description, default=default)
