"""The files of the leaderboard: its page, a page for each unfinished run, and the JSON file."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from foldblend.errors import shown
from foldblend.files import check_no_link, exists, write_bytes
from foldblend.runs.folder import write_json
from foldblend.runs.run import Run
from foldblend.streams import print_line
from reports.board.running import without_curves

__all__ = ["MARK", "Output"]

# As `_file_of` names the pages of runs.
NAME = re.compile(r".+-[0-9a-f]{8}\.html")
# In the head of the pages, by which they are known.
MARK = b'<meta name="generator" content="foldblend watch">'
MARK_WITHIN = 2000  # bytes
LONGEST = 80  # letters of a run's name in the name of its page
Boards = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Output:
    """Writes the boards; while runs are watched, also a page for each unfinished one.

    These pages are in a folder beside the leaderboard, and not in the folders of the runs, in which
    other processes write and which may be read-only or removed at any time.
    """

    page: Path | None
    json: Path | None
    known: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """Rows of the runs that had pages in this watch, by the names of these."""

    @property
    def folder(self) -> Path | None:
        """Folder of the pages of runs."""
        return None if self.page is None else self.page.with_name(f"{self.page.stem}-running")

    def write(
        self,
        every: Boards,
        runs: Sequence[Run],
        *,
        reload: float | None = None,
        problem: str | None = None,
    ) -> None:
        """Write the files.

        Parameters
        ----------
        every
            The boards (see `reports.board.leaderboard.leaderboard`).
        runs
            The finished runs.
        reload
            Seconds after which pages load themselves again; None: they do not, and unfinished
            runs have no pages.
        problem
            Why the boards are those of an earlier time, which the page then says.
        """
        if self.json is not None:
            write_json(self.json, plain(every))
        if self.page is None:
            return
        # This imports OpenCV, which is not needed without a page.
        from reports.board.page import board_page
        from reports.board.running_page import reloading, with_alarm

        if reload is not None:
            every = {**every, "running": [*self._write_runs(every, reload, problem)]}
        html = with_alarm(board_page(every, runs=runs, folder=self.page.parent), problem)
        write_bytes(self.page, html if reload is None else reloading(html, reload))

    def _write_runs(
        self, every: Boards, reload: float, problem: str | None
    ) -> Iterator[dict[str, Any]]:
        """Write a page for each unfinished run, and yield its row with the address of the page."""
        from reports.board.running_page import ended_page, reloading, running_page, with_alarm

        assert self.page is not None
        assert self.folder is not None
        check_no_link(self.folder)
        back = f"../{_address(self.page.name)}"
        files = {_file_of(row): row for row in every["running"]}
        for name, row in files.items():
            try:
                html = running_page(row, back=back)
            except Exception as error:  # one odd run must not end the watch
                why = f"its page cannot be drawn ({_words(error)})"
                html = ended_page(row["name"], ended=f"unfinished, and {why}", back=back)
                row = {**row, "problems": [*row["problems"], why]}
            write_bytes(self.folder / name, reloading(with_alarm(html, problem), reload))
            yield {**row, "page": f"{_address(self.folder.name)}/{name}"}
        for name in self.known.keys() - files.keys():
            self._write_ended(name, self.known[name], every, back)
        for file in self._pages():
            if file.name not in files and file.name not in self.known:
                # A watch that was killed left it.
                file.unlink(missing_ok=True)
        self.known.update(files)

    def _write_ended(self, name: str, row: Mapping[str, Any], every: Boards, back: str) -> None:
        """Replace the page of a run that is finished or gone, which a browser may still show."""
        from reports.board.running_page import ended_page

        assert self.folder is not None
        is_done = any(
            one["path"] == row["path"] for board in every["boards"] for one in board["rows"]
        )
        report = Path(row["path"]) / "report.html"
        address = _address(os.path.relpath(report, self.folder)) if exists(report) else None
        html = ended_page(
            row["name"],
            ended="finished" if is_done else "not among the unfinished runs any more",
            back=back,
            report=address if is_done else None,
        )
        write_bytes(self.folder / name, html)

    def _pages(self) -> list[Path]:
        if self.folder is None or not self.folder.is_dir():
            return []
        found = sorted(self.folder.iterdir())
        return [one for one in found if NAME.fullmatch(one.name) and _is_ours(one)]

    def end(self, every: Boards, runs: Sequence[Run], *, problem: str | None = None) -> None:
        """Write the leaderboard as it stays, and remove the pages of unfinished runs."""
        self.write(every, runs, problem=problem)
        for file in self._pages():
            file.unlink(missing_ok=True)
        if self.folder is not None:
            # It may have other files, or may be absent.
            with contextlib.suppress(OSError):
                self.folder.rmdir()

    def say_files(self) -> None:
        """Print the paths of the files."""
        for what, file in (("JSON", self.json), ("page", self.page)):
            if file is not None:
                print_line(f"{what}: {file}")


def _is_ours(file: Path) -> bool:
    """Return whether a file is a page of a watch, and no other that has such a name."""
    try:
        with file.open("rb") as opened:
            return MARK in opened.read(MARK_WITHIN)
    except OSError:
        return False


def plain(every: Boards) -> dict[str, Any]:
    """Return the boards for JSON, without predictions and curves, which are most of them.

    Only pages and the comparison of two runs use them.
    """
    boards = [
        {name: part for name, part in board.items() if name != "pictures"}
        for board in every["boards"]
    ]
    return {**every, "boards": boards, "running": [*map(without_curves, every["running"])]}


def _words(error: Exception) -> str:
    """Return an error of any kind in one short line."""
    return shown(f"{type(error).__name__}: {' '.join(str(error).split())}", most=80)


def _address(path: str) -> str:
    """Return a path as part of an address; it may have bytes that are no UTF-8."""
    return quote(os.fsencode(path))


def _file_of(row: Mapping[str, Any]) -> str:
    """Return the name of a run's page: its own name as far as a link can have it, and a hash."""
    name = re.sub(r"[^A-Za-z0-9.+_-]", "_", row["name"])[:LONGEST]
    path = os.path.realpath(row["path"]).encode(errors="backslashreplace")
    return f"{name}-{hashlib.blake2b(path, digest_size=4).hexdigest()}.html"
