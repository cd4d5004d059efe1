"""Tests of merges of views: a contract for all of them, and each against its closed form."""

import numpy as np
import pytest

from foldblend.scores.metrics import softmax
from tta.merge import MERGES, check_weights, entropy_mean, mean_logit, mean_proba

NUM_VIEWS = 4
NUM_ROWS = 30
NUM_CLASSES = 5
WEIGHTS = {
    "none": None,
    "per view": np.array([0.1, 3.0, 0.7, 1.3]),
    "with zeros": np.array([0.0, 3.0, 0.0, 1.3]),
    "per class": np.random.default_rng(1).random((NUM_VIEWS, NUM_CLASSES)),
    "per class with zeros": np.vstack([np.eye(3, NUM_CLASSES), np.ones(NUM_CLASSES)]),
}


def random_logits(num_views=NUM_VIEWS, scale=3.0, seed=0):
    shape = (num_views, NUM_ROWS, NUM_CLASSES)
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


@pytest.fixture(params=MERGES)
def merge(request):
    return MERGES[request.param]


@pytest.fixture(params=WEIGHTS)
def weights(request):
    return WEIGHTS[request.param]


@pytest.mark.parametrize("scale", [1e-3, 3.0, 1e4])
@pytest.mark.parametrize("num_views", [1, 2, 3, 7, 12])
def test_equal_views_give_the_same_bits_as_one(merge, num_views, scale):
    view = random_logits(1, scale)
    rng = np.random.default_rng(2)
    for weights in (None, rng.random(num_views), rng.random((num_views, NUM_CLASSES))):
        merged = merge(np.repeat(view, num_views, axis=0), weights)
        assert merged.dtype == np.float32
        np.testing.assert_array_equal(merged, view[0])


def test_one_view_is_returned_bit_for_bit(merge):
    view = random_logits(1)
    for weights in (None, np.array([0.3]), np.full((1, NUM_CLASSES), 0.2)):
        np.testing.assert_array_equal(merge(view, weights), view[0])


@pytest.mark.parametrize("bad", [1e4, -1e4])
def test_huge_logits_stay_finite(merge, weights, bad):
    logits = random_logits()
    logits[:, :10] = np.sign(logits[:, :10]) * 1e4
    logits[0, :, 1] = bad
    logits[1, 3:7] = bad
    assert np.isfinite(merge(logits, weights)).all()


def test_the_order_of_views_does_not_matter(merge, weights):
    logits = random_logits()
    order = np.array([2, 0, 3, 1])
    turned = merge(logits[order], None if weights is None else weights[order])
    np.testing.assert_allclose(softmax(turned), softmax(merge(logits, weights)), atol=1e-6)


def test_rows_are_merged_independently(merge, weights):
    logits = random_logits()
    rows = np.array([7, 3, 3])
    np.testing.assert_array_equal(merge(logits[:, rows], weights), merge(logits, weights)[rows])


def test_a_constant_added_to_a_row_has_no_effect(merge, weights):
    logits = random_logits().astype(np.float64)
    shifted = logits + np.random.default_rng(3).normal(size=(NUM_VIEWS, NUM_ROWS, 1)) * 20
    np.testing.assert_allclose(
        softmax(merge(shifted, weights)), softmax(merge(logits, weights)), atol=1e-5
    )


def test_a_view_with_weight_zero_has_no_effect(merge):
    logits = random_logits()
    weights = np.array([0.0, 2.0, 0.0, 1.0])
    wild = logits.copy()
    wild[[0, 2]] = -1e4 * wild[[0, 2]]
    np.testing.assert_array_equal(merge(wild, weights), merge(logits[[1, 3]], weights[[1, 3]]))
    np.testing.assert_array_equal(merge(logits, np.array([0.0, 5.0, 0.0, 0.0])), logits[1])


