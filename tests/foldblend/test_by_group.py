"""Tests of scores by group: pools, metrics that pool first, and scores in both units."""

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from foldblend.attributes import Attribute
from foldblend.errors import UserError
from foldblend.scores.by_group import (
    POOLS,
    attribute_proba,
    by_group,
    check_one_label,
    check_pool,
    metric_by_group,
    mixed_group,
    suited,
)
from foldblend.scores.group_scores import both_scores
from foldblend.scores.metrics import METRICS, softmax
from foldblend.scores.rows import Rows
from foldblend.scores.score import score_interval, score_of


def drawn(seed=0, num_groups=30, num_classes=3, num_repeats=1):
    """Return rows of groups with one label and 1 to 6 images, in random order, and logits."""
    rng = np.random.default_rng(seed)
    size_G = rng.integers(1, 7, num_groups)
    label_G = rng.integers(num_classes, size=num_groups)
    group_N = np.repeat([f"p{index:03d}" for index in range(num_groups)], size_G)
    label_N = np.repeat(label_G, size_G)
    logits = []
    for _ in range(num_repeats):
        noise_NC = rng.normal(size=(len(label_N), num_classes))
        logits.append(noise_NC + 0.7 * np.eye(num_classes)[label_N])
    order = rng.permutation(len(label_N) * num_repeats)
    rows = Rows.of(
        np.tile(label_N, num_repeats)[order],
        np.tile(group_N, num_repeats)[order],
        repeat_N=np.repeat(np.arange(num_repeats), len(label_N))[order],
    )
    return rows, np.concatenate(logits)[order]


