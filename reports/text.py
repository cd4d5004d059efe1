"""A report as text of at most 80 columns: the terminal and report.txt show the same."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from reports.metrics import METRICS

__all__ = ["comparison_lines", "render_text", "table"]

WIDTH = 80
NAME_WIDTH = 40


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, name_width: int = NAME_WIDTH) -> list[str]:
    """Return aligned lines: the first column left, the others right; long names are folded, never cut."""
    folded: list[Sequence[str]] = []
    for row in rows:
        name, *rest = textwrap.wrap(row[0], name_width) or [""]
        folded.append([name, *row[1:]])
        folded += [["  " + more, *[""] * (len(row) - 1)] for more in rest]
    widths = [max(len(row[column]) for row in [header, *folded]) for column in range(len(header))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *[cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]]
        ).rstrip()
        for row in [header, *folded]
    ]


def _num(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _span(interval: Mapping[str, float | None] | None) -> str:
    return "" if interval is None else f"[{_num(interval['low'])}, {_num(interval['high'])}]"


def _signed(interval: Mapping[str, float | None] | None) -> str:
    if interval is None or interval["value"] is None:
        return ""
    return f"{interval['value']:+.4f} [{interval['low']:+.4f}, {interval['high']:+.4f}]"


def _per_class_lines(rows: Sequence[Mapping[str, Any]], first: str) -> list[str]:
    cells = [
        [row["name"], *[f"{row[key]:.3f}" for key in ("precision", "recall", "f1")], str(row["support"])]
        for row in rows
    ]
    return table([first, "precision", "recall", "F1", "n"], cells)


def comparison_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the table of reports.summary.compare's rows, then their paired differences."""
    shown = list(rows[0]["attributes"])[:3]  # more would not fit; report.json has them all
    lines = table(
        ["", "score", "95 % interval", *[name[:7] for name in shown]],
        [
            [
                row["name"],
                _num(row["headline"]["value"]),
                _span(row["headline"]),
                *[f"{row['attributes'][name]:.3f}" for name in shown],
            ]
            for row in rows
        ],
        name_width=28,
    )
    for row in rows:
        if row["difference"] is not None:
            lines += _folded(f"{row['name']} - {row['against']}: {_signed(row['difference'])}, paired")
    return lines


def _folded(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ")


def render_text(report: Mapping[str, Any]) -> str:
    """Return the report (see reports.summary.summarise) as text."""
    title, repeated = METRICS[report["metric"]].title, report["num_repeats"] > 1
    lines = _folded(f"OOF F1 report: {report['name']}") + ["=" * WIDTH]
    lines += _folded(report["about"])
    raw = report.get("raw")
    shape = f"{report['num_folds']} folds" + (f" x {report['num_repeats']} repeats" if repeated else "")
    lines += _folded(
        f"{report['num_images']:,} pictures of {report['num_groups']:,} groups (people), {shape}; "
        f"{report['num_classes_occurring']} of {report['num_classes']} classes occur"
    )
    for note in report.get("notes", []):
        lines += _folded(f"note: {note}")
    lines += [
        "",
        f"OOF {title} {_num(report['headline']['value'])} {_span(report['headline'])}",
        *(
            []
            if report["metric"] == "f1_macro"
            else [f"OOF macro F1 {_num(report['f1_macro']['value'])} {_span(report['f1_macro'])}"]
        ),
        *([f"  on the labels as the files have them {_num(raw['value'])} {_span(raw)}"] if raw else []),
        f"  ({report['interval']})",
    ]
    lines += [
        "",
        *table(
            ["score, pooled over folds" + (", mean over repeats" if repeated else ""), ""],
            [[METRICS[k].title, _num(v)] for k, v in report["scores"].items()],
        ),
    ]
    scores = ["score"] if report["metric"] == "f1_macro" else ["score", "f1_macro"]
    fold_rows = [
        [
            f"{row['repeat']}.{row['fold']}" if repeated else str(row["fold"]),
            *[_num(row[name]) for name in scores],
            str(row["num_images"]),
            str(row["num_groups"]),
        ]
        for row in report["folds"]
    ]
    lines += [
        "",
        *table(
            ["repeat.fold" if repeated else "fold", *[title, "macro F1"][: len(scores)], "pictures", "groups"],
            fold_rows,
        ),
    ]
    lines += [f"mean over folds {_num(report['folds_mean'])}, standard deviation {_num(report['folds_std'])}"]
    for row in report["attributes"]:
        lines += [
            "",
            f"{row['name']}: macro F1 {_num(row['f1_macro']['value'])} {_span(row['f1_macro'])}, "
            f"accuracy {row['accuracy']:.4f}",
        ]
        lines += _per_class_lines(row["values"], "")
    lines += ["", *_per_class_lines(report["per_class"], "class")]
    for heading, rows in report.get("comparisons", {}).items():
        lines += ["", *_folded(f"{title}: {heading}"), *comparison_lines(rows)]
    for row in report.get("baselines", []):
        lines += [
            "",
            *_folded(
                f"for scale: seeing {row['attribute']} perfectly and guessing the rest scores macro F1 "
                f"{row['mean']:.3f} (99.5 % of guesses below {row['high']:.3f}); "
                f"the difference is {_signed(row['difference'])}, paired"
            ),
        ]
    return "\n".join(lines) + "\n"
