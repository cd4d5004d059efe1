"""The leaderboard, made again as runs go on: changes between two looks, and the loop."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from foldblend.errors import UserError, counted
from foldblend.runs.check import NOT_A_RUN
from foldblend.runs.run import Run
from foldblend.runs.so_far import stamp
from reports.board.find import STAMPED, folders_of, look_for_runs, runs_in
from reports.board.leaderboard import leaderboard
from reports.board.memory import Memory
from reports.board.running import running_row, running_stamp
from reports.board.running_words import now_words
from reports.text import printable

__all__ = ["Look", "Memory", "find_running", "watch", "watch_once"]

EMPTY = "holds no run yet"
FULL = "holds runs, but stands beside runs; watch it without them, or pass its runs"
Say = Callable[[str], None]
# Files of a finished run that a page shows or links to.
SHOWN = (*STAMPED, "report.html")


@dataclass(frozen=True, kw_only=True)
class Look:
    """State of the runs at one moment."""

    marks: Mapping[str, object] = field(default_factory=dict)
    """Stamp of each folder, which changes with its files."""
    states: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """For each folder its state in words: first how it stands, then how far it is."""
    every: Mapping[str, Any] | None = None
    """The boards; None if they could not be made."""
    runs: tuple[Run, ...] = ()
    """The finished runs on them."""
    changes: tuple[str, ...] = ()
    """What has changed since the look before, in words."""
    problem: str | None = None
    """Why the boards could not be made, so that they are those of an earlier look."""
    is_new: bool = False
    """Whether anything may differ from the look before, also what `changes` does not tell."""


Publish = Callable[[Look], object]


def find_running(
    paths: Sequence[str | Path], *, now: float, memory: Memory | None = None, **options: Any
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Return the rows of the unfinished runs among paths, and why others have none, by path.

    `options` are those of `leaderboard`, for scores so far.
    """
    memory = Memory() if memory is None else memory
    rows: dict[str, dict[str, Any]] = {}
    broken: dict[str, str] = {}
    for path in folders_of(paths):
        place = os.path.realpath(path)
        if place in rows or not memory.is_unfinished(path):
            continue
        try:
            rows[place] = running_row(path, now=now, cache=memory.cache, **options)
        except UserError as error:
            broken[printable(path)] = printable(str(error).removeprefix(f"{path}/"))
    names = [row["name"] for row in rows.values()]
    for row in rows.values():
        # As on the boards, a name that occurs twice does not tell.
        if names.count(row["name"]) > 1:
            row["name"] = row["path"]
    return list(rows.values()), broken


def boards_of(
    paths: Sequence[str | Path],
    *,
    now: float,
    memory: Memory,
    **options: Any,
) -> tuple[list[Run], dict[str, Any]]:
    """Return the finished runs among paths, and their leaderboard with rows of the unfinished ones.

    `options` are those of `leaderboard`. Raises UserError if runs cannot be compared.
    """
    runs, skipped = look_for_runs(paths, memory.known)
    running, broken = find_running(paths, now=now, memory=memory, **options)
    shown = {one["path"] for one in running}
    rest = [
        {"path": one["path"], "why": broken.get(one["path"], one["why"])}
        for one in skipped
        if one["path"] not in shown
    ]
    return runs, leaderboard(runs, rest, running=running, cache=memory.cache, **options)


def watch_once(
    paths: Sequence[str | Path],
    before: Look | None,
    *,
    now: float,
    memory: Memory,
    **options: Any,
) -> Look:
    """Look at runs and return what they are now, with what has changed since the look before.

    Whatever is wrong with a run is said in its row or among the skipped ones.

    Parameters
    ----------
    paths
        Folders of runs, or folders that hold runs.
    before
        The look before; None: this is the first one.
    now
        The time in seconds since 1970.
    memory
        What earlier looks have read; it is extended.
    options
        Options of `reports.board.leaderboard.leaderboard`.
    """
    before = Look() if before is None else before
    try:
        marks = {str(path): _mark(path, memory) for path in folders_of(paths)}
        if marks == before.marks:
            return replace(before, changes=(), is_new=False)
        runs, every = boards_of(paths, now=now, memory=memory, **options)
    # A run may be removed while it is read.
    except (UserError, OSError) as error:
        problem = printable(str(error))
        is_new = before.problem != problem
        return replace(
            before,
            marks={},
            problem=problem,
            changes=(f"not written: {problem}",) if is_new else (),
            is_new=is_new,
        )
    for one in every["skipped"]:
        # A folder that is given and has no run.json is one in which runs are expected.
        if one["why"] == NOT_A_RUN and Path(one["path"]).is_dir():
            one["why"] = FULL if runs_in(Path(one["path"])) else EMPTY
    states = _states(every)
    memory.cache.drop_unused()
    return Look(
        marks=marks,
        states=states,
        every=every,
        runs=tuple(runs),
        changes=_changes(before.states, states),
        is_new=True,
    )


