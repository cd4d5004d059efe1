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

NOT_CURVES = ("repeat", "fold", "epoch", "images_per_s", "seconds")
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
    """Return a sentence on where a mean curve is best: early, or still getting better at its end.

    `sign` is 1 if greater is better, else -1.
    """
    if len(mean_X) < 2 or not np.isfinite(mean_X).all():
        return what
    best = int(np.argmax(sign * mean_X))
    last = len(mean_X) - 1
    if best < last:
        return f"{what} is best at epoch {best + 1} of {last + 1}"
    return f"{what} is best at the last epoch, so more epochs may help"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _loss_figure(curves: Curves, epochs: Sequence[int], count: str) -> dict[str, Any]:
    """Return training and held-out loss in one figure; early versions logged training loss only."""
    names = {"train_loss": "training", "val_log_loss": "held out"}
    known = [name for name in LOSSES if name in curves[0]]
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
    sign = METRICS[metric].sign if metric in METRICS else 1
    svg = bands(epochs, {name: values}, xlabel="epoch", ylabel=name)
    title = _course(_means(values), f"{rows} {name}", sign=sign)
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
    figures = [_loss_figure(curves, epochs, count)] if "train_loss" in curves[0] else []
    # The learning rate is the least interesting.
    columns = [one for one in curves[0] if one not in (*NOT_CURVES, *LOSSES)]
    for column in sorted(columns, key=lambda one: one == "lr"):
        if column == "lr":
            svg = lines(epochs, {"": _columns(curves, column)[0]}, xlabel="epoch", ylabel="rate")
            caption = f"Of the first fold, at the end of each epoch ({num_epochs} epochs)."
            figures.append({"svg": svg, "title": "Learning rate", "caption": caption})
        else:
            figures.append(_score_figure(curves, column, epochs, count))
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


def reliability_figure(report: Report) -> dict[str, Any]:
    """Return the reliability diagram, before and (where it is known) after calibration."""
    one = report["calibration"]
    bins_of = {"as predicted": one["bins"]}
    if one.get("bins_after"):
        bins_of["with temperature"] = one["bins_after"]
    chance = one["ece_by_chance"]["high"]
    title = "Reliability"
    if one["ece"] is not None and chance is not None:
        confidence = sum(each["confidence"] * each["rows"] for each in one["bins"])
        right = sum(each["accuracy"] * each["rows"] for each in one["bins"])
        direction = "higher" if confidence > right else "lower"
        title = (
            "Confidences are as good as these rows can show"
            if one["ece"] <= chance
            else f"Confidences are {direction} than the share that is right"
        )
    num_rows = report["num_images"] * report["num_repeats"]
    caption = (
        "Share of right predictions at each confidence; the dotted line is perfect calibration."
        f" Below: rows in each bin as predicted (n = {num_rows:,})."
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
