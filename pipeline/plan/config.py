"""Settings of plan.py, and their command line; imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro

from foldblend.flags import NOT_A_FLAG, expand_home, flag, flags_of, from_settings
from foldblend.help import About
from pipeline.config.run import RunConfig
from pipeline.config.settings import make_config
from pipeline.time_limit import parse_limit

__all__ = ["ABOUT", "PlanConfig", "PlanOptions", "make_plan_config"]

ABOUT = About(
    "plan.py",
    "Plan and make many runs of a data set within a time limit, and blend them: a frozen backbone"
    " first, then more backbones and sizes, then fine-tuned ones. Flags of run_cv.py hold for all"
    " runs. DATA is short for --data DATA.",
    (
        "photos --time-limit 45m",
        "photos --time-limit 2h --folds 5 --metric accuracy --dry-run",
        "--plan outputs/PLAN-runs/plan.yaml --time-limit 8h",
    ),
    first="[DATA]",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanOptions:
    """Settings of a plan beside those of its runs."""

    time_limit: str | None = flag(None, common=True)
    """Time of this command, start and reports included, such as 45m, 2h or 1h30m.
    Default: that of --plan, or none, so that all runs of --plan are made.
    """
    plan: str | None = flag(None, common=True)
    """plan.yaml of an earlier plan, or one of your own, whose runs are made; nothing is planned.
    docs/plan.md describes it.
    """
    stop_losers: bool = flag(True, common=True)
    """Stop a fine-tuned run after its first or second fold if it is clearly worse than the best.
    Default with --plan: as it says.
    """
    views: Literal["auto", "none"] = "auto"
    """Test-time augmentation of finished runs, the best first, if time is left: auto or none.
    Default with --plan: as it says.
    """
    sweep: bool = False
    """Remove what stopped runs of --plan have left, and make no runs."""
    typed: Annotated[frozenset[str], tyro.conf.Fixed, tyro.conf.Suppress] = field(
        default=frozenset(), compare=False, repr=False, metadata=NOT_A_FLAG
    )
    """Names of those of these settings that were given, which go before those of --plan."""

    def __post_init__(self) -> None:
        expand_home(self, "plan")
        if self.time_limit is not None:
            parse_limit(self.time_limit)

    @property
    def limit(self) -> float | None:
        """Seconds of the time limit, None without one."""
        return None if self.time_limit is None else parse_limit(self.time_limit)


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanConfig(RunConfig):
    """Settings of a plan: its own, and those of run_cv.py that all its runs have."""

    planning: PlanOptions = field(default_factory=PlanOptions)
    """The plan."""


def make_plan_config(settings: Mapping[str, Any]) -> PlanConfig:
    """Return the settings of a plan from one flat mapping; raise UserError for a wrong one."""
    given = {str(name).replace("-", "_"): value for name, value in settings.items()}
    own = {name: given.pop(name) for name in flags_of(PlanOptions) if name in given}
    options = dataclasses.replace(from_settings(PlanOptions, own), typed=frozenset(own))
    base = make_config(given)
    groups = {one.name: getattr(base, one.name) for one in dataclasses.fields(RunConfig)}
    return PlanConfig(**groups, planning=options)
