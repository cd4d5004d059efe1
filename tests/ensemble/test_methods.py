"""What every way of combining members promises, and known answers of votes."""

import json

import numpy as np
import pytest

from ensemble.auto import blend_arrays
from ensemble.choose import choosing_flatters, simplest
from ensemble.crossfit import cross_fit, splits_of
from ensemble.methods import stack
from ensemble.methods.base import Evidence
from ensemble.methods.registry import METHODS
from ensemble.methods.vote import hard_vote, log_vote, soft_vote
from foldblend.scores.metrics import METRICS, log_softmax, softmax
from foldblend.scores.rows import Rows
from foldblend.scores.score import Score
from folds.split import assign_folds
from tests.makers.rows import folded, relabelled

NUM_CLASSES = 4


def drawn(num_groups=40, num_members=3, *, seed=0, strength=1.5, missing=None, per_group=4):
    """Members that see the truth dimly, each at a sharpness of its own; rows of a group are
    alike.
    """
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(num_groups), per_group)
    label = rng.integers(0, NUM_CLASSES, num_groups)[group]
    label = np.where(rng.random(len(group)) < 0.5, label, rng.integers(0, NUM_CLASSES, len(group)))
    if missing is not None:
        label[label == missing] = (missing + 1) % NUM_CLASSES
    common = rng.normal(size=(num_groups, NUM_CLASSES))[group]
    logits = [
        (
            (place + 1)
            * (strength * np.eye(NUM_CLASSES)[label] + common + rng.normal(size=common.shape))
        ).astype(np.float32)
        for place in range(num_members)
    ]
    return Evidence(logits, Rows.of(label, group))


@pytest.fixture(params=list(METHODS))
def method(request):
    return METHODS[request.param]


def test_answers_are_finite_and_row_by_row(method):
    evidence = drawn()
    fresh = drawn(seed=1)
    fitted = method.fit(evidence)
    whole = fitted(iter(fresh.logits_MNC))
    assert whole.shape == fresh.logits_MNC[0].shape
    assert whole.dtype == np.float64
    assert np.isfinite(whole).all()
    some = np.array([5, 2, 90])
    np.testing.assert_allclose(
        fitted(one[some] for one in fresh.logits_MNC), whole[some], rtol=1e-6, atol=1e-6
    )


def test_extreme_logits_stay_finite(method):
    evidence = drawn()
    extreme = [np.where(one > 0, 1e4, -1e4).astype(np.float32) for one in evidence.logits_MNC]
    for fitted, logits in (
        (method.fit(evidence), extreme),
        (method.fit(Evidence(extreme, evidence.rows)), evidence.logits_MNC),
    ):
        assert np.isfinite(fitted(logits)).all()


def test_shares_and_record(method):
    evidence = drawn()
    fitted = method.fit(evidence)
    assert len(fitted.shares) == 3
    assert min(fitted.shares) >= 0
    assert sum(fitted.shares) == pytest.approx(1)
    assert json.loads(json.dumps(fitted.as_dict(), allow_nan=False)) == fitted.as_dict()
    again = method.fit(drawn())
    assert again.as_dict() == fitted.as_dict()
    np.testing.assert_array_equal(again(evidence.logits_MNC), fitted(evidence.logits_MNC))


def test_one_member_is_blended_too(method):
    evidence = drawn(num_members=1)
    fitted = method.fit(evidence)
    assert fitted.shares == (1.0,)
    found = METRICS["accuracy"].score(evidence.rows.label_N, softmax(fitted(evidence.logits_MNC)))
    assert (
        found
        >= METRICS["accuracy"].score(evidence.rows.label_N, softmax(evidence.logits_MNC[0])) - 0.05
    )


def test_a_class_without_rows_is_masked_and_comes_back(method):
    evidence = drawn(missing=2)
    logits = method.fit(evidence)(evidence.logits_MNC)
    assert logits.shape[1] == NUM_CLASSES
    assert np.isfinite(logits).all()
    # What is fitted on rows without a class has no reason to raise it over what the members say.
    voted = soft_vote(evidence.logits_MNC, [1] * 3).argmax(1) == 2
    assert (logits.argmax(1) == 2).sum() <= max(3, 1.5 * voted.sum())


def test_what_fits_nothing_needs_no_labels():
    evidence = drawn()
    other = relabelled(evidence, np.zeros_like(evidence.rows.label_N))
    for name, method in METHODS.items():
        same = np.array_equal(
            method.fit(evidence)(evidence.logits_MNC), method.fit(other)(evidence.logits_MNC)
        )
        assert same or method.fits, name


