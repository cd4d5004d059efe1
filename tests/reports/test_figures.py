"""Tests of figures: their colours, their labels, and the findings in their titles."""

import re

import numpy as np
import pytest

from reports.figures import bands, bars, dots, histograms, lines, reliability
from reports.figures.style import ELSEWHERE, INK, SERIES, SOFT, SOFT_ELSEWHERE, apart
from reports.run.figures import curve_figures, reliability_figure
from reports.run.figures import test_figure as class_shares
from tests.makers.constants import ROOT

NASTY = "<b>$x$ & co"


def curve(fold, losses, held, scores):
    return {
        "repeat": 0,
        "fold": fold,
        "epoch": [*range(len(losses))],
        "lr": [0.1] * len(losses),
        "train_loss": losses,
        "images_per_s": [10.0] * len(losses),
        "seconds": [1.0] * len(losses),
        "val_f1_macro": scores,
        "val_log_loss": held,
    }


CURVES = [
    curve(0, [3.0, 2.0, 1.0], [3.0, 2.0, 2.5], [0.1, 0.2, 0.3]),
    curve(1, [3.2, 2.2, 1.2], [3.0, 2.2, 2.7], [0.1, 0.2, 0.4]),
]
BINS = [
    {"low": 0.0, "high": 0.5, "confidence": 0.4, "accuracy": 0.2, "rows": 10},
    {"low": 0.5, "high": 1.0, "confidence": 0.9, "accuracy": 0.6, "rows": 30},
]


@pytest.mark.parametrize(
    "svg",
    [
        bars(["a", NASTY], {"one": [1, 2], "two": [2, 1]}, xlabel="images"),
        dots(["a", NASTY], {"one": [1, 2], "two": [2, 1]}, xlabel="images"),
        histograms({"one": np.arange(9.0), NASTY: np.arange(4.0)}, xlabel="size"),
        lines([1, 2], {"one": [1, 2], NASTY: [None, 3]}, xlabel="epoch", ylabel="loss"),
        bands([1, 2], {"one": [[1, 2], [2, None]], NASTY: [[1, 1]]}, xlabel="x", ylabel="y"),
        reliability({"one": BINS, NASTY: BINS}),
    ],
    ids=["bars", "dots", "histograms", "lines", "bands", "reliability"],
)
def test_a_figure_takes_its_colours_from_the_page_and_shows_names_as_text(svg):
    assert svg.startswith("<svg")
    for placeholder in (INK, SOFT, *SERIES):
        assert placeholder not in svg
    assert "currentColor" in svg
    assert f"var(--c0, {ELSEWHERE[0]})" in svg
    assert "<b>" not in svg
    assert "&lt;b&gt;$x$ &amp; co" in svg
    # Ids would not be unique in a page with several figures, unless they are hashes.
    assert not re.search(r' id="(figure|axes|text|patch)_\d', svg)


def test_figures_are_equal_when_drawn_again():
    both = [bands([1, 2], {"a": [[1, 2]], "b": [[2, 1]]}, xlabel="x", ylabel="y") for _ in "ab"]
    assert both[0] == both[1]


def test_labels_are_moved_apart_as_little_as_needed():
    assert apart([0.0, 10.0, 20.0], 2.0) == [0.0, 10.0, 20.0]
    assert apart([5.0, 5.0], 2.0) == [4.0, 6.0]
    assert apart([10.5, 0.0, 10.0], 2.0) == [11.25, 0.0, 9.25]
    assert apart([], 2.0) == []
    rng = np.random.default_rng(0)
    wishes = rng.uniform(0, 10, 30)
    found = np.array(apart(wishes, 0.5))
    assert np.diff(np.sort(found)).min() >= 0.5 - 1e-9
    assert (np.argsort(found) == np.argsort(wishes)).all()


