"""Settings of tune.py: a few of the search, and all flags of run_cv.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foldblend.cli import check_name
from foldblend.errors import UserError, require
from foldblend.flags import check_lengths, expand_home, flag, flags_of, from_settings
from foldblend.help import About
from pipeline.config.command_line import parse_with_run
from pipeline.config.run import RunConfig
from pipeline.config.settings import make_config, replace
from pipeline.time_limit import parse_limit

__all__ = ["SearchConfig", "TuneConfig", "make_tune_config", "parse_tune_config"]

MOST_TRIALS = 100_000


def parse_options(text: str | None) -> dict[str, str]:
    """Return the options of a sampler from text such as "multivariate=true,n_startup_trials=20".

    Examples
    --------
    >>> parse_options("seed=1, group=true")
    {'seed': '1', 'group': 'true'}
    """
    parts = [part.partition("=") for part in (text or "").split(",") if part.strip()]
    for name, equals, _ in parts:
        require(
            bool(equals) and name.strip().isidentifier(),
            f"--optuna-options {text}: write names and values such as"
            " multivariate=true,n_startup_trials=20",
        )
    return {name.strip(): value.strip() for name, _, value in parts}


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchConfig:
    """The settings of a search."""

    trials: int = flag(50, common=True)
    """Number of trials, the one with the settings of the command included; each is a
    cross-validation. A study that has fewer goes on.
    """
    space: str | None = flag(None, common=True)
    """YAML file with the settings to search, such as recipes/space.yaml: the name of a flag, then
    a list of values or {low, high, step, log}.
    """
    study: str | None = flag(None, common=True)
    """Name of the study and its folder in --output; default: study_ and the name of the run.
    A study that is there goes on.
    """
    nested: bool = flag(False, common=True)
    """Also search once for each fold, without that fold, and score the choice on it: the honest
    score of the whole search. Needs --finetune head; takes a few times as long.
    """
    storage: str | None = None
    """File of the trials: a journal (.log) or a database of SQLite (.db, or sqlite:///FILE).
    Default: journal.log in the folder of the study.
    """
    optuna_sampler: str = "TPESampler"
    """What proposes the settings of a trial: any sampler of Optuna, such as RandomSampler."""
    optuna_options: str | None = None
    """Options of the sampler, as name=value,...; seed is 0 unless it is among them."""
    prune: bool = True
    """Stop trials that train their backbone after a fold in which they are clearly worse than the
    best trial, by paired differences over groups.
    """
    time_limit: str | None = None
    """Time after which no trial begins, such as 45m or 2h; default: none."""

    def __post_init__(self) -> None:
        expand_home(self, "space", "storage")
        check_lengths(self, "space")
        require(
            1 <= self.trials <= MOST_TRIALS,
            f"--trials {self.trials}: pass 1 to {MOST_TRIALS:,}",
        )
        if self.study is not None:
            try:
                check_name(self.study)
            except UserError as error:
                raise UserError(str(error).replace("--name", "--study", 1)) from None
        parse_options(self.optuna_options)
        if self.time_limit is not None:
            parse_limit(self.time_limit)

    @property
    def seconds(self) -> float | None:
        """Seconds of the time limit, or None."""
        return None if self.time_limit is None else parse_limit(self.time_limit)

    @property
    def space_file(self) -> Path:
        """The file of the space."""
        if self.space is None:
            raise UserError("--space: missing; pass a file such as recipes/space.yaml")
        return Path(self.space)


@dataclass(frozen=True, kw_only=True)
class _Search:
    """The group of flags that comes before those of a run."""

    search: SearchConfig = field(default_factory=SearchConfig)
    """The search."""


@dataclass(frozen=True, kw_only=True)
class TuneConfig(RunConfig, _Search):
    """All settings of tune.py."""

    @property
    def run(self) -> RunConfig:
        """The settings of a run."""
        groups = {one.name: getattr(self, one.name) for one in dataclasses.fields(RunConfig)}
        return RunConfig(**groups)


def parse_tune_config(argv: Sequence[str], about: About) -> tuple[SearchConfig, RunConfig]:
    """Return the settings of a search and of its runs from a command line."""
    found = parse_with_run(TuneConfig, argv, about)
    return found.search, found.run


def make_tune_config(
    config: RunConfig | Mapping[str, Any] | None, settings: Mapping[str, Any]
) -> tuple[SearchConfig, RunConfig]:
    """Return the settings of a search and of its runs from a configuration and keywords.

    Raises UserError for an unknown name or a wrong value.
    """
    names = flags_of(SearchConfig).keys()
    if isinstance(config, Mapping):
        settings = {**config, **settings}
        config = None
    spelt = {str(key).replace("-", "_"): value for key, value in settings.items()}
    search = from_settings(
        SearchConfig, {name: spelt.pop(name) for name in [*spelt] if name in names}
    )
    run = config if isinstance(config, RunConfig) else make_config(config, **spelt)
    return search, replace(run, **spelt) if isinstance(config, RunConfig) else run
