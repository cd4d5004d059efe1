"""Test-time augmentation of a plan's finished runs, where there is time for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from foldblend.cli import Say, quiet
from foldblend.errors import UserError
from foldblend.failures import WriteFailed
from foldblend.progress import duration
from foldblend.runs.check import why_unfinished
from foldblend.runs.costs import num_models, pass_seconds
from foldblend.runs.run import Run
from foldblend.scores.run_metric import metric_of
from pipeline.config.run import RunConfig
from pipeline.config.trust import own_parts
from pipeline.plan.plan_file import SUFFIXES
from pipeline.run_tta import run_tta
from pipeline.time_limit import Clock
from tta.config import AUTO_VIEWS

__all__ = [
    "KINDS",
    "Views",
    "add_views",
    "best_first",
    "mirrored",
    "seconds_of_views",
    "with_views",
]

# Seconds for what is not a forward pass: choosing views by cross-validation, and the report.
OVERHEAD = 10.0


@dataclass(frozen=True, slots=True)
class Views:
    """Views that a plan adds to its runs."""

    views: str
    """Value of `run_tta.py --views`."""
    num: int
    """Number of further views."""
    suffix: str
    """Ending of the name of the run with these views."""
    share: float
    """Share of the time left that they may be expected to take."""
    words: str


KINDS = (
    Views("hflip", 1, SUFFIXES[0], 0.8, "the mirrored image"),
    Views("auto", len(AUTO_VIEWS.split(",")), SUFFIXES[1], 0.6, "views are chosen"),
)
"""The mirrored image comes first, for all runs, as it gives most for its time. A choice of views
reuses it.
"""


def _finished(folder: Path) -> bool:
    return folder.is_dir() and why_unfinished(folder) is None


def _made(folder: Path, kind: Views) -> Path:
    return folder.with_name(f"{folder.name}{kind.suffix}")


def score_of(folder: Path) -> float:
    """Return the score of a finished run, greater is better; minus infinity where it has none."""
    run = Run(folder)
    value = run.report["headline"]["value"]
    return float("-inf") if value is None else float(value) * metric_of(run.info).sign


def best_first(folders: Sequence[Path]) -> list[Path]:
    """Return the folders of finished runs, the best first."""
    return sorted(folders, key=score_of, reverse=True)


def with_views(folder: Path) -> Path:
    """Return the folder of a run that is blended: with chosen views, mirrored images, or neither.

    Views that were chosen are taken, as each fold's were chosen on the other folds. The mirrored
    image is taken if the run scores better with it out of fold; the optimism of the plan counts
    this choice.
    """
    chosen = _made(folder, KINDS[1])
    if _finished(chosen):
        return chosen
    flip = mirrored(folder)
    return folder if flip is None or score_of(flip) <= score_of(folder) else flip


def mirrored(folder: Path) -> Path | None:
    """Return the folder of a run with mirrored images, None where it was not made."""
    flip = _made(folder, KINDS[0])
    return flip if _finished(flip) else None


def seconds_of_views(run: Run, num_views: int) -> float | None:
    """Return the seconds that further views of a finished run take, None where unknown."""
    seconds = pass_seconds(run)
    if seconds is None:
        return None
    num_test = 0 if run.test is None else len(run.test)
    of_test = num_test if run.frozen else num_test * num_models(run)
    of_train = len(run.oof) // (run.info["num_repeats"] if run.frozen else 1)
    return OVERHEAD + num_views * (of_train + of_test) * seconds


def add_views(
    folder: Path, kind: Views, config: RunConfig, *, clock: Clock, reserve: float, say: Say
) -> bool:
    """Add views to a finished run if there is time, and return whether that was done.

    `config` are its settings in the plan, whose own parts may be imported.

    Raises TimeUp at the end of the time, and WriteFailed for a full disk.
    """
    made = _made(folder, kind)
    if _finished(made):
        return False
    seconds = seconds_of_views(Run(folder), kind.num)
    left = clock.left - reserve
    if seconds is None or seconds > kind.share * left:
        return False
    rest = "" if left == float("inf") else f"; {duration(clock.left)} are left"
    say(f"{folder.name}: {kind.words}, about {duration(seconds)}{rest}")
    parts = ",".join(dict.fromkeys(name for _, name in own_parts(config))) or None
    try:
        with clock.alarm(reserve):
            run_tta(
                folder,
                views=kind.views,
                name=made.name,
                overwrite=True,
                page=False,
                parts=parts,
                backend=config.machine.backend,
                ray_address=config.machine.ray_address,
                say=quiet,
            )
    except WriteFailed:
        raise
    except UserError as error:
        say(f"{folder.name}: no further views: {error}")
        return False
    return True
