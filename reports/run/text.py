"""A report as text of at most 80 columns, as in report.txt."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from foldblend.errors import counted
from foldblend.scores.by_group import GROUP
from foldblend.scores.metrics import TITLES
from reports.block_kinds import section_lines
from reports.run.by_group import by_group_section, other_score
from reports.run.scored_test import TITLE, score_sentence
from reports.text import WIDTH, folded, groups_of, num, signed, span, table, title_of

__all__ = [
    "calibration_sentences",
    "is_alarm",
    "is_leak_note",
    "is_optimistic_note",
    "render_text",
    "single_model_note",
]

# A larger confusion matrix does not fit into 80 columns; its most frequent confusions do.
MOST_COLUMNS = 6
MOST_FINDINGS = 20
LONGEST_HEADER = 12

LEAK = re.compile(
    r"\bgroups leak\b|\bleaks groups\b|\bleak between (the )?folds\b|\bleaks .+ between folds\b"
)

Report = Mapping[str, Any]


def _per_class_lines(rows: Sequence[Mapping[str, Any]], first: str) -> list[str]:
    cells = [
        [
            row["name"],
            *[f"{row[key]:.3f}" for key in ("precision", "recall", "f1")],
            str(row["support"]),
        ]
        for row in rows
    ]
    return table([first, "precision", "recall", "F1", "n"], cells)


def _confusion_lines(confusion: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    counts_CC = confusion["counts"]
    if counts_CC is not None and len(names) <= MOST_COLUMNS:
        # Long names would make the table too wide, so columns have numbers instead.
        numbered = max(map(len, names)) > LONGEST_HEADER
        heads = [str(index) if numbered else name for index, name in enumerate(names)]
        true = [f"{index}: {name}" if numbered else name for index, name in enumerate(names)]
        rows = [
            [name, *map(str, counts)]
            for name, counts in zip(true, counts_CC, strict=True)
            if sum(counts)
        ]
        return ["", *table(["true \\ predicted", *heads], rows)]
    if not confusion["most"]:
        return []
    rows = [
        [f"{row['true']} as {row['predicted']}", f"{row['rows']:,}", f"{row['share']:.0%}"]
        for row in confusion["most"]
    ]
    return ["", *table(["most frequent confusions", "n", "share of true class"], rows)]


def _opening(report: Report) -> list[str]:
    repeated = report["num_repeats"] > 1
    shape = f"{report['num_folds']} folds" + (
        f" x {report['num_repeats']} repeats" if repeated else ""
    )
    lines = folded(f"OOF F1 report: {report['name']}") + ["=" * WIDTH, *folded(report["about"])]
    lines += folded(
        f"{counted(report['num_images'], 'image')} of"
        f" {counted(report['num_groups'], report['group_name'])}, {shape}; "
        f"{report['num_classes_occurring']} of {report['num_classes']} classes occur"
    )
    for note in report["notes"]:
        lines += folded(f"note: {note}")
    return lines


def is_optimistic_note(note: str) -> bool:
    """Return whether a note reports that epochs were chosen on the scored rows."""
    return note.startswith("OPTIMISTIC")


def is_leak_note(note: str) -> bool:
    """Return whether a note reports that groups leak, in any wording of this or old versions.

    Groups may have any name: "patients leak between folds", "leaks patients between folds".
    """
    return LEAK.search(note) is not None


def is_alarm(note: str) -> bool:
    """Return whether a note says that the score is too high, so that blend.py refuses the run."""
    return is_leak_note(note) or is_optimistic_note(note)


def single_model_note(report: Report) -> str | None:
    """Return a note that the score is of single models, or None if the submission is of one.

    After a short fine-tuning on a public data set, single models had 0.693 out of fold and 0.691 on
    the test set, where the mean of five had 0.818.
    """
    test = report["test"]
    if test is not None and "num_refits" in test:
        return _refit_note(test)
    if test is None or test["num_models"] < 2:
        return None
    num_models = test["num_models"]
    per = " per member" if report["kind"] == "blend" else ""
    model = "one model per member," if per else "single models, each"
    averaged = report.get("averaged")
    better = "which usually scores better."
    if averaged is not None:
        score = averaged["score"]
        better = (
            f"which usually scores better: the mean of {averaged['num_models']}{per}, one of each"
            f" repeat and none trained on the image, scores {num(score['value'])} {span(score)}."
        )
    return (
        f"This is the score of {model} on images that it was not trained on. The submission"
        f" averages {num_models} models{per}, {better}"
    )


def _refit_note(test: Mapping[str, Any]) -> str:
    """Return the note for a submission in which models of all rows have a share."""
    share = test["refit_share"]
    of_all = f"{counted(test['num_refits'], 'model')} of all rows"
    by = f"is by {of_all}"
    if share < 1:
        folds = counted(test["num_models"], "model")
        by = f"averages {folds} of folds ({1 - share:.0%}) and {of_all} ({share:.0%})"
    return (
        "This is the score of single models of folds, each on images that it was not trained on."
        f" The submission {by}. Models of all rows have no score."
    )


def _unit(report: Report) -> str:
    """Return " by image" for scores beside a headline by group, and "" elsewhere."""
    return " by image" if report.get("score_by") == GROUP else ""


def _headline(report: Report) -> list[str]:
    lines = [
        "",
        (f"OOF {title_of(report)} {num(report['headline']['value'])} {span(report['headline'])}"),
    ]
    if report["metric"] != "f1_macro":
        f1_macro = report["f1_macro"]
        lines.append(f"OOF macro F1{_unit(report)} {num(f1_macro['value'])} {span(f1_macro)}")
    other = other_score(report)
    if other is not None:
        lines.append(f"OOF {other[0]} {num(other[1]['value'])} {span(other[1])}")
    raw = report["raw"]
    if raw is not None:
        lines.append(f"  on the original labels {num(raw['value'])} {span(raw)}")
    note = single_model_note(report)
    return [*lines, f"  ({report['interval']})", *(folded(note) if note else [])]


def _by_group(report: Report) -> list[str]:
    one = by_group_section(report)
    return [] if one is None else ["", *section_lines(one)]


def _scores(report: Report) -> list[str]:
    title = title_of(report)
    repeated = report["num_repeats"] > 1
    scores = ["score"] if report["metric"] == "f1_macro" else ["score", "f1_macro"]
    fold_rows = [
        [
            f"{row['repeat']}.{row['fold']}" if repeated else str(row["fold"]),
            *[num(row[name]) for name in scores],
            str(row["num_images"]),
            str(row["num_groups"]),
        ]
        for row in report["folds"]
    ]
    return [
        "",
        *table(
            [f"scores{_unit(report)} over all folds{', mean over repeats' * repeated}", ""],
            [[TITLES[name], num(value)] for name, value in report["scores"].items()],
        ),
        "",
        *table(
            [
                "repeat.fold" if repeated else "fold",
                *[title, f"macro F1{_unit(report)}"][: len(scores)],
                "images",
                groups_of(report),
            ],
            fold_rows,
        ),
        (
            f"mean over folds {num(report['folds_mean'])}, standard deviation"
            f" {num(report['folds_std'])}"
        ),
    ]


def _classes(report: Report) -> list[str]:
    lines = []
    for row in report["attributes"]:
        lines += [
            "",
            *folded(
                f"{row['name']}: macro F1 {num(row['f1_macro']['value'])} {span(row['f1_macro'])}, "
                f"accuracy {row['accuracy']:.4f}"
            ),
            *_per_class_lines(row["values"], ""),
            *_confusion_lines(row["confusion"], row["value_names"]),
        ]
    lines += ["", *_per_class_lines(report["per_class"], "class")]
    return [*lines, *_confusion_lines(report["confusion"], report["class_names"])]


def calibration_sentences(one: Mapping[str, Any]) -> list[str]:
    """Return the calibration of report.json as sentences."""
    chance = one["ece_by_chance"]
    sentences = [
        f"The expected calibration error is {num(one['ece'])}. A perfectly calibrated model would"
        f" score about {num(chance['mean'])} on this many rows (95 % of the time below"
        f" {num(chance['high'])}).",
        f"The model is {'too confident' if one['temperature'] > 1 else 'not confident enough'}:"
        f" dividing the logits by a temperature of {one['temperature']:.2f} fits best.",
    ]
    if one["ece_after"] is not None:
        sentences.append(
            "With a temperature fitted on the other folds, the error is"
            f" {num(one['ece_after'])} and the log loss {num(one['log_loss_after'])} instead of"
            f" {num(one['log_loss'])}."
        )
    sentences.append(
        f"Probabilities are of logits divided by {one['temperature']:.2f}."
        if one["applied"]
        else f"Probabilities are of the logits as they are: {one['why_not']}."
    )
    if one["without_offsets"]:
        sentences.append(
            "They are those of the blend without offsets per class, so the predicted class need not"
            " have the largest probability."
        )
    return sentences


def _calibration(report: Report) -> list[str]:
    one = report["calibration"]
    num_rows = sum(row["rows"] for row in one["bins"])
    return [
        "",
        *folded(
            f"calibration: {' '.join(calibration_sentences(one))} (15 bins, n = {num_rows:,} rows)"
        ),
    ]


def _test(report: Report) -> list[str]:
    one = report["test"]
    if one is None:
        return []
    text = f"test set: {one['num_images']:,} images, mean confidence {one['confidence']:.3f}"
    if one["num_models"] > 1:
        text += f"; all {one['num_models']} models agree on {one['agreement']:.1%}"
    return ["", *folded(text)]


def _test_score(report: Report) -> list[str]:
    if report.get("test_score") is None:
        return []
    return ["", TITLE, *folded(score_sentence(report))]


def _suspects(report: Report) -> list[str]:
    one = report["suspects"]
    if "skipped" in one:
        return ["", *folded(f"suspected labels: {one['skipped']}")]
    lines = ["", *folded(f"suspected labels: {one['summary']}")]
    rows = [[row["text"], f"{row['proba']:.3f}"] for row in one["findings"][:MOST_FINDINGS]]
    if rows:
        lines += table(
            ["most suspicious first" if len(rows) > 1 else "", "p(given label)"],
            rows,
            name_width=60,
        )
    if len(one["findings"]) > MOST_FINDINGS:
        lines.append(f"and {len(one['findings']) - MOST_FINDINGS} more in suspects.csv")
    for line in one["notes"]:
        lines += folded(line)
    return lines


def _sections(report: Report) -> list[str]:
    return [line for one in report["sections"] for line in ["", *section_lines(one)]]


def _baselines(report: Report) -> list[str]:
    lines = []
    for row in report["baselines"]:
        sentence = (
            f"For comparison: random guessing with the true {row['attribute']} given scores macro"
            f" F1 {row['mean']:.3f} on average (99.5 % of such guesses are below"
            f" {row['high']:.3f}). This run scores {signed(row['difference'])} more (paired)."
        )
        lines += ["", *folded(sentence)]
    return lines


PARTS = (
    _opening,
    _headline,
    _by_group,
    _scores,
    _classes,
    _calibration,
    _test,
    _suspects,
    _sections,
    _baselines,
    _test_score,
)


def render_text(report: Report) -> str:
    """Return the report (report.json, see docs/report.schema.json) as text."""
    return "\n".join(line for part in PARTS for line in part(report)) + "\n"
