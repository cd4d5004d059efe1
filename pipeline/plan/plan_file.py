"""Plans as data: the runs to make, read from and written to plan.yaml."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from foldblend.cli import check_name
from foldblend.errors import UserError, did_you_mean, require, shown
from foldblend.files import home, write_bytes
from foldblend.flags import flags_of
from foldblend.reading import read_yaml_file
from folds.config import DataConfig, SplitConfig
from pipeline.config.identity import identity_hash
from pipeline.config.labels import LabelsConfig
from pipeline.config.run import MachineConfig, OutputConfig, RunConfig
from pipeline.config.settings import flatten, make_config
from pipeline.time_limit import parse_limit

__all__ = [
    "OF_THE_PLAN",
    "Plan",
    "PlannedRun",
    "changed_settings",
    "read_plan",
    "run_name",
    "write_plan",
]

# Settings of run_cv.py that a plan decides for all its runs, and those of what follows a plan:
# labels are those of a finished run.
OF_THE_PLAN = (
    *("name", "output", "resume", "dry_run", "only_folds", "config"),
    *("seeds", "soup", "refit", "refit_models", "refit_share"),
    *flags_of(LabelsConfig),
)
# Runs of one plan have the same rows and folds; otherwise they could not be compared and blended.
OF_ALL_RUNS = (*flags_of(DataConfig), *flags_of(SplitConfig), "metric", "score_by", "group_pool")
MOST_RUNS = 1000
# Files beside the runs.
OWN_FILES = ("plan.yaml", "choices.json", "plan.log")
# Endings of the names of runs with further views.
SUFFIXES = ("_hflip", "_tta")
COMMENT = """\
# The runs of a plan. It can be edited, and made with: python plan.py --plan THIS_FILE
# docs/plan.md describes it; `seconds` are estimates and may be left out.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRun:
    """One run of a plan."""

    name: str
    """Name of its folder among the runs of the plan."""
    settings: Mapping[str, Any]
    """Settings of run_cv.py that it has beside those of all runs."""
    seconds: float | None = None
    """Estimated seconds; None where they are not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The runs of a plan, in the order in which they are made."""

    name: str
    """Name of the blend's folder in `output`; that of the runs is NAME-runs."""
    output: str
    """Folder of the blend."""
    settings: Mapping[str, Any]
    """Settings of run_cv.py that all runs have."""
    runs: tuple[PlannedRun, ...]
    time_limit: str | None = None
    stop_losers: bool = True
    views: str = "auto"
    about: Mapping[str, Any] = field(default_factory=dict)
    """What the plan was made from: facts of the data, speeds, what was left out."""

    @property
    def folder(self) -> Path:
        """Folder of the blend."""
        return Path(self.output) / self.name

    @property
    def runs_folder(self) -> Path:
        """Folder that holds the runs, and plan.yaml."""
        return Path(self.output) / f"{self.name}-runs"

    @property
    def file(self) -> Path:
        return self.runs_folder / "plan.yaml"

    @property
    def names(self) -> set[str]:
        """Names of the runs."""
        return {run.name for run in self.runs}

    def is_frozen(self, run: PlannedRun) -> bool:
        """Return whether a run has a frozen backbone, by its own settings or those of all."""
        return {**self.settings, **run.settings}.get("finetune") == "head"

    def config_of(self, run: PlannedRun) -> RunConfig:
        """Return the settings of a run, as run_cv.py would have them."""
        of_run = {"output": str(self.runs_folder), "name": run.name}
        return make_config({**self.settings, **run.settings, **of_run})


def write_plan(plan: Plan) -> None:
    """Write plan.yaml into the folder of the runs."""
    runs = [
        {
            "name": run.name,
            **run.settings,
            **({} if run.seconds is None else {"seconds": round(run.seconds)}),
        }
        for run in plan.runs
    ]
    content = {
        "name": plan.name,
        "output": plan.output,
        "time_limit": plan.time_limit,
        "stop_losers": plan.stop_losers,
        "views": plan.views,
        "settings": dict(plan.settings),
        "runs": runs,
        "about": dict(plan.about),
    }
    plan.runs_folder.mkdir(parents=True, exist_ok=True)
    write_bytes(plan.file, COMMENT + yaml.safe_dump(content, sort_keys=False, width=100))


def read_plan(file: str | Path, *, cure: str = "check --plan") -> Plan:
    """Read and check a plan.yaml.

    Parameters
    ----------
    file
        The file. Keys: `name`, `output`, `time_limit`, `stop_losers`, `views`, `settings` (of all
        runs), `runs` (each a `name` and settings), and `grid` (lists of values, of which every
        combination is a run).
    cure
        What to do if it is not a YAML file.

    Raises
    ------
    UserError
        For a missing file, an unknown key or setting, a wrong value, no runs or two equal runs.
    """
    path = home(file)
    found = read_yaml_file(path, cure=cure)
    try:
        require(isinstance(found, dict), "expected `name: value` lines")
        return _plan_of(found, path)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


KEYS = ("name", "output", "time_limit", "stop_losers", "views", "settings", "runs", "grid", "about")


