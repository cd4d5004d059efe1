"""Intervals of scores and of differences: known answers, limits, degenerate data, coverage."""

import dataclasses

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from foldblend.scores.intervals import Limits, jackknife_interval, percentile_interval
from foldblend.scores.jackknife import effective_groups, left_out_of_classes, left_out_scores
from foldblend.scores.metrics import METRICS
from foldblend.scores.rows import Rows
from foldblend.scores.score import Score, score_interval, score_of

F1 = METRICS["f1_macro"]
ACCURACY = METRICS["accuracy"]


def drawn(seed, *, num_groups=12, num_images=3, num_classes=3, share=0.7):
    """Return rows and probabilities whose predictions are right in about a share of the images."""
    rng = np.random.default_rng(seed)
    group_N = np.repeat(np.arange(num_groups), num_images)
    label_N = rng.integers(num_classes, size=len(group_N))
    other_N = rng.integers(num_classes, size=len(group_N))
    predicted_N = np.where(rng.random(len(group_N)) < share, label_N, other_N)
    noise_NC = rng.dirichlet(np.ones(num_classes), len(group_N))
    return Rows.of(label_N, group_N), 0.6 * np.eye(num_classes)[predicted_N] + 0.4 * noise_NC


def test_scores_need_only_numbers_of_groups_and_predicted_classes():
    rows, proba_NC = drawn(3)
    named = dataclasses.replace(rows, group_N=np.array([f"g{one:02d}" for one in rows.group_N]))
    assert (named.coded().group_N == rows.group_N).all()
    assert score_interval(F1, named, proba_NC) == score_interval(F1, rows, proba_NC)
    by_proba = left_out_scores(F1, rows.label_N, proba_NC, named.group_N)
    predicted_N = proba_NC.argmax(axis=1)
    by_class = left_out_of_classes(F1, rows.label_N, predicted_N, rows.group_N, proba_NC.shape[1])
    assert by_class.tolist() == by_proba.tolist()


def test_the_interval_of_a_mean_is_that_of_the_t_test():
    values_G = np.random.default_rng(0).normal(size=20)
    without_G = (values_G.sum() - values_G) / 19
    found = jackknife_interval(values_G.mean(), without_G)
    wanted = scipy.stats.ttest_1samp(values_G, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))


def test_the_interval_of_an_accuracy_is_nearly_that_of_wilson():
    """With one image a group only the quantile of t and the variance over n - 1 differ."""
    right_N = np.arange(400) < 300
    label_N = np.zeros(400, int)
    rows = Rows.of(label_N, np.arange(400))
    found = score_interval(ACCURACY, rows, np.eye(2)[np.where(right_N, 0, 1)])
    wanted = scipy.stats.binomtest(300, 400).proportion_ci(method="wilson")
    assert found.value == 0.75
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=3e-4)


def test_a_perfect_score_has_the_interval_of_its_groups():
    label_N = np.repeat([0, 1], [45, 5])
    rows = Rows.of(label_N, np.arange(50))
    proba_NC = np.eye(2)[label_N]
    wanted = scipy.stats.binomtest(50, 50).proportion_ci(method="wilson")
    found = score_interval(ACCURACY, rows, proba_NC)
    assert (found.value, found.high) == (1, 1)
    assert found.low == pytest.approx(wanted.low, abs=0.01)
    # In macro F1 the five groups of the rare class weigh as much as the others: 4 / (1/45 + 1/5).
    found = score_interval(F1, rows, proba_NC)
    assert effective_groups(F1, label_N, proba_NC, rows.group_N) == pytest.approx(18)
    quantile = scipy.stats.t.ppf(0.975, 49)
    assert found.low == pytest.approx(18 / (18 + quantile**2))