@given(seed=st.integers(0, 10_000), num_repeats=st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_the_mean_pool_is_the_softmax_of_the_mean_logits(seed, num_repeats):
    rows, logits_NC = drawn(seed, num_repeats=num_repeats)
    groups, proba_GC = by_group(rows, softmax(logits_NC))
    for place in range(len(groups)):
        same = (rows.group_N == groups.group_N[place]) & (rows.repeat_N == groups.repeat_N[place])
        expected = softmax(logits_NC[same].mean(axis=0)[None])[0]
        np.testing.assert_allclose(proba_GC[place], expected, rtol=1e-9)
        assert (rows.label_N[same] == groups.label_N[place]).all()
    assert len(groups) == groups.num_groups * num_repeats


def test_the_score_by_group_is_that_of_scikit_learn_on_mean_logits():
    rows, logits_NC = drawn(3, num_groups=80)
    names = np.unique(rows.group_N)
    mean_GC = np.stack([logits_NC[rows.group_N == name].mean(axis=0) for name in names])
    label_G = np.array([rows.label_N[rows.group_N == name][0] for name in names])
    metric = metric_by_group(METRICS["f1_macro"], group_name="patient")
    value = score_interval(metric, rows, softmax(logits_NC)).value
    expected = sklearn.metrics.f1_score(label_G, mean_GC.argmax(axis=1), average="macro")
    assert value == pytest.approx(expected, abs=1e-12)
    assert value > score_interval(METRICS["f1_macro"], rows, softmax(logits_NC)).value
    loss = metric_by_group(METRICS["log_loss"])
    expected = sklearn.metrics.log_loss(label_G, softmax(mean_GC))
    assert score_interval(loss, rows, softmax(logits_NC)).value == pytest.approx(expected)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("pool", POOLS)
def test_a_score_by_group_equals_the_score_of_pooled_rows(name, pool):
    rows, logits_NC = drawn(5, num_repeats=2)
    proba_NC = softmax(logits_NC)
    pooled_rows, proba_GC = by_group(rows, proba_NC, pool)
    np.testing.assert_allclose(proba_GC.sum(axis=1), 1)
    ours = score_of(metric_by_group(METRICS[name], pool), rows, proba_NC)
    theirs = score_of(METRICS[name], pooled_rows, proba_GC)
    assert ours.value == theirs.value
    np.testing.assert_array_equal(ours.resamples_B, theirs.resamples_B)
    np.testing.assert_array_equal(ours.left_out_G, theirs.left_out_G)


def test_noisy_or_and_max_of_two_classes_are_those_of_the_textbook():
    sick_N = np.array([0.1, 0.6, 0.3, 0.05])
    proba_NC = np.stack([1 - sick_N, sick_N], axis=1)
    rows = Rows.of(np.array([1, 1, 1, 0]), np.array(["a", "a", "a", "b"]))
    noisy_GC = by_group(rows, proba_NC, "noisy-or")[1]
    np.testing.assert_allclose(noisy_GC[:, 1], [1 - 0.9 * 0.4 * 0.7, 0.05])
    np.testing.assert_allclose(by_group(rows, proba_NC, "max")[1][:, 1], [0.6, 0.05])


def test_with_more_classes_the_first_one_means_that_nothing_was_found():
    proba_NC = np.array([[0.7, 0.2, 0.1], [0.5, 0.1, 0.4]])
    rows = Rows.of(np.array([2, 2]), np.array(["a", "a"]))
    any_C = 1 - np.array([0.8 * 0.9, 0.9 * 0.6])
    expected = np.r_[0.35, 0.65 * any_C / any_C.sum()]
    np.testing.assert_allclose(by_group(rows, proba_NC, "noisy-or")[1][0], expected)
    largest_C = np.array([0.2, 0.4])
    expected = np.r_[0.5, 0.5 * largest_C / largest_C.sum()]
    np.testing.assert_allclose(by_group(rows, proba_NC, "max")[1][0], expected)


@pytest.mark.parametrize("pool", POOLS)
def test_pools_of_one_image_change_nothing_and_certain_ones_stay_finite(pool):
    proba_NC = softmax(np.random.default_rng(0).normal(size=(6, 4)))
    rows = Rows.of(np.zeros(6, int), np.arange(6))
    np.testing.assert_allclose(by_group(rows, proba_NC, pool)[1], proba_NC, rtol=1e-9)
    certain_NC = np.eye(3)[[0, 1, 1, 2, 0, 0]]
    rows = Rows.of(np.zeros(6, int), np.array([0, 0, 1, 1, 2, 2]))
    proba_GC = by_group(rows, certain_NC, pool)[1]
    assert np.isfinite(proba_GC).all()
    np.testing.assert_allclose(proba_GC.sum(axis=1), 1)
    assert proba_GC[2].argmax() == 0


def test_groups_of_two_labels_are_named():
    rows = Rows.of(np.array([0, 0, 1, 0]), np.array(["a", "a", "b", "b"]), group_name="patient")
    assert mixed_group(rows) == "b"
    with pytest.raises(UserError, match=r"^--score-by group: patient b has images of more than"):
        check_one_label(rows)
    metric = metric_by_group(METRICS["accuracy"])
    assert suited(metric, rows).pool == ""
    assert suited(metric, rows.take(rows.group_N == "a")) is metric
    assert mixed_group(Rows.of(np.empty(0, int), np.empty(0, int))) is None


def test_a_group_may_have_another_label_in_each_repeat_of_its_rows_only_if_it_is_one_label():
    rows = Rows.of(
        np.array([0, 0, 1, 1]), np.array(["a", "a", "a", "a"]), repeat_N=np.array([0, 0, 1, 1])
    )
    assert mixed_group(rows) is None


def test_an_unknown_pool_suggests_names():
    with pytest.raises(UserError, match=r"--group-pool nosy-or: unknown.*noisy-or"):
        check_pool("nosy-or")


def test_attributes_have_scores_by_group_where_the_class_has_none():
    pet = Attribute(name="pet", values=("no", "yes"), of_class=(0, 1, 1))
    rows = Rows.of(np.array([1, 2, 0, 0]), np.array(["a", "a", "b", "b"]), group_name="owner")
    proba_NC = np.array([[0.1, 0.2, 0.7], [0.6, 0.1, 0.3], [0.8, 0.1, 0.1], [0.3, 0.6, 0.1]])
    np.testing.assert_allclose(attribute_proba(pet, proba_NC)[:, 1], [0.9, 0.4, 0.2, 0.7])
    of_class, of_pet = both_scores(rows, proba_NC, attributes=[pet], metric=METRICS["accuracy"])
    assert (of_class.by_group, of_class.mixed) == (None, "a")
    assert of_class.by_image.value == 0.25
    # a: odds 9 and 2/3, whose mean log-odds are above 0; b: 1/4 and 7/3, below 0.
    assert of_pet.by_group.value == 1.0
    assert of_pet.by_image.value == 0.5
    single = Rows.of(rows.label_N, np.arange(4))
    assert both_scores(single, proba_NC, attributes=[pet], metric=METRICS["accuracy"]) == []
