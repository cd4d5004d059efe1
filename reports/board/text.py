"""The leaderboard in a terminal: one table per data set, and two runs compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from foldblend.errors import counted
from foldblend.progress import duration
from foldblend.scores.by_group import GROUP
from reports.board.changed import changed_images
from reports.board.facts import differing
from reports.board.settings import setting
from reports.text import WIDTH, folded, groups_of, num, signed, span, table

__all__ = [
    "LOWER",
    "about_board",
    "attribute_names",
    "board_lines",
    "columns_beside",
    "has_test",
    "marked",
    "moment",
    "pair_lines",
]

MOST_IDS = 20
# An attribute with a longer name is numbered, and a line above the table explains the number.
LONGEST_HEADER = 20
LOWER = "lower is better"

Board = Mapping[str, Any]


def moment(finished: str | None) -> str:
    """Return an ISO time up to the minute, or "-" for None."""
    return "-" if finished is None else finished[:16].replace("T", " ")


def attribute_names(board: Board) -> list[str]:
    """Return the attributes of all runs of a board."""
    return list(dict.fromkeys(name for row in board["rows"] for name in row["attributes"]))


class Beside(NamedTuple):
    """A column of scores by group; of the class, the scores in the unit that does not rank."""

    header: str
    attribute: str | None
    """None for the class."""
    key: str
    """The key by_group or by_image."""

    def score(self, row: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return the score of a run, or None."""
        found = (one[self.key] for one in row["by_group"] if one["attribute"] == self.attribute)
        return next(found, None)

    def text(self, row: Mapping[str, Any]) -> str:
        """Return the cell of a run."""
        one = self.score(row)
        return "-" if one is None else f"{num(one['value'])} {span(one)}"


def columns_beside(every: Mapping[str, Any], board: Board) -> list[Beside]:
    """Return the columns of scores by group; none if no group has several images."""
    names = dict.fromkeys(one["attribute"] for row in board["rows"] for one in row["by_group"])
    group = board["group_name"]
    ranked_by_group = every.get("score_by") == GROUP
    return [
        Beside("class by image", None, "by_image")
        if name is None and ranked_by_group
        else Beside(f"{name or 'class'} by {group}", name, "by_group")
        for name in names
    ]


def has_test(board: Board) -> bool:
    """Return whether some run of a board has a score on the test set."""
    return any(row["test"] is not None for row in board["rows"])


def marked(row: Mapping[str, Any], groups: str = "groups") -> list[str]:
    """Return the marks of a run whose score is too high: OPTIMISTIC or GROUPS LEAK.

    `groups` is what groups are, in the plural.
    """
    marks = {"optimistic": "OPTIMISTIC", "leaks": f"{groups.upper()} LEAK"}
    return [mark for name, mark in marks.items() if row[name]]


def about_board(every: Mapping[str, Any], board: Board) -> list[str]:
    """Return the sentences above a board."""
    better = "" if every["greater_is_better"] else f" ({LOWER})"
    groups = groups_of(board)
    sentences = [
        (
            f"{counted(board['num_images'], 'image')} of"
            f" {counted(board['num_groups'], board['group_name'])};"
            f" out-of-fold {every['title']}{better}, 95 % intervals by jackknife over {groups}"
        ),
        *board["notes"],
    ]
    if len(board["rows"]) > 1:
        sentences.append(
            f"best: {board['best']} (picked on these same images, so slightly optimistic);"
            f" differences are paired: both scores are compared on the same {groups}"
        )
    if has_test(board):
        sentences.append("test: score on the labels of test images, which nothing else has used")
    if any(marked(row, groups) for row in board["rows"]):
        sentences.append(
            "OPTIMISTIC: epochs were chosen on the rows that are scored;"
            f" {groups.upper()} LEAK: images of one {board['group_name']} are trained on and"
            " scored; such runs are listed last and are never the best unless all runs are marked"
        )
    return sentences