def test_titles_of_learning_curves_say_where_they_are_best():
    loss, score, rate = curve_figures({"curves": CURVES})
    assert loss["title"] == "Held-out loss is best at epoch 2 of 3"
    assert score["title"] == "Held-out macro F1 is best at the last epoch, so more epochs may help"
    assert rate["title"] == "Learning rate"
    assert "n = 2 folds, 3 epochs" in loss["caption"]
    assert "held out" in loss["svg"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0.1, 0.5, 0.3], "is best at epoch 2 of 3"),
        ([0.1, 0.5, 0.5], "hardly changes after epoch 2 of 3"),
        ([0.1, 0.5, 0.501], "hardly changes after epoch 2 of 3"),
        ([0.4, 0.4, 0.4], "hardly changes after epoch 1 of 3"),
        ([0.1, 0.3, 0.5], "is best at the last epoch, so more epochs may help"),
    ],
)
def test_the_finding_of_a_curve(values, words):
    _, score, _ = curve_figures({"curves": [curve(0, [1, 1, 1], [1, 1, 1], values)]})
    assert score["title"] == f"Held-out macro F1 {words}"


def test_columns_that_are_no_metric_are_left_out_and_folds_may_have_fewer():
    more = [CURVES[0] | {"val_mine": [1.0] * 3}, CURVES[1]]
    assert len(curve_figures({"curves": more})) == 3
    fewer = {name: one for name, one in CURVES[0].items() if name != "val_log_loss"}
    loss, *_ = curve_figures({"curves": [fewer, CURVES[1]]})
    assert "held out" in loss["svg"]
    assert loss["title"] == "Held-out loss"


def test_logs_of_early_versions_have_a_training_loss_only():
    old = [{name: one[name] for name in one if name != "val_log_loss"} for one in CURVES]
    loss, *_ = curve_figures({"curves": old})
    assert loss["title"] == "Training loss"
    assert curve_figures({"curves": []}) == []
    # An interrupted fold has a shorter log.
    short = [old[0], {**old[1], **{name: old[1][name][:1] for name in ("epoch", "train_loss")}}]
    assert len(curve_figures({"curves": short})) == 3


def test_the_reliability_title_says_the_direction():
    facts = {"bins": BINS, "bins_after": None, "ece": 0.3, "ece_by_chance": {"high": 0.1}}
    report = {"calibration": facts, "num_images": 40, "num_repeats": 1}
    assert reliability_figure(report)["title"].startswith("Confidences are higher")
    # Over-confident in one bin and not confident enough in another: no direction.
    both = [BINS[0] | {"rows": 30}, BINS[1] | {"accuracy": 1.0, "confidence": 0.8}]
    mixed = {**report, "calibration": {**facts, "bins": both}}
    assert reliability_figure(mixed)["title"].startswith("Confidences differ from")
    facts["ece"] = 0.05
    assert "as good as these rows can show" in reliability_figure(report)["title"]


def test_the_largest_difference_of_the_test_set_is_in_the_title():
    report = {
        "class_names": ["a", "b", "never"],
        "confusion": {"counts": [[5, 5, 0], [0, 10, 0], [0, 0, 0]]},
        "test": {"predicted": [8, 2, 0], "num_images": 10},
        "num_images": 20,
        "num_repeats": 1,
    }
    found = class_shares(report)
    assert found["title"].startswith("Largest difference: a is 80.0 % of the predictions")
    assert [row[0] for row in found["numbers"]["rows"]] == ["a", "b"]
    assert found["numbers"]["rows"][0] == ["a", "50.0 %", "25.0 %", "80.0 %"]
    assert class_shares({**report, "test": None}) is None


def test_colours_outside_of_a_page_are_those_of_its_light_theme():
    css = (ROOT / "reports" / "templates" / "base.css").read_text()
    light = css[: css.index("@media")]
    assert f"--soft: {SOFT_ELSEWHERE};" in light
    for index, colour in enumerate(ELSEWHERE):
        assert f"--c{index}: {colour};" in light
