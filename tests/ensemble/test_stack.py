"""Stacking, linear and by trees: a contract for both, then what each should find."""

import numpy as np
import pytest
import yaml

from ensemble.methods import stack, trees
from ensemble.methods.base import Evidence
from ensemble.methods.vote import Vote
from foldblend.scores.metrics import softmax
from foldblend.scores.rows import Rows
from tests.makers.rows import relabelled

NUM_CLASSES = 5
NUM_MEMBERS = 3
PER_GROUP = 2
FITS = {"stack": stack.fit, "trees": trees.fit}


def drawn(num_groups, seed, without=()):
    """Return members that confuse each class with the next one, each to another degree.

    A vote cannot undo that.
    """
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(num_groups), PER_GROUP)
    allowed = np.setdiff1d(np.arange(NUM_CLASSES), without)
    label = rng.choice(allowed, size=num_groups)[group]
    shared = rng.normal(size=(len(label), NUM_CLASSES))
    members = []
    for member in range(NUM_MEMBERS):
        confusion = 2.5 * np.eye(NUM_CLASSES) + (1.5 + member) * np.roll(
            np.eye(NUM_CLASSES), 1, axis=1
        )
        own = rng.normal(size=shared.shape)
        members.append(((np.eye(NUM_CLASSES)[label] @ confusion) + shared + own).astype(np.float32))
    return Evidence(members, Rows.of(label, group))


def shuffled(evidence, seed):
    """Return the same evidence with the labels of each group given to another group."""
    names, code = np.unique(evidence.rows.group_N, return_inverse=True)
    label_of = evidence.rows.label_N[np.unique(code, return_index=True)[1]]
    label = label_of[np.random.default_rng(seed).permutation(len(names))][code]
    return relabelled(evidence, label)


def loss_and_accuracy(fitted, evidence):
    log = np.log(softmax(fitted(evidence.logits_MNC)))
    rows = np.arange(len(evidence.rows.label_N))
    return -log[rows, evidence.rows.label_N].mean(), (
        log.argmax(axis=1) == evidence.rows.label_N
    ).mean()


def vote_of(evidence):
    return Vote("soft", (1.0,) * len(evidence.logits_MNC), evidence.temperatures)


@pytest.fixture(scope="module", params=FITS)
def fit(request):
    return FITS[request.param]


@pytest.fixture(scope="module")
def fitted(fit):
    return fit(drawn(500, 0))


def test_it_beats_the_vote_on_new_groups(fitted):
    fresh = drawn(1000, 1)
    loss, accuracy = loss_and_accuracy(fitted, fresh)
    vote_loss, vote_accuracy = loss_and_accuracy(vote_of(drawn(500, 0)), fresh)
    assert loss < vote_loss - 0.05
    assert accuracy > vote_accuracy + 0.03


def test_the_logits_of_a_row_do_not_depend_on_other_rows(fitted):
    logits = drawn(100, 2).logits_MNC
    whole = fitted(logits)
    for rows in (np.arange(7), np.array([150]), np.arange(199, -1, -3)):
        np.testing.assert_allclose(
            fitted([one[rows] for one in logits]), whole[rows], rtol=0, atol=1e-12
        )


def test_members_are_read_one_after_the_other(fitted):
    logits = drawn(20, 2).logits_MNC
    np.testing.assert_array_equal(fitted(one for one in logits), fitted(logits))


def test_the_result_is_log_probabilities_even_of_huge_logits(fitted):
    logits = [one * 1e4 for one in drawn(20, 2).logits_MNC]
    for given in (logits, [one.astype(np.float64) for one in logits], drawn(20, 2).logits_MNC):
        answer = fitted(given)
        assert answer.dtype == np.float64
        assert np.isfinite(answer).all()
        np.testing.assert_allclose(np.exp(answer).sum(axis=1), 1)


def test_the_fit_is_deterministic(fit, fitted):
    again = fit(drawn(500, 0))
    logits = drawn(50, 2).logits_MNC
    np.testing.assert_array_equal(again(logits), fitted(logits))
    assert again.as_dict() == fitted.as_dict()


def test_shares_sum_to_one_and_the_record_is_plain_data(fitted):
    assert len(fitted.shares) == NUM_MEMBERS
    assert min(fitted.shares) > 0
    assert sum(fitted.shares) == pytest.approx(1)
    assert yaml.safe_load(yaml.safe_dump(fitted.as_dict())) == fitted.as_dict()


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_learned_from_permuted_labels_of_groups(fit, seed):
    evidence = shuffled(drawn(200, seed), seed)
    fresh = drawn(500, 10 + seed)
    fresh_shuffled = shuffled(fresh, seed)
    found = fit(evidence)
    loss, _ = loss_and_accuracy(found, fresh_shuffled)
    assert loss < np.log(NUM_CLASSES) + 0.05
    _, accuracy = loss_and_accuracy(found, fresh)
    _, vote_accuracy = loss_and_accuracy(vote_of(evidence), fresh)
    assert accuracy > vote_accuracy - 0.02