def _plan_of(found: Mapping[Any, Any], path: Path) -> Plan:
    for key in found:
        require(key in KEYS, f"unknown key {shown(str(key))}{did_you_mean(str(key), KEYS)}")
    name = found.get("name", path.stem)
    require(isinstance(name, str), f"name: {shown(str(name))} is not a text; put it in quotes")
    check_name(name)
    limit = found.get("time_limit")
    if limit is not None:
        parse_limit(str(limit))
    stop_losers = found.get("stop_losers", True)
    require(isinstance(stop_losers, bool), "stop_losers: write true or false")
    views = found.get("views", "auto")
    require(views in ("auto", "none"), f"views: {shown(str(views))}; write auto or none")
    output = found.get("output", "outputs")
    require(isinstance(output, str) and bool(output), "output: write a folder")
    settings = _settings(found.get("settings") or {}, "settings", forbidden=OF_THE_PLAN)
    # What is wrong for every run is named once.
    make_config(settings)
    runs = (*_runs(found.get("runs") or []), *_grid(found.get("grid") or {}))
    require(len(runs) > 0, "no runs; write them under `runs`, or lists of values under `grid`")
    require(len(runs) <= MOST_RUNS, f"{len(runs)} runs; write at most {MOST_RUNS}")
    about = found.get("about") or {}
    require(isinstance(about, dict), "about: expected `name: value` lines; leave it out")
    plan = Plan(
        name=name,
        output=output,
        settings=settings,
        runs=tuple(runs),
        time_limit=None if limit is None else str(limit),
        stop_losers=stop_losers,
        views=views,
        about=about,
    )
    _check_runs(plan)
    return plan


def _settings(found: Any, where: str, *, forbidden: tuple[str, ...]) -> dict[str, Any]:
    require(isinstance(found, dict), f"{where}: expected `name: value` lines")
    known = flags_of(RunConfig)
    settings = {}
    for key, value in found.items():
        name = str(key).replace("-", "_")
        require(name in known, f"{where}: unknown setting {shown(name)}{did_you_mean(name, known)}")
        require(
            name not in forbidden,
            f"{where}: {name} is the same for all runs of a plan; "
            + ("leave it out" if name in OF_THE_PLAN else "write it under `settings`"),
        )
        settings[name] = value
    return settings


def _runs(found: Any) -> Iterator[PlannedRun]:
    require(isinstance(found, list), "runs: expected a list, each with a name and settings")
    for number, one in enumerate(found):
        where = f"run {number + 1}"
        require(isinstance(one, dict), f"{where}: expected `name: value` lines")
        left = dict(one)
        seconds = left.pop("seconds", None)
        name = left.pop("name", None)
        require(isinstance(name, str), f"{where}: has no name; write one, such as `name: small`")
        good = seconds is None or (type(seconds) in (int, float) and 0 <= seconds < 1e9)
        require(good, f"run {name}: seconds {shown(str(seconds))} is not a time; leave it out")
        settings = _settings(left, f"run {name}", forbidden=(*OF_THE_PLAN, *OF_ALL_RUNS))
        yield PlannedRun(name=name, settings=settings, seconds=seconds)


def _grid(found: Any) -> Iterator[PlannedRun]:
    """Yield a run for each combination of the values of a grid."""
    settings = _settings(found, "grid", forbidden=(*OF_THE_PLAN, *OF_ALL_RUNS))
    if not settings:
        return
    for name, values in settings.items():
        require(
            isinstance(values, list) and len(values) > 0,
            f"grid: {name} needs a list of values, such as [a, b]",
        )
    for values in itertools.islice(itertools.product(*settings.values()), MOST_RUNS + 1):
        chosen = dict(zip(settings, values, strict=True))
        parts = [str(value) if name != "seed" else f"seed{value}" for name, value in chosen.items()]
        yield PlannedRun(name=run_name(*parts), settings=chosen)


def run_name(*parts: str) -> str:
    """Return the name of a run from its settings.

    >>> run_name("tf_efficientnet_lite0", "168x224", "head")
    'tf_efficientnet_lite0-168x224-head'
    """
    kept = [
        "".join(one if one.isalnum() or one in "_.+" else "_" for one in part) for part in parts
    ]
    return "-".join(kept)


def _check_runs(plan: Plan) -> None:
    """Raise UserError for a run whose settings do not go, and for two equal runs or folders."""
    for run in plan.runs:
        require(
            run.name not in OWN_FILES, f"run {run.name} has the name of a file of plans; rename it"
        )
        for suffix in SUFFIXES:
            require(
                f"{run.name}{suffix}" not in plan.names,
                f"run {run.name}{suffix} has the name of run {run.name} with views; rename it",
            )
    seen: dict[str, str] = {}
    names: set[str] = set()
    for run in plan.runs:
        # Some file systems do not tell A from a.
        folder = run.name.casefold()
        require(folder not in names, f"two runs have the name {run.name}; rename one of them")
        names.add(folder)
        try:
            config = plan.config_of(run)
        except UserError as error:
            raise UserError(f"run {run.name}: {error}") from None
        key = identity_hash(config)
        require(
            key not in seen,
            f"runs {seen.get(key)} and {run.name} are equal; change a setting of one, or remove it",
        )
        seen[key] = run.name


def changed_settings(plan: Plan, settings: Mapping[str, Any]) -> list[str]:
    """Return the settings in which the plan's runs differ from those that are asked for now.

    Settings that change no result, such as the number of workers, may differ.
    """
    before = flatten(make_config(plan.settings))
    after = flatten(make_config(settings))
    aside = {**flags_of(MachineConfig), **flags_of(OutputConfig)}
    return [
        name
        for name, value in after.items()
        if before[name] != value
        and (name in OF_ALL_RUNS or name not in aside or aside[name].identity)
    ]