def test_votes_by_hand():
    sure = np.log([[0.98, 0.01, 0.01]])
    shy = np.log([[0.2, 0.5, 0.3]])
    three = [sure, shy, shy]
    np.testing.assert_allclose(
        np.exp(soft_vote(three, [1, 1, 1])), [[1.38 / 3, 1.01 / 3, 0.61 / 3]]
    )
    geometric = np.array([[0.98 * 0.2 * 0.2, 0.01 * 0.5 * 0.5, 0.01 * 0.3 * 0.3]]) ** (1 / 3)
    np.testing.assert_allclose(softmax(log_vote(three, [1, 1, 1])), geometric / geometric.sum())
    assert hard_vote(three, [1, 1, 1]).argmax() == 1
    assert hard_vote([sure, shy], [1, 1]).argmax() == 0  # a tie, which the mean probability decides
    assert soft_vote(three, [1, 1, 1]).argmax() == 0


def test_rank_lifts_a_class_that_is_never_likeliest():
    rng = np.random.default_rng(0)
    label = (rng.random(4000) < 0.05).astype(int)
    margin = 5 - 3 * label + rng.normal(size=4000)
    logits = np.stack([margin, np.zeros(4000)], axis=1).astype(np.float32)
    evidence = Evidence([logits], Rows.of(label, np.arange(4000)))
    recall = METRICS["balanced_accuracy"].score
    ranked = METHODS["rank"].fit(evidence)([logits])
    assert recall(label, softmax(ranked)) > recall(label, softmax(logits)) + 0.2


def test_cross_fitted_rows_are_by_other_people():
    """Changing one fold's labels changes nothing of what that fold's rows are given."""
    evidence = drawn()
    fold = assign_folds(evidence.rows.label_N, evidence.rows.group_N, num_folds=4, seed=0)
    changed = np.where(fold == 2, (evidence.rows.label_N + 1) % NUM_CLASSES, evidence.rows.label_N)
    other = relabelled(evidence, changed)
    methods = {name: one for name, one in METHODS.items() if one.fits and not one.thorough}
    before, after = (
        cross_fit(one, splits_of(folded(one, fold)), methods, say=lambda _: None)
        for one in (evidence, other)
    )
    for name in methods:
        np.testing.assert_array_equal(
            before[name].logits_NC[fold == 2], after[name].logits_NC[fold == 2], err_msg=name
        )
        if name != "rank":  # which asks only which classes there are
            finals = (one[name].final(evidence.logits_MNC) for one in (before, after))
            assert not np.array_equal(*finals), name


def test_nothing_is_learned_from_permuted_labels(monkeypatch):
    """Labels permuted between people: in-sample a stacker finds something all the same, nested it
    does not.

    Left to itself it would take the vote; here it is made to fit as freely as it can.
    """
    monkeypatch.setattr(stack._Problem, "best_spread", lambda _: stack.SPREADS[-1])
    evidence = drawn(num_groups=60, num_members=6, per_group=3)
    rng = np.random.default_rng(3)
    f1 = METRICS["f1_macro"]
    fold = assign_folds(evidence.rows.label_N, evidence.rows.group_N, num_folds=4, seed=0)
    fair = log_softmax(evidence.logits_MNC[0])
    band = []
    nested = []
    in_sample = []
    for _ in range(8):
        order = rng.permutation(60)
        label = evidence.rows.label_N.reshape(60, 3)
        permuted = label[order].ravel()
        band += [f1.score(label[rng.permutation(60)].ravel(), softmax(fair)) for _ in range(25)]
        other = relabelled(evidence, permuted)
        [trial] = blend_arrays(folded(other, fold), {"stack": METHODS["stack"]}, decide=True).trials
        nested.append(trial.nested.value)
        in_sample.append(trial.in_sample)
    low, high = np.quantile(band, [0.005, 0.995])
    assert low <= np.mean(nested) <= high
    assert max(nested) <= high + 0.03
    assert np.mean(in_sample) > np.mean(nested) + 0.03


def score(value, spread, seed=0):
    """A score whose resamples lie around it."""
    return Score(value, value + spread * np.random.default_rng(seed).standard_normal(1000))


def test_the_simplest_within_one_standard_error_is_taken():
    assert simplest([score(0.79, 0.02), score(0.80, 0.02)]) == 0
    assert simplest([score(0.77, 0.02), score(0.785, 0.02), score(0.80, 0.02)]) == 1
    assert simplest([score(0.70, 0.02), score(0.80, 0.02)]) == 1
    assert simplest([score(np.nan, 0.02), score(0.7, 0.02)]) == 1
    assert simplest([score(np.nan, 0.02), score(np.nan, 0.02)]) == 0


def test_choosing_flatters_about_as_much_as_it_says():
    """Equally good methods whose scores err each by itself: the one that is taken has erred
    upwards.
    """
    assert choosing_flatters([score(0.8, 0.02)]) == 0
    same = score(0.8, 0.02)
    assert choosing_flatters([same, same, same]) == 0
    rng = np.random.default_rng(0)
    off = []
    for seed in range(40):
        errors = rng.normal(0, 0.02, 6)
        scores = [
            score(0.8 + error, 0.02, seed=(seed, place)) for place, error in enumerate(errors)
        ]
        off.append((scores[simplest(scores)].value - 0.8, choosing_flatters(scores)))
    true, said = np.mean(off, axis=0)
    assert 0.005 < true < 0.025
    assert said == pytest.approx(true, abs=0.01)