@pytest.mark.parametrize("name", list(METRICS))
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**20), num_groups=st.integers(2, 9), share=st.floats(0, 1))
def test_an_interval_has_the_value_and_is_within_the_limits(name, seed, num_groups, share):
    metric = METRICS[name]
    rows, proba_NC = drawn(seed, num_groups=num_groups, num_images=2, share=share)
    score = score_of(metric, rows, proba_NC)
    found = score.interval()
    assert str(found) == str(score_interval(metric, rows, proba_NC))
    # Without values to compare, nothing is known of the error.
    if not np.isfinite(found.value) or np.isfinite(score.left_out_G).sum() < 2:
        assert np.isnan([found.low, found.high]).all()
        return
    assert found.low <= found.value <= found.high
    assert found.low >= (-1 if metric.needs_order else 0)
    assert found.high <= (1 if metric.greater_is_better else np.inf)
    # A number moves the interval; a score minus itself is 0.
    moved = score.minus(0.25 * score.sign).interval()
    assert (moved.low, moved.high) == pytest.approx((found.low - 0.25, found.high - 0.25))
    same = score.minus(score).interval()
    assert (same.value, same.low, same.high) == (0, 0, 0)


@pytest.mark.parametrize("name", ["f1_macro", "accuracy", "roc_auc_ovr"])
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**20))
def test_the_order_of_rows_and_the_names_of_groups_do_not_matter(name, seed):
    rows, proba_NC = drawn(seed)
    order_N = np.random.default_rng(seed).permutation(len(rows))
    names = np.array([f"person {place}" for place in order_N])
    other = Rows.of(rows.label_N[order_N], names[rows.group_N[order_N]])
    one = score_interval(METRICS[name], rows, proba_NC)
    again = score_interval(METRICS[name], other, proba_NC[order_N])
    assert (one.low, one.high) == pytest.approx((again.low, again.high), nan_ok=True)


def test_a_difference_is_paired_and_changes_its_sign():
    rows, proba_NC = drawn(1, num_groups=60)
    worse_NC = proba_NC.copy()
    worse_NC[:6] = worse_NC[:6, ::-1]
    one, other = (score_of(F1, rows, each) for each in (proba_NC, worse_NC))
    forth = one.minus(other).interval()
    back = other.minus(one).interval()
    assert (forth.low, forth.high) == pytest.approx((-back.high, -back.low))
    assert forth.high - forth.low < one.interval().high - one.interval().low
    loss = METRICS["log_loss"]
    one, other = (score_of(loss, rows, each) for each in (proba_NC, worse_NC))
    assert one.minus(other).interval().value == pytest.approx(
        loss.score(rows.label_N, proba_NC) - loss.score(rows.label_N, worse_NC)
    )


@pytest.mark.parametrize("name", list(METRICS))
def test_scores_without_a_group_are_those_of_the_other_rows(name):
    rows, proba_NC = drawn(2, num_groups=7)
    metric = METRICS[name]
    found_G = left_out_scores(metric, rows.label_N, proba_NC, rows.group_N)
    for group in range(7):
        at_N = rows.group_N != group
        wanted = metric.score(rows.label_N[at_N], proba_NC[at_N])
        assert found_G[group] == pytest.approx(wanted, nan_ok=True)
    twice = (np.tile(rows.label_N, 2), np.vstack([proba_NC, proba_NC]), np.tile(rows.group_N, 2))
    repeat_N = np.repeat([0, 1], len(rows))
    assert left_out_scores(metric, *twice, repeat_N=repeat_N) == pytest.approx(found_G, nan_ok=True)


def test_many_groups_and_classes_are_left_out_in_chunks():
    """Counts of so many cells are sparse, and left out a part at a time."""
    rng = np.random.default_rng(3)
    label_N = rng.integers(400, size=3000)
    proba_NC = np.eye(400)[np.where(rng.random(3000) < 0.8, label_N, 0)]
    group_N = np.arange(3000)
    found_G = left_out_scores(F1, label_N, proba_NC, group_N)
    at_N = group_N != 2999
    assert found_G.shape == (3000,)
    assert found_G[2999] == pytest.approx(F1.score(label_N[at_N], proba_NC[at_N]))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**20), num_values=st.integers(1, 9))
