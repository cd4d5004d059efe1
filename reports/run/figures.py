"""Figures of a report, each with a title that says its finding and a caption with n."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from foldblend.errors import counted
from foldblend.scores.metrics import METRICS, TITLES
from reports.figures import bands, dots, lines, reliability
from reports.text import num

__all__ = ["curve_figures", "folds_finding", "reliability_figure", "test_figure"]

# Share of a curve's range that is no change worth a word.
LITTLE = 0.02
# Fewer rows of a bin make the share that is right jump by chance.
LEAST_ROWS = 5
LOSSES = ("train_loss", "val_log_loss")

Report = Mapping[str, Any]
Curves = Sequence[Mapping[str, Any]]


def _columns(curves: Curves, column: str) -> list[list[float | None]]:
    """Return a column of the logs of all folds, padded with None to the longest."""
    # An interrupted or old run may have shorter logs.
    longest = max(len(one["epoch"]) for one in curves)
    found = []
    for one in curves:
        values = one.get(column, [None] * len(one["epoch"]))
        found.append([*values, *[None] * (longest - len(values))])
    return found


def _means(values_KX: Sequence[Sequence[float | None]]) -> np.ndarray:
    """Return the mean over folds at each epoch, where every fold has a value, else NaN."""
    return np.array(values_KX, dtype=float).mean(axis=0)


def _course(mean_X: np.ndarray, what: str, *, sign: int) -> str:
    """Return a sentence on a mean curve: best early, level, or still getting better at its end.

    `sign` is 1 if greater is better, else -1.
    """
    if len(mean_X) < 2 or not np.isfinite(mean_X).all():
        return what
    value_X = sign * mean_X
    last = len(mean_X) - 1
    close = LITTLE * float(np.ptp(value_X))
    # The first epoch that is nearly as good as the best one.
    best = int(np.argmax(value_X >= value_X.max() - close))
    if value_X[last] < value_X.max() - close:
        return f"{what} is best at epoch {best + 1} of {last + 1}"
    if best < last:
        return f"{what} hardly changes after epoch {best + 1} of {last + 1}"
    return f"{what} is best at the last epoch, so more epochs may help"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _loss_figure(curves: Curves, epochs: Sequence[int], count: str) -> dict[str, Any]:
    """Return training and held-out loss in one figure; early versions logged training loss only."""
    names = {"train_loss": "training", "val_log_loss": "held out"}
    known = [name for name in LOSSES if any(name in one for one in curves)]
    series = {names[name]: _columns(curves, name) for name in known}
    title = "Training loss"
    note = ""
    if len(known) == 2:
        title = _course(_means(series["held out"]), "held-out loss", sign=-1)
        note = ", which augmentation and smoothing raise in training"
    svg = bands(epochs, series, xlabel="epoch", ylabel="loss")
    caption = f"Log loss{note}; means of the folds, in bands from lowest to highest ({count})."
    return {"svg": svg, "title": _capital(title), "caption": caption}


def _score_figure(curves: Curves, column: str, epochs: Sequence[int], count: str) -> dict[str, Any]:
    kind, _, metric = column.partition("_")
    name = TITLES.get(metric, metric)
    rows = "held-out" if kind == "val" else f"rows of --select {kind}:"
    values = _columns(curves, column)
    svg = bands(epochs, {name: values}, xlabel="epoch", ylabel=name)
    title = f"{rows} {name}"
    if metric in METRICS:
        title = _course(_means(values), title, sign=METRICS[metric].sign)
    caption = f"Mean of the folds, in a band from lowest to highest ({count})."
    return {"svg": svg, "title": _capital(title), "caption": caption}


def curve_figures(report: Report) -> list[dict[str, Any]]:
    """Return the learning curves: losses in one figure, then each score, then the learning rate."""
    curves = report["curves"]
    if not curves:
        return []
    num_epochs = max(len(one["epoch"]) for one in curves)
    epochs = range(1, num_epochs + 1)
    count = f"n = {len(curves)} folds, {num_epochs} epochs"
    # A fold that an earlier version trained has fewer columns than the others.
    columns = [*dict.fromkeys(name for one in curves for name in one)]
    figures = [_loss_figure(curves, epochs, count)] if {*columns} & {*LOSSES} else []
    figures += [
        _score_figure(curves, column, epochs, count)
        for column in columns
        if column not in LOSSES and column.partition("_")[2] in TITLES
    ]
    if "lr" in columns:
        svg = lines(epochs, {"": _columns(curves, "lr")[0]}, xlabel="epoch", ylabel="rate")
        caption = f"Of the first fold, at the end of each epoch ({num_epochs} epochs)."
        figures.append({"svg": svg, "title": "Learning rate", "caption": caption})
    return figures


def folds_finding(report: Report) -> str:
    """Return a sentence on the spread of the folds' scores."""
    scores = [row["score"] for row in report["folds"] if row["score"] is not None]
    if len(scores) < 2:
        return ""
    low = min(scores)
    high = max(scores)
    return (
        f"The folds score {num(low)} to {num(high)}. Each has only a part of the data, so they vary"
        " more than the score at the top."
    )


