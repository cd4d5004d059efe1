"""Fitted weights of a soft vote, on mixtures with known weights."""

import numpy as np
import pytest
import scipy.optimize

from ensemble.methods.base import Evidence
from ensemble.methods.weights import fit_log_loss, fit_metric
from foldblend.scores.metrics import METRICS, log_softmax, mean_score, softmax
from foldblend.scores.rows import Rows

FITS = {"log loss": fit_log_loss, "metric": fit_metric}


def evidence_of(logits, label, *, group=None, repeat=None, metric="f1_macro", temperatures=None):
    group = np.arange(len(label)) if group is None else group
    repeat = np.zeros(len(label), int) if repeat is None else repeat
    evidence = Evidence(
        [one.astype(np.float32) for one in logits], Rows.of(label, group, repeat_N=repeat), metric
    )
    if temperatures is not None:
        evidence.__dict__["temperatures"] = temperatures
    return evidence


def mixture(weights, num=20_000, num_classes=6, seed=0):
    """Return members with independent logits, and labels drawn from their weighted mean."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(len(weights), num, num_classes)) * 2
    proba = np.einsum("m,mnc->nc", weights, [softmax(one) for one in logits])
    return logits, (proba.cumsum(axis=1) > rng.random((num, 1))).argmax(axis=1)


def noisy(num_groups, sizes, num_classes=5, seed=0, per_group=3):
    """Return members that see the true class with noise of the standard deviations `sizes`."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(num_groups), per_group)
    label = rng.integers(num_classes, size=num_groups)[group]
    truth = np.eye(num_classes)[label] * 3
    return [truth + size * rng.normal(size=truth.shape) for size in sizes], label, group


@pytest.mark.parametrize("weights", [(0.6, 0.3, 0.1), (0.5, 0.5, 0.0), (0.1, 0.2, 0.3, 0.4)])
def test_planted_weights_are_found(weights):
    logits, label = mixture(weights)
    ones = (1.0,) * len(weights)
    found = fit_log_loss(evidence_of(logits, label, temperatures=ones))
    assert found.pool == "soft"
    assert found.temperatures == ones
    np.testing.assert_allclose(found.weights, weights, atol=0.03)
    assert all(
        one == 0 for one, planted in zip(found.weights, weights, strict=True) if planted == 0
    )


def test_the_weights_are_the_optimum():
    logits, label = mixture((0.7, 0.2, 0.1), num=500)
    likelihood = np.stack([softmax(one)[np.arange(500), label] for one in logits], axis=1)

    def objective(weights):
        return -np.log(likelihood @ weights).sum() - np.log(weights).sum()

    constraint = {"type": "eq", "fun": lambda weights: weights.sum() - 1}
    best = scipy.optimize.minimize(
        objective,
        np.full(3, 1 / 3),
        bounds=[(1e-6, 1)] * 3,
        constraints=constraint,
        options={"ftol": 1e-12},
    )
    found = fit_log_loss(evidence_of(logits, label, temperatures=(1.0,) * 3))
    np.testing.assert_allclose(found.weights, best.x, atol=1e-3)


@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
def test_a_useless_member_gets_nothing(fit):
    logits, label, group = noisy(2000, (1.5, 1.5, 1.5))
    logits.append(np.random.default_rng(5).normal(size=logits[0].shape))
    found = fit(evidence_of(logits, label, group=group))
    assert found.weights[-1] == 0
    assert sum(found.weights) == pytest.approx(1)
    assert min(found.weights[:3]) > 0.1


@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
def test_a_single_member_has_all_the_weight(fit):
    logits, label, group = noisy(50, (1.5,))
    assert fit(evidence_of(logits, label, group=group)).weights == (1.0,)


@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
def test_equal_members_have_equal_weights(fit):
    logits, label, group = noisy(100, (1.5,))
    np.testing.assert_allclose(
        fit(evidence_of(logits * 4, label, group=group)).weights, 0.25, atol=1e-3
    )


def test_few_groups_change_little_however_many_rows_they_have():
    few_logits, few, group = noisy(6, (1.0, 2.5), per_group=1)
    once = fit_log_loss(evidence_of(few_logits, few, group=group, temperatures=(1.0, 1.0)))
    rows = np.repeat(np.arange(6), 100)
    often = evidence_of(
        [one[rows] for one in few_logits], few[rows], group=group[rows], temperatures=(1.0, 1.0)
    )
    np.testing.assert_allclose(fit_log_loss(often).weights, once.weights, atol=1e-6)
    assert min(once.weights) >= 1 / (6 + 2)  # of six groups and two of the prior


def test_rows_that_are_unlikely_for_all_members_do_not_underflow():
    logits = [np.array([[1e4, 0.0], [0.0, 1e4]]), np.array([[2e4, 0.0], [0.0, 3.0]])]
    found = fit_log_loss(evidence_of(logits, np.array([1, 1]), temperatures=(1.0, 1.0)))
    assert np.isfinite(found.weights).all()
    assert sum(found.weights) == pytest.approx(1)


@pytest.mark.parametrize("metric", METRICS)
def test_by_metric_loses_little_on_new_groups(metric):
    sizes = (1.5, 2.0, 2.5, 4.0)
    logits, label, group = noisy(400, sizes)
    repeat = np.arange(len(label)) % 2
    found = fit_metric(evidence_of(logits, label, group=group, repeat=repeat, metric=metric))
    assert min(found.weights) >= 0
    assert sum(found.weights) == pytest.approx(1)
    fresh, truth, _ = noisy(2000, sizes, seed=1)
    score = METRICS[metric]
    sign = METRICS[metric].sign
    equal = softmax(np.log(np.mean([softmax(one) for one in fresh], axis=0)))
    gain = sign * (
        mean_score(score, truth, softmax(found(fresh))) - mean_score(score, truth, equal)
    )
    assert gain > -0.005


def test_by_metric_scores_no_worse_than_its_start_on_the_fitted_rows():
    logits, label, group = noisy(400, (1.5, 2.0, 2.5, 4.0), seed=3)
    evidence = evidence_of(logits, label, group=group, metric="accuracy")
    by_loss, by_metric = (fit(evidence) for fit in (fit_log_loss, fit_metric))
    accuracy = [
        (vote(evidence.logits_MNC).argmax(axis=1) == label).mean() for vote in (by_loss, by_metric)
    ]
    assert accuracy[1] >= accuracy[0]


def test_the_loss_is_that_of_the_vote_itself():
    logits, label, group = noisy(400, (1.5, 2.0, 4.0), seed=4)
    evidence = evidence_of(logits, label, group=group)
    found = fit_log_loss(evidence)
    loss = -log_softmax(found(evidence.logits_MNC))[np.arange(len(label)), label].mean()
    for member in range(3):
        moved = np.array(found.weights) * 0.9 + 0.1 * np.eye(3)[member]
        other = type(found)("soft", tuple(moved.tolist()), found.temperatures)
        assert (
            loss
            < -log_softmax(other(evidence.logits_MNC))[np.arange(len(label)), label].mean() + 1e-3
        )