def test_roc_auc_without_each_group_equals_that_of_weights(seed, num_values):
    """Probabilities of few values are tied within groups and between them."""
    rows, proba_NC = drawn(seed, num_groups=10)
    proba_NC = np.round(proba_NC * num_values) / num_values
    metric = METRICS["roc_auc_ovr"]
    slow = dataclasses.replace(metric, of_left_out=None)
    found, wanted = (
        left_out_scores(each, rows.label_N, proba_NC, rows.group_N) for each in (metric, slow)
    )
    assert found == pytest.approx(wanted, nan_ok=True)


def test_scores_that_need_all_rows_leave_out_parts_of_many_groups():
    rows, proba_NC = drawn(4, num_groups=450, num_images=1)
    metric = dataclasses.replace(METRICS["roc_auc_ovr"], of_left_out=None)
    found = left_out_scores(metric, rows.label_N, proba_NC, rows.group_N)
    assert found.shape == (200,)
    at_N = rows.group_N % 200 != 7
    assert found[7] == pytest.approx(metric.score(rows.label_N[at_N], proba_NC[at_N]))
    by_resamples = score_of(metric, rows, proba_NC).error
    by_parts = np.sqrt(199 * found.var())
    assert by_parts == pytest.approx(by_resamples, rel=0.25)


def test_degenerate_data_have_intervals_without_width_or_none():
    one_group = Rows.of(np.array([0, 1, 1]), np.zeros(3, int))
    found = score_interval(F1, one_group, np.eye(2)[[0, 1, 0]])
    assert found.low == found.value == found.high
    one = score_of(F1, one_group, np.eye(2)[[0, 1, 0]])
    assert one.interval() == found
    assert np.isnan(one.minus(one).interval().low)  # a difference must not look certain
    one_class = Rows.of(np.zeros(6, int), np.arange(6))
    found = score_interval(METRICS["roc_auc_ovr"], one_class, np.full((6, 2), 0.5))
    assert np.isnan([found.value, found.low, found.high]).all()
    # The second class has one group, and is left out of the score without it.
    rare = Rows.of(np.array([0, 0, 0, 1]), np.array([0, 1, 2, 3]))
    found = score_interval(F1, rare, np.eye(2)[[0, 0, 1, 1]])
    assert 0 < found.low < found.value < found.high < 1
    # ROC AUC is not defined without the group of the second class.
    found = jackknife_interval(0.8, np.array([0.7, 0.8, 0.9, np.nan]), Limits(0, 1))
    assert 0 < found.low < 0.8 < found.high < 1


def test_resamples_alone_give_percentiles():
    found = Score(0.5, np.linspace(0, 1, 101)).interval()
    assert (found.low, found.high) == pytest.approx((0.025, 0.975))
    assert percentile_interval(0.99, np.linspace(0, 0.9, 11)).high == 0.99


def test_intervals_of_macro_f1_have_the_true_score_in_about_95_percent():
    """Two fifths of the images of a rare class are wrong; groups are wholly right or wrong."""
    rng = np.random.default_rng(5)
    share_C = np.array([0.6, 0.3, 0.1])
    right_C = np.array([0.9, 0.8, 0.6])
    # A wrong image is taken for the next class.
    predicted_C = share_C * right_C + np.roll(share_C * (1 - right_C), 1)
    truth = float(np.mean(2 * share_C * right_C / (share_C + predicted_C)))
    hits = 0
    for _ in range(400):
        home_G = rng.choice(3, size=60, p=share_C)
        right_G = rng.random(60) < right_C[home_G]
        label_N = np.repeat(home_G, 2)
        guess_N = np.where(np.repeat(right_G, 2), label_N, (label_N + 1) % 3)
        found = score_interval(F1, Rows.of(label_N, np.arange(120) // 2), np.eye(3)[guess_N])
        hits += found.low <= truth <= found.high
    assert 366 <= hits <= 394  # 95 % is 380, and the limits are three standard errors from it