def board_lines(every: Mapping[str, Any], board: Board, *, width: int = WIDTH) -> list[str]:
    """Return a board as lines of at most `width` columns."""
    names = attribute_names(board)
    headers = [
        name if len(name) <= LONGEST_HEADER else f"attribute {index}"
        for index, name in enumerate(names, 1)
    ]
    with_test = has_test(board)
    lines = [*folded(board["data"], width=width), "=" * min(WIDTH, width)]
    for sentence in about_board(every, board):
        lines += folded(sentence, width=width)
    lines += [
        line
        for name, header in zip(names, headers, strict=True)
        if name != header
        for line in folded(f"{header}: {name}", width=width)
    ]
    cells = [
        [
            " ".join([row["name"], *marked(row, groups_of(board))]),
            num(row["headline"]["value"]),
            span(row["headline"]),
            "best" if row["difference"] is None else signed(row["difference"]) or "-",
            *([num(row["test"])] if with_test else []),
            *[
                f"{row['attributes'][name]:.3f}" if name in row["attributes"] else "-"
                for name in names
            ],
            row["kind"],
            "-" if row["models"] is None else str(row["models"]),
            "-" if row["passes"] is None else str(row["passes"]),
            duration(row["seconds"]),
            duration(row["wall"]),
            moment(row["finished"]),
        ]
        for row in board["rows"]
    ]
    header = [
        "run",
        "score",
        "95 % interval",
        "difference to best",
        *(["test"] if with_test else []),
        *headers,
        "kind",
        "models",
        "passes",
    ]
    lines += [
        "",
        *table(
            [*header, "compute", "wall", "finished"],
            cells,
            name_width=28,
            width=width,
            wrap_cells=False,
        ),
        "",
    ]
    lines += _by_group_lines(every, board, width)
    return lines + folded(_explained(lines), width=width)


def _by_group_lines(every: Mapping[str, Any], board: Board, width: int) -> list[str]:
    """Return a table of scores by group, which would make that of the runs too wide."""
    beside = columns_beside(every, board)
    if not beside:
        return []
    cells = [[row["name"], *(one.text(row) for one in beside)] for row in board["rows"]]
    header = ["run", *(one.header for one in beside)]
    return [*table(header, cells, name_width=28, width=width, wrap_cells=False), ""]


def _explained(lines: Sequence[str]) -> str:
    """Return what the columns mean that the table of these lines shows."""
    shown = {word for line in lines for word in line.split() if not line.startswith("(columns")}
    meanings = {
        "passes": "forward passes per test image (models x views; heads on one frozen backbone"
        " share a pass)",
        "compute": "time of all folds together",
        "wall": "time from the first start to the end, if known",
    }
    return "; ".join(f"{name}: {text}" for name, text in meanings.items() if name in shown)


def pair_lines(board: Board, *, width: int = WIDTH) -> list[str]:
    """Return the first two runs of a board compared: settings, and images that changed."""
    rows = board["rows"][:2]
    images = board["pictures"]
    names = [row["name"] for row in rows]
    classes = images["classes"]
    label_N, *predicted = (np.asarray(one) for one in [images["true"], *images["predicted"][:2]])
    lines = [
        *(line for place in (0, 1) for line in folded(f"{place + 1}: {names[place]}", width=width)),
        "",
    ]
    if rows[0]["kind"] == rows[1]["kind"]:
        keys = differing([row["settings"] for row in rows])
        lines.append("settings of 1 | settings of 2:" if keys else "no recorded setting differs")
        for key in keys:
            # In a terminal, the lines of a mapping follow each other.
            both = " | ".join(setting(row, key).replace("\n", "; ") for row in rows)
            lines += folded(f"{key}: {both}", width=width)
    else:
        # A blend and a run have different settings.
        for number, row in enumerate(rows, 1):
            about = f"how {number} was made: {row['about'] or '(not recorded)'}"
            lines += folded(about, width=width)
    only = changed_images(label_N, *predicted)[:2]
    lines += ["", f"images right in 1 only: {len(only[0]):,}; in 2 only: {len(only[1]):,}"]
    counts_2C = [np.bincount(label_N[one], minlength=len(classes)) for one in only]
    changed = np.flatnonzero(counts_2C[0] + counts_2C[1])
    if len(changed):
        cells = [
            [classes[index], *(str(counts_C[index]) for counts_C in counts_2C)] for index in changed
        ]
        header = ["true class", "right in 1 only", "right in 2 only"]
        lines += ["", *table(header, cells, width=width)]
    for which, one in enumerate(only):
        lines += _image_lines(which, one, images, label_N, predicted[1 - which], width)
    return [*lines, ""]


def _image_lines(
    which: int,
    only_N: np.ndarray,
    images: Mapping[str, Any],
    label_N: np.ndarray,
    other_N: np.ndarray,
    width: int,
) -> list[str]:
    """Return the first images that only one of two runs predicts correctly."""
    if not len(only_N):
        return []
    classes: Sequence[str] = images["classes"]
    more = f", the first {MOST_IDS} of {len(only_N):,}" if len(only_N) > MOST_IDS else ""
    lines = ["", f"right in {which + 1} only{more}:"]
    for row in only_N[:MOST_IDS]:
        text = f"{classes[label_N[row]]}; {2 - which} predicts {classes[other_N[row]]}"
        lines += folded(f"{images['image_ids'][row]}: {text}", width=width)
    return lines
