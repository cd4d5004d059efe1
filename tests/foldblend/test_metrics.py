import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from foldblend.scores.baselines import (
    attribute_only_band,
    attribute_only_difference,
    attribute_only_guess,
)
from foldblend.scores.bootstrap import bootstrap_scores
from foldblend.scores.metrics import METRICS, Counts, Metric, log_softmax, row_log_loss, softmax
from foldblend.scores.rows import Rows
from foldblend.scores.score import score_interval
from reports.run.summary import compare, summarise
from reports.run.text import render_text

STAGES = {
    "sections": [],
    "baselines": [],
    "curves": [],
    "raw": None,
    "test": None,
    "suspects": {"skipped": "not"},
}
# Parts of a report that are not scores.
ABOUT = {
    "name": "x",
    "kind": "cv",
    "about": "y",
    "notes": [],
    **STAGES,
}


@st.composite
def predictions(draw):
    num = draw(st.integers(6, 60))
    classes = draw(st.integers(2, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    label = rng.integers(0, classes, num)
    label[:2] = [0, 1]
    return label, softmax(rng.normal(size=(num, classes)) + np.eye(classes)[label])


@settings(max_examples=60, deadline=None)
@given(predictions())
def test_scores_equal_those_of_scikit_learn(labels_and_proba):
    label, proba = labels_and_proba
    predicted = proba.argmax(1)
    present = np.unique(label)
    expected = {
        "f1_macro": sklearn.metrics.f1_score(
            label, predicted, labels=present, average="macro", zero_division=0
        ),
        "accuracy": sklearn.metrics.accuracy_score(label, predicted),
        "balanced_accuracy": np.mean([np.mean(predicted[label == c] == c) for c in present]),
        "log_loss": sklearn.metrics.log_loss(label, proba, labels=range(proba.shape[1])),
        "kappa_quadratic": sklearn.metrics.cohen_kappa_score(
            label, predicted, labels=range(proba.shape[1]), weights="quadratic"
        ),
        "roc_auc_ovr": np.mean(
            [sklearn.metrics.roc_auc_score(label == c, proba[:, c]) for c in present]
        ),
    }
    assert set(expected) == set(METRICS)
    for name, value in expected.items():
        assert METRICS[name].score(label, proba) == pytest.approx(value, abs=1e-12), name


@settings(max_examples=60, deadline=None)
@given(predictions())
def test_scores_of_counts_equal_scores_of_rows(labels_and_proba):
    label, proba = labels_and_proba
    predicted = proba.argmax(1)
    classes = range(proba.shape[1])
    counts = Counts(
        np.array([[np.sum((label == c) & (predicted == c)) for c in classes]]),
        np.array([[np.sum(label == c) for c in classes]]),
        np.array([[np.sum(predicted == c) for c in classes]]),
        np.array([row_log_loss(label, proba).sum()]),
        np.array([((label - predicted) ** 2).sum()]),
    )
    for name, metric in METRICS.items():
        if metric.of_counts is not None:
            found = metric.of_counts(counts)[0]
            wanted = metric.score(label, proba)
        else:
            found = metric.of_weights(label, proba, np.ones((1, len(label))))[0]
            wanted = metric.score(label, proba)
        assert found == pytest.approx(wanted, abs=1e-12, nan_ok=True), name


def test_a_class_that_is_only_predicted_does_not_lower_macro_f1():
    label = np.array([0] * 10 + [1] * 10)
    proba = np.eye(3)[np.array([0] * 9 + [2] + [1] * 10)]
    assert METRICS["f1_macro"].score(label, proba) == pytest.approx((18 / 19 + 1) / 2)


def test_softmax_is_finite_at_any_scale():
    logits = np.array([[1e4, -1e4, 0.0]], np.float32)
    assert np.isfinite(log_softmax(logits)).all()
    assert softmax(logits).sum() == pytest.approx(1)


def simulated_groups(num_groups, rng, accuracy=0.7, group_size=7):
    """Return labels, predictions and groups; within a group all rows are right or all wrong."""
    group = np.repeat(np.arange(num_groups), group_size)
    label = rng.integers(0, 3, num_groups)[group]
    right = (rng.random(num_groups) < accuracy)[group]
    return label, np.eye(3)[np.where(right, label, (label + 1) % 3)], group


def test_interval_is_over_groups_not_images():
    label, proba, group = simulated_groups(100, np.random.default_rng(0))
    by_group = score_interval(METRICS["accuracy"], Rows.of(label, group), proba)
    by_image = score_interval(METRICS["accuracy"], Rows.of(label, np.arange(len(label))), proba)
    width = by_group.high - by_group.low
    # Seven equal images of a group have as much information as one, so the interval over groups is
    # sqrt(7) times as wide.
    assert width / (by_image.high - by_image.low) == pytest.approx(np.sqrt(7), rel=0.15)
    assert width == pytest.approx(2 * 1.96 * np.sqrt(0.7 * 0.3 / 100), rel=0.2)


def test_interval_covers_the_true_score_in_about_95_percent():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(100):
        label, proba, group = simulated_groups(60, rng)
        interval = score_interval(METRICS["accuracy"], Rows.of(label, group), proba)
        hits += interval.low <= 0.7 <= interval.high
    assert hits >= 88  # binomial(100, 0.95) is below 88 once in a thousand


@pytest.mark.parametrize("name", list(METRICS))
def test_bootstrap_is_seeded_and_paired(name):
    label, proba, group = simulated_groups(40, np.random.default_rng(2))
    proba = 0.9 * proba + 0.1 / 3
    scores = bootstrap_scores(METRICS[name], label, proba, group, seed=3)
    assert np.array_equal(scores, bootstrap_scores(METRICS[name], label, proba, group, seed=3))
    assert not np.array_equal(scores, bootstrap_scores(METRICS[name], label, proba, group, seed=4))
    (first, second) = compare(
        rows=Rows.of(label, group),
        proba_of={"a": proba, "b": proba.copy()},
        against="a",
        attributes=[],
        metric=name,
    )
    assert first["difference"] is None
    assert second["difference"] == {"value": 0, "low": 0, "high": 0}


@pytest.mark.parametrize("name", list(METRICS))
def test_a_resample_has_the_score_of_its_rows(name):
    """Scores of resamples equal those of the drawn rows, with ties and missing classes."""
    rng = np.random.default_rng(5)
    label, proba, group = simulated_groups(8, rng, group_size=2)
    proba = (proba + rng.integers(1, 3, proba.shape) / 8) / (1 + 3 / 8)
    proba /= proba.sum(axis=1, keepdims=True)
    scores = bootstrap_scores(METRICS[name], label, proba, group, seed=1)
    draws = np.random.default_rng(1)
    for score in scores[:40]:
        rows = np.concatenate([np.flatnonzero(group == one) for one in draws.integers(8, size=8)])
        wanted = METRICS[name].score(label[rows], proba[rows])
        assert score == pytest.approx(wanted, abs=1e-9, nan_ok=True)


def test_guesses_from_one_attribute():
    """Each attribute value has two equally frequent classes, so half of the guesses are right."""
    rng = np.random.default_rng(0)
    group_kind = rng.permutation(np.repeat([0, 1], 200))
    group = np.repeat(np.arange(400), 3)
    value = np.tile([0, 1, 2], 400)
    label = value * 2 + group_kind[group]
    value_of_class = np.arange(6) // 2
    guess = attribute_only_guess(label, group, value_of_class, rng=rng)
    assert np.array_equal(value_of_class[guess], value)
    assert all(len(set((guess % 2)[group == one])) == 1 for one in range(20))
    low, mean, high = attribute_only_band(label, group, value_of_class, num_draws=100)
    assert mean == pytest.approx(0.5, abs=0.01)
    assert low == pytest.approx(1 / 3, abs=0.02)  # always the same kind: F1 of 2/3 and 0
    assert mean < high < 0.6
    perfect = attribute_only_difference(Rows.of(label, group), np.eye(6)[label], value_of_class)
    assert perfect.value == pytest.approx(0.5, abs=0.02)
    assert perfect.low > 0
    # Another guess is not better than the guesses.
    too = attribute_only_difference(Rows.of(label, group), np.eye(6)[guess], value_of_class)
    assert too.low <= 0 <= too.high


def test_summary_leaves_out_classes_that_do_not_occur():
    label, proba, group = simulated_groups(30, np.random.default_rng(0))
    wide = np.pad(proba, ((0, 0), (0, 2)))
    report = summarise(
        Rows.of(label, group, fold_N=group % 3),
        np.log(wide + 1e-9),
        classes=list("abcde"),
        attributes=[],
        metric="f1_macro",
    )
    assert (report["num_classes"], report["num_classes_occurring"]) == (5, 3)
    assert [row["name"] for row in report["per_class"]] == ["a", "b", "c"]
    assert sum(row["support"] for row in report["per_class"]) == report["num_images"] == 210
    assert report["headline"]["value"] == pytest.approx(
        np.mean([row["f1"] for row in report["per_class"]])
    )
    assert sum(fold["num_groups"] for fold in report["folds"]) == 30


def test_repeats_are_scored_separately_and_averaged():
    label, proba, group = simulated_groups(30, np.random.default_rng(0))
    worse = np.roll(proba, 1, axis=0)
    both = (np.tile(label, 2), np.vstack([proba, worse]), np.tile(group, 2))
    repeat = np.repeat([0, 1], len(label))
    accuracy = METRICS["accuracy"]
    one = score_interval(accuracy, Rows.of(label, group), proba)
    other = score_interval(accuracy, Rows.of(label, group), worse)
    mean = score_interval(accuracy, Rows.of(both[0], both[2], repeat_N=repeat), both[1])
    assert mean.value == pytest.approx((one.value + other.value) / 2)
    scores = [bootstrap_scores(accuracy, label, each, group) for each in (proba, worse)]
    assert np.allclose(bootstrap_scores(accuracy, *both, repeat_N=repeat), np.mean(scores, axis=0))
    report = summarise(
        Rows(both[0], both[2], repeat, both[2] % 3),
        np.log(both[1] + 1e-9),
        classes=[str(c) for c in range(proba.shape[1])],
        attributes=[],
        metric="accuracy",
    )
    assert (report["num_images"], report["num_folds"], report["num_repeats"]) == (len(label), 3, 2)
    assert report["headline"]["value"] == pytest.approx(mean.value)
    assert sum(row["support"] for row in report["per_class"]) == len(label)
    assert [(row["repeat"], row["fold"]) for row in report["folds"]] == [
        (r, f) for r in (0, 1) for f in (0, 1, 2)
    ]
    assert "repeat.fold" in render_text(ABOUT | report)


def test_a_metric_without_a_way_to_resample_it_fails_when_it_is_made():
    with pytest.raises(ValueError, match="of_counts or of_weights"):
        Metric("mine", lambda label_N, proba_NC: 0.5)
