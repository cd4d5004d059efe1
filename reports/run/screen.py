"""The first screen of a report: the few lines that a command prints when a run is finished."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from foldblend.cli import program
from foldblend.errors import counted
from foldblend.runs.run import Run
from reports.block_kinds import screen_lines as section_screen_lines
from reports.run.by_group import other_score, values_by_group
from reports.run.next_steps import next_steps, quoted
from reports.run.report import write_report
from reports.run.scored_test import TITLE
from reports.run.text import single_model_note
from reports.sections_file import read_sections
from reports.text import folded, groups_of, num, screen_width, span, table, title_of

__all__ = ["MOST_LINES", "finish", "screen_lines"]

MOST_LINES = 24  # and an empty line before it
MOST_NOTE_LINES = 4
MOST_FOLDS = 10
WORST_CLASSES = 3
LEAST_NEXT_LINES = 3  # the heading and one step

Report = Mapping[str, Any]


def _headline(report: Report, width: int) -> list[str]:
    title = title_of(report)
    size = (
        f"{counted(report['num_images'], 'image')} of"
        f" {counted(report['num_groups'], report['group_name'])}"
    )
    score = f"{num(report['headline']['value'])} {span(report['headline'])}"
    other = other_score(report)
    beside = "" if other is None else f"; {other[0]} {num(other[1]['value'])} {span(other[1])}"
    return folded(f"OOF {title} {score} ({size}){beside}", width=width)


def _folds(report: Report, width: int) -> list[str]:
    if len(report["folds"]) < 2:
        return []
    title = f"{report['num_folds']} folds"
    if report["num_repeats"] > 1:
        title += f" x {report['num_repeats']} repeats"
    mean = f"mean {num(report['folds_mean'])}, standard deviation {num(report['folds_std'])}"
    scores = [f"{row['score']:.3f}" if row["score"] is not None else "-" for row in report["folds"]]
    each = f"{' '.join(scores)}; " if len(scores) <= MOST_FOLDS else ""
    return folded(f"{title}: {each}{mean}", width=width)


def _attributes(report: Report, width: int) -> list[str]:
    if not report["attributes"]:
        return []
    by_group = values_by_group(report)
    scores = [
        f"{row['name']} {num(row['f1_macro']['value'])}"
        + (
            f" (by {report['group_name']} {num(by_group[row['name']])})"
            if row["name"] in by_group
            else ""
        )
        for row in report["attributes"]
    ]
    return folded(f"macro F1 by attribute: {', '.join(scores)}", width=width)


def _test_score(report: Report, width: int) -> list[str]:
    one = report.get("test_score")
    if one is None:
        return []
    score = f"{title_of({**report, **one})} {num(one['score']['value'])} {span(one['score'])}"
    return folded(f"{TITLE}: {score} ({counted(one['num_images'], 'image')})", width=width)


def _taken_for(report: Report, label: int) -> str:
    """Return the class that is predicted most often for wrong images of a class."""
    counts_CC = report["confusion"]["counts"]
    if counts_CC is None:
        # With many classes only the most frequent confusions are recorded.
        name = report["class_names"][label]
        most = report["confusion"]["most"]
        return next((row["predicted"] for row in most if row["true"] == name), "-")
    wrong = [0 if other == label else count for other, count in enumerate(counts_CC[label])]
    return report["class_names"][wrong.index(max(wrong))] if any(wrong) else "-"


def _worst_classes(report: Report, width: int) -> list[str]:
    if len(report["per_class"]) < 2:
        return []
    worst = sorted(report["per_class"], key=lambda row: row["f1"])[:WORST_CLASSES]
    header = ["worst classes", "F1", "images", groups_of(report), "most often taken for"]
    cells = [
        [
            row["name"],
            f"{row['f1']:.3f}",
            f"{row['support']:,}",
            str(row.get("groups", "-")),
            _taken_for(report, row["class"]),
        ]
        for row in worst
    ]
    return table(header, cells, name_width=30, width=width)


def _blocks(run: Run) -> list[dict[str, Any]]:
    """Return what stages added to the report for this screen, such as the methods of a blend."""
    return [block for one in read_sections(run.path) for block in one.get("screen", ())]


def _notes(report: Report, blocks: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    """Return the first notes, without those that a block of the screen repeats."""
    shown = " ".join(block.get("text", "").lower() for block in blocks)
    notes = [note for note in report["notes"] if note.lower() not in shown]
    lines: list[str] = []
    for number, note in enumerate(notes):
        more = folded(f"note: {note}", width=width)
        if lines and len(lines) + len(more) > MOST_NOTE_LINES:
            left = len(notes) - number
            return [*lines, f"note: {counted(left, 'more note')} in the report"]
        lines += more
    return lines


def _next(report: Report, folder: Path, width: int, most_lines: int) -> list[str]:
    lines: list[str] = []
    for step in next_steps(report, folder):
        more = folded(f"- {step}", width=width)
        # Steps are sorted by importance, so a less important one is not shown in its place.
        if 1 + len(lines) + len(more) > most_lines:
            continue  # a shorter step may still fit
        lines += more
    return ["What to look at next:", *lines] if lines else []


def _files(run: Run) -> list[str]:
    page = run.path / "report.html"
    lines = [f"report: {page}"]
    if not page.is_file():
        lines = [
            f"page: not drawn; {program('report.py')} {quoted(run.path)} draws it",
            f"report: {run.path / 'report.txt'}",
        ]
    if run.info.get("has_test"):
        lines.append(f"submission: {run.path / 'submission.csv'}")
    return lines


def screen_lines(run: Run, *, width: int | None = None) -> list[str]:
    """Return a finished run's first screen, at most 25 lines for names of usual length.

    Parameters
    ----------
    run
        A run whose report was written.
    width
        Columns of text; default: those of the terminal.
    """
    width = screen_width() if width is None else width
    report = run.report
    note = single_model_note(report)
    blocks = _blocks(run)
    # The table of a stage, such as the methods of a blend, replaces the worst classes.
    has_table = any(block["kind"] == "table" for block in blocks)
    parts: Sequence[list[str]] = [
        [
            *_headline(report, width),
            *(folded(note, width=width) if note else []),
            *_notes(report, blocks, width),
        ],
        [*_folds(report, width), *_attributes(report, width)],
        section_screen_lines(blocks, width=width),
        [] if has_table else _worst_classes(report, width),
    ]
    files = [*_test_score(report, width), *_files(run)]
    used = sum(len(part) + 1 for part in parts if part) + len(files) + 1
    room = max(MOST_LINES - used, LEAST_NEXT_LINES)
    parts = [*parts, _next(report, run.path, width, room)]
    lines = [line for part in parts if part for line in [*part, ""]]
    return [*lines, *files]


def finish(run: Run, *, page: bool, report: str, say: Callable[[str], None]) -> None:
    """Write a finished run's report and print its first screen, or all of it for `report` "full".

    Raises UserError for a run folder whose files do not fit together.
    """
    text = write_report(run, page=page)
    if report == "full":
        say(text)
    for line in _files(run) if report == "full" else ["", *screen_lines(run)]:
        say(line)
