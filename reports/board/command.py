"""The command leaderboard.py after its flags are parsed: once, or again and again with --watch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from foldblend.errors import UserError
from foldblend.files import page_file
from foldblend.streams import print_line
from reports.board.find import find_runs
from reports.board.output import Output
from reports.board.running_words import running_lines
from reports.board.text import board_lines, pair_lines
from reports.board.watch import Memory, boards_of, watch
from reports.text import folded, screen_width

if TYPE_CHECKING:
    from reports.commands import BoardConfig

__all__ = ["compare"]

EVERY = 10.0  # seconds between two looks


def compare(config: BoardConfig) -> None:
    """Print the leaderboard, and write the page and the JSON file. Raises UserError."""
    if not config.runs:
        raise UserError("RUNS: missing; pass run folders, such as python leaderboard.py outputs/*")
    output = Output(
        page=None if config.no_page else page_file(config.page, flag="--page"),
        json=None if config.json is None else page_file(config.json, flag="--json"),
    )
    options = {name: getattr(config, name) for name in ("metric", "score_by", "group_pool")}
    if config.watch:
        _watch(config, output, options)
        return
    runs, every = boards_of(config.runs, now=time.time(), memory=Memory(), **options)
    if not runs and not every["running"]:
        # Its error says for each folder why it is no run.
        find_runs(config.runs)
    print("\n".join(_lines(every)))
    output.write(every, runs)
    output.say_files()


def _lines(every: Mapping[str, Any]) -> list[str]:
    """Return what a terminal shows of the boards."""
    width = screen_width()
    boards = every["boards"]
    lines = [line for one in boards for line in [*board_lines(every, one, width=width), ""]]
    if len(boards) == 1 and len(boards[0]["rows"]) == 2:
        lines += pair_lines(boards[0], width=width)
    lines += running_lines(every["running"], width=width)
    lines += [
        line for one in every["skipped"] for line in folded(f"skipped {one['path']}: {one['why']}")
    ]
    return lines


def _watch(config: BoardConfig, output: Output, options: Mapping[str, Any]) -> None:
    """Write page and JSON file again and again, until Ctrl-C. Raises UserError."""
    every = EVERY if config.every is None else config.every
    look = watch(
        config.runs,
        every=every,
        first=lambda boards: print_line("\n".join(_lines(boards))),
        publish=lambda boards, runs: output.write(boards, runs, reload=every),
        say=print_line,
        sleep=time.sleep,
        now=time.time,
        clock=lambda moment: time.strftime("%H:%M:%S", time.localtime(moment)),
        **options,
    )
    if look.every is not None:
        output.end(look.every, look.runs)
    print_line("the watch has ended")
