"""The commands leaderboard.py and report.py, from words to exit code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from foldblend.cli import parse_flags, run_command
from foldblend.errors import UserError, listed
from foldblend.flags import check_lengths, expand_home
from foldblend.help import About
from foldblend.scores.by_group import check_pool
from foldblend.scores.metrics import MEAN_COST, check_metric
from foldblend.streams import print_aside

__all__ = ["BoardConfig", "ReportConfig", "leaderboard", "report"]

ABOUT_BOARD = About(
    "leaderboard.py",
    "Compare finished runs: scores with intervals, paired differences to the best, time and cost.",
    ("outputs/*", "outputs/a outputs/b", "outputs/* --json scores.json"),
)
ABOUT_REPORT = About(
    "report.py",
    "Write the reports of finished runs again, each from the files of its run folder.",
    ("outputs/RUN", "outputs/*"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class BoardConfig:
    """Settings of leaderboard.py."""

    runs: tyro.conf.Positional[tuple[str, ...]] = ()
    """Folders of runs and blends, such as outputs/*; unfinished runs are skipped."""
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

    def __post_init__(self) -> None:
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

    def __post_init__(self) -> None:
        expand_home(self, "runs")


def _compare(config: BoardConfig) -> None:
    """Print the leaderboard, and write the page and the JSON file. Raises UserError."""
    # These import pandas, which takes a while, so the flags are checked first.
    from foldblend.files import page_file, write_bytes
    from foldblend.runs.folder import write_json
    from reports.board.find import find_runs
    from reports.board.leaderboard import leaderboard
    from reports.board.text import board_lines, pair_lines
    from reports.text import folded, screen_width

    if not config.runs:
        raise UserError("RUNS: missing; pass run folders, such as python leaderboard.py outputs/*")
    page = None if config.no_page else page_file(config.page, flag="--page")
    json_file = None if config.json is None else page_file(config.json, flag="--json")
    runs, skipped = find_runs(config.runs)
    every = leaderboard(
        runs,
        skipped,
        metric=config.metric,
        score_by=config.score_by,
        group_pool=config.group_pool,
    )
    lines = [
        line
        for board in every["boards"]
        for line in [*board_lines(every, board, width=screen_width()), ""]
    ]
    if len(runs) == 2 and len(every["boards"]) == 1:
        lines += pair_lines(every["boards"][0], width=screen_width())
    lines += [line for one in skipped for line in folded(f"skipped {one['path']}: {one['why']}")]
    print("\n".join(lines))
    if json_file is not None:
        write_json(
            json_file,
            every | {"boards": [_without_predictions(board) for board in every["boards"]]},
        )
        print(f"JSON: {json_file}")
    if page is not None:
        # This imports OpenCV, which is not needed without a page.
        from reports.board.page import board_page

        write_bytes(page, board_page(every, runs=runs, folder=page.parent))
        print(f"page: {page}")


def _without_predictions(board: dict[str, Any]) -> dict[str, Any]:
    # They are most of a board, and only the page and the comparison of two runs use them.
    return {name: part for name, part in board.items() if name != "pictures"}


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
        raise UserError(f"reports not written: {'; '.join(failed)}")
    if not written:
        reasons = listed("{path}: {why}".format(**one) for one in skipped)
        raise UserError(f"no report was written ({reasons})")
    for one in skipped:
        print_aside(f"skipped {one['path']}: {one['why']}")


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