def test_with_a_single_group_it_is_the_vote_at_a_temperature(fit):
    evidence = drawn(1, 0)
    fresh = drawn(50, 1)
    found = fit(evidence)
    vote = vote_of(evidence)(fresh.logits_MNC)
    np.testing.assert_allclose(found(fresh.logits_MNC).argmax(axis=1), vote.argmax(axis=1))
    scaled = np.log(softmax(vote / found.vote_temperature))
    np.testing.assert_allclose(found(fresh.logits_MNC), scaled, atol=1e-9)


def test_classes_without_rows_keep_the_probabilities_of_the_vote(fit):
    evidence = drawn(500, 0, without=(1, 3))
    fresh = drawn(500, 1)
    found = fit(evidence)
    assert found.class_E.tolist() == [0, 2, 4]
    answer = found(fresh.logits_MNC)
    vote = vote_of(evidence)(fresh.logits_MNC)
    at_temperature = np.log(softmax(vote / found.vote_temperature))
    assert np.isfinite(answer).all()
    np.testing.assert_allclose(answer[:, [1, 3]], at_temperature[:, [1, 3]], rtol=1e-12)
    np.testing.assert_allclose(np.exp(answer).sum(axis=1), 1)
    assert np.abs(answer - at_temperature).max() > 0.1  # the other classes were corrected
    # On data without these classes, they are predicted no more often than by the vote.
    alike = drawn(500, 1, without=(1, 3)).logits_MNC
    absent, absent_vote = (
        np.isin(one(alike).argmax(axis=1), [1, 3]).sum() for one in (found, vote_of(evidence))
    )
    assert absent <= absent_vote


@pytest.mark.parametrize("without", [(1, 2, 3, 4), (2, 3, 4)])
def test_one_class_or_two_are_enough(fit, without):
    evidence = drawn(60, 0, without=without)
    assert np.isfinite(fit(evidence)(evidence.logits_MNC)).all()


@pytest.mark.parametrize("num_rows", [1, 2, 3])
def test_a_handful_of_rows_is_enough(fit, num_rows):
    evidence = drawn(60, 0).take(np.arange(num_rows) * PER_GROUP)
    assert np.isfinite(fit(evidence)(evidence.logits_MNC)).all()


def test_one_member_can_be_corrected(fit):
    evidence = drawn(500, 0)
    fresh = drawn(1000, 1)
    one, other = (Evidence(all_of.logits_MNC[:1], all_of.rows) for all_of in (evidence, fresh))
    assert loss_and_accuracy(fit(one), other)[0] < loss_and_accuracy(vote_of(one), other)[0]


def test_a_strong_l2_penalty_gives_the_vote(monkeypatch):
    evidence = drawn(500, 0)
    monkeypatch.setattr(stack, "SPREADS", (1e-5,))
    monkeypatch.setattr(stack.Problem, "best_spread", lambda problem: 1e-5)
    found = stack.fit(evidence)
    vote = np.log(softmax(vote_of(evidence)(evidence.logits_MNC) / found.vote_temperature))
    np.testing.assert_allclose(found(evidence.logits_MNC), vote, atol=1e-5)


def test_the_l2_penalty_does_not_depend_on_the_number_of_rows_per_group():
    evidence = drawn(200, 0)
    fresh = drawn(50, 1).logits_MNC
    often = evidence.take(np.repeat(np.arange(len(evidence.rows.label_N)), 3))
    once = stack.fit(evidence)
    thrice = stack.fit(often)
    assert once.spread == thrice.spread > 0
    np.testing.assert_allclose(thrice(fresh), once(fresh), atol=1e-2)


def test_the_gradient_is_that_of_the_loss():
    rng = np.random.default_rng(0)
    feature = rng.normal(size=(30, 4))
    offset = rng.normal(size=(30, 3))
    target = rng.integers(3, size=30)
    weight = rng.normal(size=(4, 3))
    towards = rng.normal(size=(4, 3))
    losses = [
        stack._loss(feature, weight + step * towards, offset, target)[0] for step in (-1e-5, 1e-5)
    ]
    slope = stack._loss(feature, weight, offset, target)[1]
    assert (losses[1] - losses[0]) / 2e-5 == pytest.approx(float((slope * towards).sum()), rel=1e-6)


def test_the_columns_of_trees_do_not_depend_on_the_order_of_members():
    logits = drawn(50, 0).logits_MNC
    temperatures = (1.0, 2.0, 0.5)
    forth = trees.features(logits, temperatures)[1]
    back = trees.features(logits[::-1], temperatures[::-1])[1]
    assert forth.shape == (100, 2 * NUM_CLASSES + 6)
    np.testing.assert_allclose(forth, back, atol=1e-5)
