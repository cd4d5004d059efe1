"""Making of a plan's runs: frozen ones, a race of fine-tuned ones, views, and blends in between."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from foldblend.cli import Say
from foldblend.errors import UserError, counted
from foldblend.failures import WriteFailed
from foldblend.files import is_file
from foldblend.progress import duration
from foldblend.runs.run import Run
from foldblend.runs.schema import read_info
from foldblend.scores.optimism import selection_optimism
from foldblend.scores.race import clear_losers, helpful, leads, race
from foldblend.scores.run_metric import metric_of
from foldblend.scores.score import Gain
from pipeline.config.settings import replace
from pipeline.cv import cross_validate
from pipeline.plan.blended import blend_runs, blended_runs, heal
from pipeline.plan.choices import Choices
from pipeline.plan.clock import Clock, TimeUp
from pipeline.plan.done import Progress, progress_of
from pipeline.plan.fold_rows import fold_rows
from pipeline.plan.plan_file import Plan, PlannedRun
from pipeline.plan.section import notes_of, section_of
from pipeline.plan.views import add_views, view_folders

__all__ = ["execute"]

# Folds of a run, until one has begun.
FOLDS = 5
# Rounds of the race: a loser stops after its first or second fold.
ROUNDS = 2
# Seconds that a blend takes until one was made, and how much longer the next one may take.
FIRST_BLEND = 10.0
GROWTH = 1.3
# A blend between runs may take this share of the time since the last one.
SHARE_OF_BLENDS = 0.15

# Lines of a run that are shown; all are in plan.log.
SHOWN = re.compile(r"(repeat \d+ )?fold \d+: |warning: |OOF ")


class Execution:
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
        self.slower: dict[bool, float] = {}
        """Seconds of runs over their estimates, of frozen and of fine-tuned runs."""

    @property
    def reserve(self) -> float:
        """Seconds that the last blend and its report need."""
        return self.blend_seconds * GROWTH + 2.0

    def folder(self, run: PlannedRun) -> Path:
        return self.plan.runs_folder / run.name

    def progress(self, run: PlannedRun) -> Progress:
        return progress_of(self.folder(run))

    def expected(self, run: PlannedRun) -> float:
        """Return the seconds that a run still needs, by its finished folds or its estimate."""
        done = self.progress(run)
        if done.state == "done":
            return 0.0
        num = self.num_models
        if done.folds and not run.is_frozen:
            return done.seconds / done.folds * (num - done.folds)
        estimate = 0.0 if run.seconds is None else run.seconds
        return estimate * self.slower.get(run.is_frozen, 1.0)

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

    # -- single runs --

    def make(self, run: PlannedRun, *, only: int | None = None) -> bool:
        """Make a run, or one of its folds, and return whether that is done.

        A run that cannot be made is noted, and the others are made all the same. Raises TimeUp at
        the end of the time, and WriteFailed for a full disk.
        """
        config = self.plan.config_of(run)
        if only is not None:
            config = replace(config, only_folds=str(only))
        before = self.clock.spent
        left_before = self.expected(run)
        was = self.progress(run)
        try:
            with self.clock.alarm(self.reserve):
                cross_validate(config, say=self._log)
        except WriteFailed:
            raise
        except UserError as error:
            self.failed[run.name] = str(error)
            self.say(f"{run.name}: cannot be made: {error}")
            return False
        if only is None and was.state == "left" and left_before > 0:
            self.slower[run.is_frozen] = (
                self.slower.get(run.is_frozen, 1.0) * (self.clock.spent - before) / left_before
            )
        return True

    def _log(self, line: str) -> None:
        """Keep a line of a run in plan.log, and show it if it says how a fold went."""
        with (self.plan.runs_folder / "plan.log").open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
        if SHOWN.match(line):
            self.say(f"  {line}")

    # -- the parts of a plan --

    def frozen_runs(self) -> None:
        """Make the runs with a frozen backbone, and blend what is there after each."""
        for run in self.plan.runs:
            if run.is_frozen and run.name not in self.failed:
                self.whole(run)

    def whole(self, run: PlannedRun) -> None:
        """Make all of a run if it fits into the time, and blend it with the others."""
        if self.progress(run).state == "done":
            return
        seconds = self.expected(run)
        # The first run is made whatever it may take: it is the plan's first answer.
        if self.members() and not self.fits(seconds):
            self.say(f"{run.name}: left, as it would take about {duration(seconds)}")
            return
        self.say(f"{run.name}: {self._about(seconds)}")
        if self.make(run):
            self.blend_if_due()

    def _about(self, seconds: float) -> str:
        left = self.clock.left
        said = f"about {duration(seconds)}" if seconds else "begins"
        return said if np.isinf(left) else f"{said}; {duration(left)} are left"

    def tuned_runs(self) -> None:
        """Race the fine-tuned runs: as many at a time as fit into the time with all folds."""
        while True:
            batch = self._batch()
            if not batch:
                return
            self._race(batch)

    def _batch(self) -> list[PlannedRun]:
        """Return the next runs to race, which fit into the time even if none of them stops."""
        found: list[PlannedRun] = []
        left = self.clock.left - self.reserve
        for run in self.plan.runs:
            out = run.is_frozen or run.name in self.failed or run.name in self.choices.stopped
            if out or self.progress(run).state == "done":
                continue
            seconds = self.expected(run)
            if seconds <= left or not (found or self.members()):
                found.append(run)
                left -= seconds
        return found

    def _race(self, batch: Sequence[PlannedRun]) -> None:
        num_models = self.num_models
        rounds = min(ROUNDS, num_models - 1) if len(batch) > 1 or self._rivals() else 0
        self.say(
            f"fine-tuning {counted(len(batch), 'run')}"
            + (", of which clear losers stop after one or two folds" if rounds else "")
        )

        def evaluate(configuration: int, fold: int) -> bool:
            run = batch[configuration]
            if run.name in self.failed:
                return False
            done = self.progress(run)
            if done.state == "done" or (fold < rounds and done.folds > fold):
                return True
            seconds = self.expected(run)
            if self.members() and not self.fits(seconds):
                self.say(f"{run.name}: left, as it would take about {duration(seconds)} more")
                self.failed[run.name] = "no time was left for it"
                return False
            if fold < rounds:
                self.say(f"{run.name}, fold {fold}")
                return self.make(run, only=fold)
            self.say(f"{run.name}, its other folds: {self._about(seconds)}")
            made = self.make(run)
            if made:
                self.blend_if_due()
            return made

        compared: list[PlannedRun] = []

        def compare(configurations: Sequence[int], num_folds: int) -> Sequence[Gain]:
            compared[:] = [batch[one] for one in configurations]
            return self._compare(compared, num_folds)

        def stopped(_: Sequence[Gain]) -> list[int]:
            names = self.choices.stopped
            return [place for place, run in enumerate(compared) if run.name in names]

        race(len(batch), num_models, evaluate, compare, rule=stopped, rounds=rounds)

    def _rivals(self) -> list[Path]:
        """Return finished runs with which those of a race are compared."""
        return [self.folder(run) for run in self.plan.runs if self.progress(run).state == "done"]

    def _compare(self, runs: Sequence[PlannedRun], num_folds: int) -> list[Gain]:
        """Return by how much the best run leads over each, on the folds that all have.

        Finished runs count among them. Clear losers are noted, unless they would help a blend.
        """
        folders = [self.folder(run) for run in runs]
        rivals = [folder for folder in self._rivals() if folder not in folders]
        tables = [fold_rows(folder, num_folds) for folder in [*folders, *rivals]]
        first = tables[0]
        proba_MNC = [one.like(first) for one in tables]
        found = leads(first.metric, first.rows, proba_MNC)[: len(runs)]
        lost = clear_losers(found) if self.plan.stop_losers else []
        if lost:
            helping = helpful(first.metric, first.rows, proba_MNC)
            lost = [place for place in lost if place not in helping]
        for place in lost:
            self._stop(runs[place].name, num_folds, found[place])
        return found

    def _stop(self, name: str, num_folds: int, lead: Gain) -> None:
        self.choices.stop(name, num_folds, lead)
        self.choices.write(self.plan)
        self.say(
            f"{name}: stopped after {counted(num_folds, 'fold')}, as it is worse than the best run"
            f" by {lead.value:.4f} +- {lead.error:.4f}"
        )

    def views(self) -> None:
        """Add test-time augmentation to the best runs while there is time."""
        if self.plan.views == "none":
            return
        done = [run for run in self.plan.runs if self.progress(run).state == "done"]
        order = sorted(done, key=self._by_score)
        for run in order:
            if add_views(self.plan, run, clock=self.clock, reserve=self.reserve, say=self.say):
                self.blend_if_due()

    def _by_score(self, run: PlannedRun) -> float:
        score = self.progress(run).score
        folder = self.folder(run)
        if score is None or not np.isfinite(score):
            return np.inf
        return -score * metric_of(Run(folder).info).sign

    # -- blends --

    def members(self) -> list[Path]:
        """Return the folders of finished runs that are blended, those with further views too."""
        done = [self.folder(run) for run in self.plan.runs if self.progress(run).state == "done"]
        return [*done, *view_folders(self.plan)]

    def blend_if_due(self) -> None:
        """Blend what is finished, unless blends would take too much of the time."""
        since = self.clock.spent - self.last_blend
        if not self.plan.folder.exists() or self.blend_seconds < SHARE_OF_BLENDS * since:
            self.blend()

    def _estimate_optimism(self) -> None:
        """Estimate what picking the best finished run on the rows that score it costs."""
        done = [run for run in self.plan.runs if self.progress(run).state == "done"]
        tables = [fold_rows(self.folder(run), self.num_models) for run in done]
        first = tables[0]
        proba_MNC = [one.like(first) for one in tables]
        self.choices.optimism = selection_optimism(first.metric, first.rows, proba_MNC)
        self.choices.compared = len(done)

    def blend(self, *, shows: bool = False) -> Run | None:
        """Blend the finished runs, unless that is done; return the blend."""
        folders = self.members()
        if not folders:
            return None
        key = {folder.name for folder in folders}
        if self.choices.blended == sorted(key) and blended_runs(self.plan):
            return Run(self.plan.folder)
        start = self.clock.spent
        self.choices.blended = sorted(key)
        self._estimate_optimism()
        made = blend_runs(
            self.plan,
            folders,
            notes=notes_of(self.plan, self.choices),
            record=self.choices.record(sorted(key)),
            section=section_of(self.plan, self.choices, self.progress),
            say=self.say if shows else _quiet,
        )
        self.choices.write(self.plan)
        self.blend_seconds = self.clock.spent - start
        self.last_blend = self.clock.spent
        num = counted(len(made.info["members"]), "run")
        self.say(f"{self.plan.folder}: blend of {num}, {_headline(made)}")
        return made


def _headline(run: Run) -> str:
    headline = run.report["headline"]
    value = headline["value"]
    if value is None:
        return "without a score"
    low, high = headline["low"], headline["high"]
    span = "" if low is None or high is None else f" [{low:.4f}, {high:.4f}]"
    return f"OOF {run.info['metric']} {value:.4f}{span}"


def _quiet(line: str) -> None:
    """Take a line and print nothing."""


def execute(plan: Plan, clock: Clock, *, say: Say) -> Run:
    """Make the runs of a plan within the time, and return their blend.

    Raises
    ------
    UserError
        If no run could be made.
    """
    heal(plan)
    work = Execution(plan, clock, say)
    try:
        for part in (work.frozen_runs, work.tuned_runs, work.views):
            part()
    except TimeUp:
        say("the time is up; the run in the making is left, and the same command goes on with it")
    made = work.blend()
    if made is None:
        why = "; ".join(f"{name}: {one}" for name, one in work.failed.items())
        raise UserError(f"{plan.runs_folder}: no run could be finished ({why or 'no time'})")
    return made
