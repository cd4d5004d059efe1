"""Settings of a blend, from defaults, a blend.yaml or flags.

Flags win over the file, and the file over defaults.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from ensemble.methods.registry import METHODS, WITH_COLUMNS, method_of
from foldblend.cli import check_name
from foldblend.errors import UserError, did_you_mean, listed, require
from foldblend.files import home
from foldblend.flags import check_lengths, expand_home
from foldblend.image_columns import names_of
from foldblend.reading import read_yaml_file
from foldblend.scores.by_group import IMAGE, MEAN, check_pool
from foldblend.scores.metrics import MEAN_COST, check_metric

__all__ = [
    "ALLOWS",
    "AUTO",
    "DECIDES",
    "FORMERLY",
    "BlendConfig",
    "decisions",
    "parse_budget",
    "read_blend_file",
    "read_members",
]

AUTO = "auto"
PREFERS = ("score", "simple")
# Types in a blend.yaml of the settings whose default does not have the type.
MAY_BE = {
    "weights": (list, type(None)),
    "budget": (str, type(None)),
    "metric": (str, type(None)),
    "prefer": (str,),
    "score_by": (str,),
    "group_pool": (str,),
    "meta_cols": (str, type(None)),
}


def parse_budget(text: str) -> float:
    """Return the budget that a text such as "3x", "2.5x" or "3" gives.

    It is a multiple of the cheapest member's cost. Raises UserError for anything else.

    Examples
    --------
    >>> parse_budget("2.5x"), parse_budget("3")
    (2.5, 3.0)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)x?", text.strip(), re.ASCII | re.IGNORECASE)
    budget = float(match[1]) if match else 0.0
    if not 1 <= budget < math.inf:
        raise UserError(
            f"--budget {text}: pass a multiple of the cheapest member's cost, 1x or more, such as"
            " 3x or 2.5x"
        )
    return budget


@dataclass(frozen=True, kw_only=True, slots=True)
class BlendConfig:
    """Settings of a blend: the runs, how they are combined, and where the blend is written."""

    runs: tyro.conf.Positional[tuple[str, ...]] = ()
    """Run folders, such as outputs/*; folders without a finished run are skipped."""
    config: Annotated[str | None, tyro.conf.arg(aliases=["-c"])] = None
    """blend.yaml of an earlier blend, to make the same blend again; flags win. Default: none."""
    method: str = AUTO
    """How members are combined: auto (tries all but trees, see --prefer), single (the best member),
    soft, log, hard, rank, tempered, weights, greedy, weights-metric, stack or trees; with
    --meta-cols also stack-columns or trees-columns.
    """
    prefer: Literal["score", "simple"] | None = None
    """What --method auto makes of the methods. score: the mean of their probabilities, each
    weighted by how often it scores best in bootstrap samples of groups. simple: the simplest method
    within one standard error of the best. Fitted methods have offsets per class as strong as they
    often help (score), or all or nothing (simple). Default: score; a blend of an earlier version
    keeps simple.
    """
    weights: Annotated[tuple[float, ...] | None, tyro.conf.arg(metavar="W [W ...]")] = None
    """One weight per run, in the order of the runs, which come first on the command line. For votes
    only: soft (the default with --weights), log or hard. Default: equal or fitted weights.
    """
    budget: str | None = None
    """Highest inference cost, as a multiple of the cheapest member's, such as 3x. Members are
    chosen to fit it. Default: no limit.
    """
    drop_harmful: bool = False
    """Drop members without which a method scores better, as a part of every fit: where the 95 %
    interval of the difference is on this side of 0.
    """
    thorough: bool = False
    """Try the slow methods too, and cross-validate the choice of the method as well."""
    meta_cols: Annotated[str | None, tyro.conf.arg(metavar="COLUMNS")] = None
    """Columns of the table of images that stack and trees learn from too, comma-separated, such as
    age,site. They must be known of new images as well. Default: none.
    """
    dataset: str | None = None
    """Blend only the runs of this data set. Default: all runs, which must be of one data set."""
    intersect: bool = False
    """Where test sets differ, blend the test images that all runs have."""
    include_blends: bool = False
    """Blend earlier blends too; without it they are skipped."""
    output: str | None = None
    """Folder in which the blend is written. Default: the folder that holds the first run, or with
    --config the folder that holds the earlier blend (outputs for a blend.yaml outside of one).
    """
    name: str | None = None
    """Name of the blend. Default: blend_ and a hash of members and settings."""
    allow_optimistic: bool = False
    """Admit runs whose epochs were chosen on the rows that are scored (--select best). The blend is
    marked as optimistic too.
    """
    allow_leaks: bool = False
    """Admit runs whose groups leak between folds (--split random). The blend is marked as leaking
    too.
    """
    allow_different_folds: bool = False
    """Fit methods on runs with different folds, although groups leak then. Without it such runs are
    only combined by votes.
    """
    overwrite: bool = False
    """Replace an existing blend of the same name."""
    safe_csv: bool = False
    """Put an apostrophe before file and class names in submission and predictions that a
    spreadsheet would take for a formula (they start with = + - @).
    """
    page: bool = True
    """Write report.html too."""
    report: Literal["short", "full"] = "short"
    """What is printed at the end: a first screen, or all of report.txt."""
    metric: str | None = None
    """Metric by which methods and members are chosen, and which is reported; see run_cv.py --help.
    Default: the metric of the runs, or f1_macro where they differ.
    """
    score_by: Literal["image", "group"] | None = None
    """What the score counts by which methods are chosen: images, or groups, whose images' logits
    are averaged. Default: group if all runs are scored by group, else image.
    """
    group_pool: str | None = None
    """How a group's images become one prediction: mean, max or noisy-or (any image shows it).
    Default: that of the runs, or mean where they differ.
    """
    costs: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """Table of the costs of errors: the header and the first column are the classes, a cell is the
    cost of predicting the column's class when the row's is true. The metric is then the mean cost.
    """

    def __post_init__(self) -> None:
        expand_home(self, "runs", "output", "config")
        check_lengths(self, "output")
        if self.metric not in (None, MEAN_COST):
            check_metric(self.metric)
        if self.group_pool is not None:
            check_pool(self.group_pool)
        require(
            self.costs is None or self.metric in (None, MEAN_COST),
            f"--costs {self.costs}: the metric is then the mean cost, not --metric {self.metric};"
            " leave one of them out",
        )
        check_name(self.name)
        known_rules = " or ".join(PREFERS)
        require(self.prefer in (None, *PREFERS), f"--prefer {self.prefer}: pass {known_rules}")
        known = [AUTO, *METHODS, *WITH_COLUMNS]
        near = did_you_mean(self.method, known)
        require(
            self.method in known,
            f"--method {self.method}: unknown{near}; there are {', '.join(known)}",
        )
        if self.meta_cols is not None:
            names_of(self.meta_cols)
            fixed = f"--method {self.method}" if self.weights is None else "--weights"
            require(
                self.method in (AUTO, *WITH_COLUMNS) and self.weights is None,
                f"--meta-cols {self.meta_cols}: {fixed} takes no columns; leave it out, or pass"
                f" --method {' or '.join(WITH_COLUMNS)}",
            )
        require(
            self.method not in WITH_COLUMNS or self.meta_cols is not None,
            f"--method {self.method}: name the columns with --meta-cols, such as --meta-cols"
            " age,site",
        )
        if self.budget is not None:
            parse_budget(self.budget)
        if self.weights is not None:
            fine = (
                len(self.weights) > 0 and min(self.weights) >= 0 and 0 < sum(self.weights) < np.inf
            )
            given = f"--weights {listed(self.weights, most=9)}"
            require(fine, f"{given}: pass numbers of 0 or more, one of them above 0")
            takes = (AUTO, "soft", "log", "hard")
            require(
                self.method in takes,
                f"{given}: --method {self.method} fits the weights itself; leave one of them out",
            )
            require(
                self.budget is None,
                f"{given}: --budget chooses the members itself; leave one of them out",
            )
            require(
                not self.drop_harmful,
                f"{given}: --drop-harmful chooses the members itself; leave one of them out",
            )

    @property
    def rule(self) -> str:
        """The preference, with the default where the settings do not say."""
        return self.prefer or PREFERS[0]


