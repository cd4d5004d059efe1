"""The state of a plan while its runs are made: times, single runs and blends."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

import numpy as np

from foldblend.cli import Say, quiet
from foldblend.errors import UserError, counted, in_a_line
from foldblend.failures import WriteFailed, device_failure, memory_failure
from foldblend.files import is_file, open_in_place
from foldblend.progress import duration
from foldblend.runs.run import Run
from foldblend.runs.schema import read_info
from foldblend.scores.optimism import selection_optimism
from foldblend.scores.score import Gain
from pipeline.config.settings import replace
from pipeline.cv import cross_validate
from pipeline.plan.blended import blend_runs, blended_plan
from pipeline.plan.choices import Choices
from pipeline.plan.done import Progress, progress_of
from pipeline.plan.estimate import FIRST_BLEND, REPORT, START, reserve_for
from pipeline.plan.fold_rows import oof_of
from pipeline.plan.plan_file import Plan, PlannedRun
from pipeline.plan.section import notes_of, section_of
from pipeline.plan.views import mirrored, with_views
from pipeline.time_limit import Clock
from reports.text import num, span, title_of

__all__ = ["Work"]

# Folds of a run, until one has begun.
FOLDS = 5
# A blend between runs may take this share of the time since the last one.
SHARE_OF_BLENDS = 0.15
# Lines of a run that are shown; all are in plan.log.
SHOWN = re.compile(r"(repeat \d+ )?fold \d+: |warning: |OOF ")


class Work:
    """The making of a plan's runs."""

    def __init__(self, plan: Plan, clock: Clock, say: Say) -> None:
        self.plan = plan
        self.clock = clock
        self.say = say
        self.choices = Choices.read(plan)
        self.failed: dict[str, str] = {}
        """Runs that cannot be made, with the reason."""
        self.blend_seconds = FIRST_BLEND
        self.last_blend = -np.inf
        """When the last blend ended, in seconds of the clock."""
        self._done: dict[str, Progress] = {}
        self.slower: dict[bool, float] = {}
        """Seconds of runs over their estimates, of frozen and of fine-tuned runs."""

    @property
    def reserve(self) -> float:
        """Seconds that the last blend and its report need."""
        return reserve_for(self.blend_seconds)

    def folder(self, run: PlannedRun) -> Path:
        return self.plan.runs_folder / run.name

    def progress(self, run: PlannedRun) -> Progress:
        """Return how far a run is; a finished one stays so."""
        if run.name not in self._done:
            found = progress_of(self.folder(run))
            if found.state != "done":
                return found
            self._done[run.name] = found
        return self._done[run.name]

    def expected(self, run: PlannedRun) -> float:
        """Return the seconds that a run still needs, by its finished folds or its estimate."""
        done = self.progress(run)
        if done.state == "done":
            return 0.0
        if done.folds and not self.plan.is_frozen(run):
            left = self.num_models - len(done.folds)
            return done.seconds / len(done.folds) * left + START + REPORT
        estimate = 0.0 if run.seconds is None else run.seconds
        return estimate * self.slower.get(self.plan.is_frozen(run), 1.0)

    @property
    def num_models(self) -> int:
        """Number of models of each run: that of one that has begun, else as its settings say."""
        for run in self.plan.runs:
            if is_file(self.folder(run) / "run.json"):
                info = read_info(self.folder(run))
                return int(info["num_folds"] * info["num_repeats"])
        split = self.plan.config_of(self.plan.runs[0]).split
        return (split.folds or FOLDS) * (split.repeats or 1)

    def fits(self, seconds: float) -> bool:
        return seconds <= self.clock.left - self.reserve

    def make(self, run: PlannedRun, *, only: int | None = None) -> bool:
        """Make a run, or one of its folds, and return whether that is done.

        A run that cannot be made is noted, and the others are made all the same. Raises TimeUp at
        the end of the time, and WriteFailed for a full disk.
        """
        before = self.clock.spent
        was = self.progress(run)
        try:
            config = self.plan.config_of(run)
            if only is not None:
                config = replace(config, only_folds=str(only))
            with self.clock.alarm(self.reserve):
                cross_validate(config, say=self._log)
        except WriteFailed:
            raise
        except (UserError, RuntimeError, MemoryError) as error:
            known = device_failure(error) or memory_failure(error, cure="take smaller images")
            line = str(error if isinstance(error, UserError) else known or in_a_line(error))
            self.failed[run.name] = line
            self.say(f"{run.name}: cannot be made: {line}")
            return False
        if was.state == "left":
            self._learn(run, self.clock.spent - before, whole=only is None)
        return True

    def _learn(self, run: PlannedRun, seconds: float, *, whole: bool) -> None:
        """Note how much slower than estimated a run, or its first folds, were."""
        folds = self.progress(run).folds
        estimate = run.seconds or 0.0
        if not whole and folds:
            seconds = sum(folds.values())
            # What is not in the folds is left out of both.
            estimate = (estimate - START - REPORT) * len(folds) / self.num_models
        if estimate > 0:
            self.slower[self.plan.is_frozen(run)] = seconds / estimate

    def _log(self, line: str) -> None:
        """Keep a line of a run in plan.log, and show it if it says how a fold went."""
        # A run is worth more than its lines.
        with contextlib.suppress(OSError, UserError):
            flags = os.O_WRONLY | os.O_APPEND
            handle = open_in_place(self.plan.runs_folder / "plan.log", flags)
            with os.fdopen(handle, "a", encoding="utf-8") as file:
                file.write(f"{line}\n")
        if SHOWN.match(line):
            self.say(f"  {line}")

    def about(self, seconds: float) -> str:
        """Return what is said before a run that takes so many seconds."""
        left = self.clock.left
        said = f"about {duration(seconds)}" if seconds else "begins"
        return said if np.isinf(left) else f"{said}; {duration(left)} are left"

    @property
    def done(self) -> list[PlannedRun]:
        """Runs with all folds."""
        return [run for run in self.plan.runs if self.progress(run).state == "done"]

    def is_out(self, run: PlannedRun) -> bool:
        """Return whether a run gets no more folds: it is done, was stopped, or cannot be made."""
        is_stopped = self.plan.stop_losers and run.name in self.choices.stopped
        return run.name in self.failed or is_stopped or self.progress(run).state == "done"

    def stop(self, name: str, num_folds: int, lead: Gain) -> None:
        """Stop a run, as the best one leads over it."""
        self.choices.stop(name, num_folds, lead)
        self.choices.write(self.plan)
        self.say(
            f"{name}: stopped after {counted(num_folds, 'fold')}, as it is worse than the best run"
            f" by {lead.value:.4f} +- {lead.error:.4f}"
        )

    def members(self) -> list[Path]:
        """Return the folders of finished runs that are blended, with views where they help."""
        return [with_views(self.folder(run)) for run in self.done]

    def blend_if_due(self) -> None:
        """Blend what is finished, unless blends would take too much of the time."""
        since = self.clock.spent - self.last_blend
        if not self.plan.folder.exists() or self.blend_seconds < SHARE_OF_BLENDS * since:
            self.blend()

    def _estimate_optimism(self) -> None:
        """Estimate what picking the best finished run on the rows that score it costs."""
        folders = [*map(self.folder, self.done)]
        flipped = [one for folder in folders if (one := mirrored(folder)) is not None]
        tables = [oof_of(folder) for folder in [*folders, *flipped]]
        first = tables[0]
        proba_MNC = [one.like(first) for one in tables]
        self.choices.optimism = selection_optimism(first.metric, first.rows, proba_MNC)
        self.choices.compared = len(tables)

    def blend(self) -> Run | None:
        """Blend the finished runs, unless that is done; return the blend."""
        folders = self.members()
        if not folders:
            return None
        names = sorted(folder.name for folder in folders)
        known = blended_plan(self.plan)
        is_known = known is not None and known["stopped"].keys() == self.choices.stopped.keys()
        if known is not None and is_known and known["runs"] == names:
            return Run(self.plan.folder)
        start = self.clock.spent
        self._estimate_optimism()
        made = blend_runs(
            self.plan,
            folders,
            notes=notes_of(self.plan, self.choices),
            record=self.choices.record(names),
            section=section_of(self.plan, self.choices, self.progress),
            say=quiet,
        )
        self.blend_seconds = self.clock.spent - start
        self.last_blend = self.clock.spent
        members = counted(len(made.info["members"]), "run")
        self.say(f"{self.plan.folder}: blend of {members}, {_headline(made)}")
        return made


def _headline(run: Run) -> str:
    headline = run.report["headline"]
    if headline["value"] is None:
        return "without a score"
    return f"OOF {title_of(run.report)} {num(headline['value'])} {span(headline)}"