def test_only_the_proportions_of_weights_count(merge, weights):
    if weights is None:
        same = softmax(merge(random_logits(), np.full(NUM_VIEWS, 0.4)))
        np.testing.assert_allclose(same, softmax(merge(random_logits())), atol=1e-6)
    else:
        np.testing.assert_allclose(
            merge(random_logits(), 17 * weights), merge(random_logits(), weights), atol=1e-5
        )
        if weights.ndim == 1:
            spread = np.repeat(weights[:, None], NUM_CLASSES, axis=1)
            np.testing.assert_array_equal(
                merge(random_logits(), spread), merge(random_logits(), weights)
            )


def test_mean_is_the_normalised_geometric_mean():
    logits = random_logits()
    weight = WEIGHTS["per view"]
    for weights in (None, weight):
        geometric = np.exp(
            np.average(np.log([softmax(one) for one in logits]), axis=0, weights=weights)
        )
        geometric /= geometric.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(softmax(mean_logit(logits, weights)), geometric, atol=1e-6)


def test_mean_without_weights_gives_the_bits_that_existing_runs_have():
    logits = random_logits()
    np.testing.assert_array_equal(
        mean_logit(logits), logits.mean(axis=0, dtype=np.float64).astype(np.float32)
    )


def test_prob_is_the_mean_of_probabilities():
    logits = random_logits()
    weight = WEIGHTS["per view"]
    for weights in (None, weight):
        mean = np.average([softmax(one) for one in logits], axis=0, weights=weights)
        np.testing.assert_allclose(softmax(mean_proba(logits, weights)), mean, atol=1e-6)


def test_weights_of_a_class_change_only_that_class():
    logits = random_logits()
    weights = np.ones((NUM_VIEWS, NUM_CLASSES))
    weights[:, 2] = [1, 0, 0, 0]
    log_VNC = np.log([softmax(one) for one in logits])
    scores = log_VNC.mean(axis=0)
    scores[:, 2] = log_VNC[0, :, 2]
    np.testing.assert_allclose(softmax(mean_logit(logits, weights)), softmax(scores), atol=1e-6)
    proba = np.exp(log_VNC).mean(axis=0)
    proba[:, 2] = np.exp(log_VNC[0, :, 2])
    proba /= proba.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(softmax(mean_proba(logits, weights)), proba, atol=1e-6)


def test_entropy_weighs_by_one_over_perplexity():
    # The perplexities are 1 and 4.
    certain = [50.0, 0, 0, 0]
    uncertain = [0.0, 0, 0, 0]
    merged = softmax(entropy_mean(np.array([[certain], [uncertain]], np.float32)))
    expected = (np.array([1.0, 0, 0, 0]) * 1 + np.full(4, 0.25) * 0.25) / 1.25
    np.testing.assert_allclose(merged[0], expected, atol=1e-6)
    proba = np.array([softmax(one) for one in random_logits()])
    perplexity = np.exp(-(proba * np.log(proba)).sum(axis=2, keepdims=True))
    mean = (proba / perplexity).sum(axis=0) / (1 / perplexity).sum(axis=0)
    np.testing.assert_allclose(softmax(entropy_mean(random_logits())), mean, atol=1e-6)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(3), "shape"),
        (np.ones((NUM_VIEWS, 2)), "shape"),
        (np.array([1.0, -0.1, 1, 1]), "0 or more"),
        (np.array([1.0, np.nan, 1, 1]), "finite"),
        (np.zeros(NUM_VIEWS), "above 0"),
        (np.vstack([np.ones((3, NUM_CLASSES)), np.ones(NUM_CLASSES)]) * [1, 1, 1, 1, 0], "above 0"),
    ],
)
def test_wrong_weights_are_refused(merge, weights, message):
    with pytest.raises(ValueError, match=message):
        merge(random_logits(), weights)
    with pytest.raises(ValueError, match=message):
        check_weights(weights, NUM_VIEWS, NUM_CLASSES)