def _mark(path: Path, memory: Memory) -> object:
    return running_stamp(path) if memory.is_unfinished(path) else stamp(path, SHOWN)


def _states(every: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return the state of each run in words, by its path."""
    found: dict[str, tuple[str, ...]] = {}
    for board in every["boards"]:
        for row in board["rows"]:
            found[row["path"]] = ("finished", str(row["finished"]), repr(row["headline"]))
    for row in every["running"]:
        num = row["num_folds"] * row["num_repeats"]
        found[row["path"]] = (
            row["state"],
            f"{row['folds_done']} of {counted(num, 'fold')} done",
            now_words(row),
        )
    for one in every["skipped"]:
        if one["why"] != EMPTY:
            found[one["path"]] = ("skipped", one["why"])
    return found


def _changes(
    before: Mapping[str, tuple[str, ...]], now: Mapping[str, tuple[str, ...]]
) -> tuple[str, ...]:
    """Return what has changed between two looks, a text per run."""
    found = [f"{path}: removed" for path in before if path not in now]
    for path, state in now.items():
        old = before.get(path)
        if old is None:
            more = "" if state[0] == "finished" else f", {state[1]}"
            found.append(f"{path}: new, {state[0]}{more}")
        elif old[0] != state[0]:
            found.append(f"{path}: {state[0]}")
        elif old != state:
            place = next(
                index for index, one in enumerate(state) if len(old) <= index or old[index] != one
            )
            found.append(f"{path}: {'made again' if state[0] == 'finished' else state[place]}")
    return tuple(found)


def watch(
    paths: Sequence[str | Path],
    *,
    every: float,
    first: Callable[[Mapping[str, Any]], object],
    publish: Publish,
    say: Say,
    sleep: Callable[[float], object],
    now: Callable[[], float],
    clock: Callable[[float], str],
    **options: Any,
) -> Look:
    """Look at runs again and again until Ctrl-C, and publish the boards when something changed.

    Parameters
    ----------
    paths
        Folders of runs, or folders that hold runs.
    every
        Seconds between two looks.
    first
        Shows the boards of the first look.
    publish
        Writes the boards of a look.
    say
        Prints a line on what has changed.
    sleep, now
        As in the module `time`.
    clock
        Returns a time of day for `say`.
    options
        Options of `reports.board.leaderboard.leaderboard`.

    Returns
    -------
    Look
        The last look.

    Raises
    ------
    UserError
        If the first look fails. Later the watch goes on, and tries again when something changes.
    """
    memory = Memory()
    look = watch_once(paths, None, now=now(), memory=memory, **options)
    if look.problem is not None:
        raise UserError(look.problem)
    assert look.every is not None
    first(look.every)
    try:
        publish(look)
        say(f"watching {', '.join(printable(str(path)) for path in paths)}; Ctrl-C ends it")
        unwritten = None
        while True:
            sleep(every)
            moment = now()
            look = watch_once(paths, look, now=moment, memory=memory, **options)
            if look.changes:
                say(f"{clock(moment)} {'; '.join(look.changes)}")
            if look.is_new or unwritten:
                why = _unpublished(publish, look)
                # The same reason is not said at every look.
                if why not in (None, unwritten):
                    say(f"{clock(moment)} not written: {why}")
                unwritten = why
    except KeyboardInterrupt:
        return look


def _unpublished(publish: Publish, look: Look) -> str | None:
    """Publish a look; return why it was not written, such as a full disk, or None if it was."""
    try:
        publish(look)
    except (UserError, OSError) as error:
        return printable(str(error))
    return None
