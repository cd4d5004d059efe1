"""The command leaderboard.py after its flags are parsed: once, or again and again with --watch."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foldblend.errors import UserError, require
from foldblend.files import is_file, page_file
from foldblend.streams import print_line
from reports.board.find import find_runs
from reports.board.output import Output
from reports.board.running_words import running_lines
from reports.board.text import board_lines, pair_lines
from reports.board.watch import Look, Memory, boards_of, watch
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
    if output.page is not None and output.json is not None:
        same = os.path.realpath(output.page) == os.path.realpath(output.json)
        require(not same, f"--json {config.json}: is the file of --page; pass another name")
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
    """Write page and JSON file again and again, until Ctrl-C or SIGTERM. Raises UserError."""
    every = EVERY if config.every is None else config.every
    for path in config.runs:
        # A file never becomes a run.
        require(not is_file(Path(path)), f"{path}: is a file; pass the folder to watch")

    ends: list[Callable[[], None]] = []

    def publish(look: Look) -> None:
        assert look.every is not None
        ends[:] = [partial(output.end, look.every, look.runs, problem=look.problem)]
        output.write(look.every, look.runs, reload=every, problem=look.problem)

    try:
        with signals_as_ctrl_c():
            watch(
                config.runs,
                every=every,
                first=lambda boards: print_line("\n".join(_lines(boards))),
                publish=publish,
                say=print_line,
                sleep=time.sleep,
                now=time.time,
                clock=lambda moment: time.strftime("%H:%M:%S", time.localtime(moment)),
                **options,
            )
    finally:
        # However the watch ends, such as by a closed pipe, no page loads itself for ever.
        for end in ends:
            end()
    output.say_files()
    print_line("the watch has ended")


@contextlib.contextmanager
def signals_as_ctrl_c() -> Iterator[None]:
    """Let SIGTERM, and the end of the terminal (SIGHUP), raise KeyboardInterrupt as Ctrl-C does.

    A script's `leaderboard.py --watch outputs/ &` ignores Ctrl-C, so that only these end it. A
    signal that is ignored, as under nohup, or handled already, stays so, as do all of them outside
    the main thread.
    """

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    in_main = threading.current_thread() is threading.main_thread()
    known = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    taken = [one for one in known if in_main and signal.getsignal(one) is signal.SIG_DFL]
    for one in taken:
        signal.signal(one, stop)
    try:
        yield
    finally:
        for one in taken:
            signal.signal(one, signal.SIG_DFL)