# The settings that decide the result of a blend: they are hashed into its run key. ALLOWS, which
# only admit members, are written to blend.yaml too.
DECIDES = (
    "method",
    "metric",
    "weights",
    "budget",
    "thorough",
    "intersect",
    "allow_different_folds",
    "prefer",
    "drop_harmful",
    "score_by",
    "group_pool",
    "meta_cols",
)
ALLOWS = ("include_blends", "allow_optimistic", "allow_leaks")
# Values of settings that a blend.yaml of an earlier version lacks: those that this version had.
# They are not hashed, so that such a blend keeps its run key and its name.
FORMERLY: Mapping[str, Any] = {
    "prefer": "simple",
    "drop_harmful": False,
    "score_by": IMAGE,
    "group_pool": MEAN,
    "meta_cols": None,
}


def decisions(config: BlendConfig) -> dict[str, Any]:
    """Return the settings that decide the result of a blend, for its run key and blend.yaml."""
    found = {name: getattr(config, name) for name in DECIDES} | {"prefer": config.rule}
    # A vote that fits nothing is the same whatever is preferred.
    if config.weights is not None or (config.method != AUTO and not method_of(config.method).fits):
        found["prefer"] = FORMERLY["prefer"]
    # The order in which columns are named does not matter.
    if config.meta_cols is not None:
        found["meta_cols"] = ",".join(names_of(config.meta_cols))
    return {
        name: value
        for name, value in found.items()
        if name not in FORMERLY or value != FORMERLY[name]
    }


def read_members(file: str | Path) -> Mapping[str, Any]:
    """Return the content of a blend.yaml, checked for its list of members.

    Raises UserError if the file is absent or is not a blend.yaml.
    """
    settings = read_yaml_file(home(file), cure="check --config")
    members = settings.get("members") if isinstance(settings, dict) else None
    whole = isinstance(members, list) and all(
        isinstance(one, dict) and isinstance(one.get("path"), str) for one in members
    )
    require(
        bool(members) and whole,
        f"{file}: not a blend.yaml (it has no list of members); check --config",
    )
    assert isinstance(settings, dict)
    return settings


def read_blend_file(file: str | Path) -> BlendConfig:
    """Return the settings of a blend.yaml, whose members' paths are relative to its folder.

    Raises UserError for values that blend.py does not write.
    """
    settings = read_members(file)
    folder = home(file).parent
    saved = {**FORMERLY, **settings}
    taken = {name: saved[name] for name in (*DECIDES, *ALLOWS) if name in saved}
    known = {one.name: one for one in dataclasses.fields(BlendConfig)}
    for name, value in taken.items():
        kinds = MAY_BE.get(name, (type(known[name].default),))
        require(
            isinstance(value, kinds),
            f"{file}: {name}: {value!r} is not a value that blend.py writes there",
        )
    weights = taken.pop("weights", None)
    runs = tuple(os.path.normpath(folder.resolve() / one["path"]) for one in settings["members"])
    try:
        given = None if weights is None else tuple(float(one) for one in weights)
        return BlendConfig(runs=runs, config=str(file), weights=given, **taken)
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    except (TypeError, ValueError, OverflowError):
        raise UserError(
            f"{file}: weights: {weights!r} are not values that blend.py writes there"
        ) from None
