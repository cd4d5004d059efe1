"""The commands leaderboard.py and report.py, from words to exit code."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from foldblend.cli import parse_flags, run_command
from foldblend.errors import UserError, listed, require
from foldblend.flags import check_lengths, expand_home
from foldblend.help import About
from foldblend.plugins import parse_parts
from foldblend.scores.by_group import check_pool
from foldblend.scores.metrics import MEAN_COST, check_metric
from foldblend.streams import print_aside

__all__ = ["BoardConfig", "ReportConfig", "leaderboard", "report"]

ABOUT_BOARD = About(
    "leaderboard.py",
    "Compare finished runs: scores with intervals, paired differences to the best, time and cost."
    " With --watch, write the page again as runs go on.",
    ("outputs/*", "outputs/a outputs/b", "outputs/* --json scores.json", "--watch outputs/"),
)
ABOUT_REPORT = About(
    "report.py",
    "Write the reports of finished runs again, each from the files of its run folder.",
    ("outputs/RUN", "outputs/*", "outputs/RUN --explain"),
)


# A day: whoever looks less often can run the command again.
MOST_SECONDS = 86_400


@dataclass(frozen=True, kw_only=True, slots=True)
class BoardConfig:
    """Settings of leaderboard.py."""

    runs: tyro.conf.Positional[tuple[str, ...]] = ()
    """Folders of runs and blends, such as outputs/*, or a folder that holds them. Unfinished runs
    are listed apart.
    """
    metric: str | None = None
    """Score to rank by (see run_cv.py --help); default: the metric of the runs, or f1_macro if they
    differ.
    """
    score_by: Literal["image", "group"] | None = None
    """What the score counts: images, or groups, whose images' logits are averaged. Default: group
    if all runs are scored by group, else image.
    """
    group_pool: str | None = None
    """How a group's images become one prediction: mean, max or noisy-or (any image shows it).
    Default: that of the runs, or mean.
    """
    page: str = "leaderboard.html"
    """HTML file to write."""
    no_page: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Write no page."""
    json: str | None = None
    """JSON file for the same numbers. Default: none is written."""
    watch: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on, and write page and JSON file again when a run has changed, until Ctrl-C. New runs in
    a folder that holds runs are found, and each unfinished run has a page.
    """
    every: float | None = None
    """Seconds between two looks of --watch. Default: 10."""

    def __post_init__(self) -> None:
        require(
            self.every is None or 0 < self.every <= MOST_SECONDS,
            f"--every {self.every}: pass seconds above 0, at most {MOST_SECONDS:,}",
        )
        require(self.every is None or self.watch, "--every: is of --watch only; pass both")
        expand_home(self, "runs", "page", "json")
        check_lengths(self, "page", "json")
        if self.metric not in (None, MEAN_COST):
            check_metric(self.metric)
        if self.group_pool is not None:
            check_pool(self.group_pool)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportConfig:
    """Settings of report.py."""

    runs: tyro.conf.Positional[tuple[str, ...]] = ()
    """Folders of runs and blends, such as outputs/*; unfinished runs are skipped."""
    page: bool = True
    """Write report.html too."""
    safe_csv: bool = False
    """Put an apostrophe before file and class names in predictions and suspects that a
    spreadsheet would take for a formula (they start with = + - @).
    """
    explain: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Show where the models looked in the images that the report shows as mistakes. It runs the
    models, needs the images, and keeps the result in the run folder; see docs/explanations.md.
    """
    parts: str | None = None
    """With --explain: your own parts that the run's settings name and that may be imported, as
    module:name, separated by commas.
    """
    trust_parts: bool = False
    """With --explain: import such parts without their names, if their source is what the run was
    made with.
    """

    def __post_init__(self) -> None:
        expand_home(self, "runs")
        parse_parts(self.parts)
        for flag, given in (("--parts", self.parts), ("--trust-parts", self.trust_parts)):
            require(not given or self.explain, f"{flag}: has no effect without --explain; pass it")


def _compare(config: BoardConfig) -> None:
    """Print the leaderboard, and write the page and the JSON file. Raises UserError."""
    # This imports pandas, which takes a while, so the flags are checked first.
    from reports.board.command import compare

    compare(config)


def _write_reports(config: ReportConfig) -> None:
    """Write reports again. Raises UserError at the end if one could not be written."""
    # These import pandas and matplotlib, which take a while, so the flags are checked first.
    from foldblend.runs.broken import BrokenRun
    from foldblend.runs.folder import lock_folder
    from foldblend.spreadsheets import safe_csv
    from reports.board.find import find_runs
    from reports.run.report import write_report

    if not config.runs:
        raise UserError("RUNS: missing; pass run folders, such as python report.py outputs/RUN")
    runs, skipped = find_runs(config.runs)
    failed = []
    written = 0
    for run in runs:
        try:
            if config.explain:
                _explain(run.path, config)
            with lock_folder(run.path, flags=(None, None)), safe_csv(config.safe_csv):
                write_report(run, page=config.page)
            print(f"report written again: {run.path}")
            written += 1
        except BrokenRun as error:
            skipped.append({"path": str(run.path), "why": error.why})
        except UserError as error:
            # The other reports are still written.
            failed.append(str(error))
    if failed:
        raise UserError(f"reports not written: {'; '.join(dict.fromkeys(failed))}")
    if not written:
        reasons = listed("{path}: {why}".format(**one) for one in skipped)
        raise UserError(f"no report was written ({reasons})")
    for one in skipped:
        print_aside(f"skipped {one['path']}: {one['why']}")


def _explain(folder: Path, config: ReportConfig) -> None:
    """Make the explanations of a run. Raises UserError."""
    # The models are the work of a higher layer, so the function is looked up by its public name.
    explain = importlib.import_module("foldblend").explain
    explain(folder, parts=config.parts, trust_parts=config.trust_parts)


def leaderboard(argv: Sequence[str]) -> int:
    """Run the command line of leaderboard.py and return its exit code."""

    def command() -> None:
        _compare(parse_flags(BoardConfig, argv, ABOUT_BOARD))

    return run_command(command, place="--page", resumes=False)


def report(argv: Sequence[str]) -> int:
    """Run the command line of report.py and return its exit code."""

    def command() -> None:
        _write_reports(parse_flags(ReportConfig, argv, ABOUT_REPORT))

    return run_command(command, place="folder", resumes=False)