def _filled(bins: Sequence[Mapping[str, float]]) -> Sequence[Mapping[str, float]]:
    """Return the bins with enough rows to say something, or all if no bin has."""
    return [one for one in bins if one["rows"] >= LEAST_ROWS] or bins


def reliability_figure(report: Report) -> dict[str, Any]:
    """Return the reliability diagram, before and (where it is known) after calibration."""
    one = report["calibration"]
    bins_of = {"as predicted": _filled(one["bins"])}
    if one.get("bins_after"):
        bins_of["with temperature"] = _filled(one["bins_after"])
    chance = one["ece_by_chance"]["high"]
    title = "Reliability"
    if one["ece"] is not None and chance is not None:
        off = [(each["confidence"] - each["accuracy"]) * each["rows"] for each in one["bins"]]
        over = sum(value for value in off if value > 0)
        under = -sum(value for value in off if value < 0)
        # In some bins the error has the other direction by chance.
        relation = "differ from"
        if over > 2 * under:
            relation = "are higher than"
        elif under > 2 * over:
            relation = "are lower than"
        title = (
            "Confidences are as good as these rows can show"
            if one["ece"] <= chance
            else f"Confidences {relation} the share that is right"
        )
    num_rows = report["num_images"] * report["num_repeats"]
    caption = (
        "Share of right predictions at each confidence, in bins of at least"
        f" {LEAST_ROWS} rows; the dotted line is perfect calibration. Below: rows in each bin as"
        f" predicted (n = {num_rows:,})."
    )
    return {"svg": reliability(bins_of), "title": title, "caption": caption}


def test_figure(report: Report) -> dict[str, Any] | None:
    """Return bars of how often each class occurs and is predicted, or None without a test set."""
    test = report["test"]
    counts = report["confusion"]["counts"]
    if test is None or counts is None:
        return None
    counts_CC = np.array(counts)
    test_C = np.array(test["predicted"])
    shown = np.flatnonzero(counts_CC.sum(axis=0) + counts_CC.sum(axis=1) + test_C)
    out_of_fold_C = counts_CC.sum(axis=0) / counts_CC.sum() * 100
    on_test_C = test_C / test_C.sum() * 100
    shares = {
        "true, training set": counts_CC.sum(axis=1) / counts_CC.sum() * 100,
        "predicted, out of fold": out_of_fold_C,
        "predicted, test set": on_test_C,
    }
    names = report["class_names"]
    series = {name: share[shown].tolist() for name, share in shares.items()}
    shown_names = [names[index] for index in shown]
    svg = dots(shown_names, series, xlabel="% of images")
    numbers = {
        "header": ["class", *series],
        "rows": [
            [name, *(f"{value:.1f} %" for value in values)]
            for name, *values in zip(shown_names, *series.values(), strict=True)
        ],
    }
    most = int(np.abs(on_test_C - out_of_fold_C).argmax())
    title = (
        f"Largest difference: {names[most]} is {on_test_C[most]:.1f} % of the predictions on the"
        f" test set, {out_of_fold_C[most]:.1f} % out of fold"
    )
    num_rows = report["num_images"] * report["num_repeats"]
    caption = (
        f"Share of images of each class, true and predicted (n = {num_rows:,} out-of-fold rows,"
        f" {counted(test['num_images'], 'test image')})."
    )
    return {"svg": svg, "title": title, "caption": caption, "numbers": numbers}
