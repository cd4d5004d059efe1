"""The contract of all methods of blending, and known answers of votes."""

import json

import numpy as np
import pytest

from ensemble.auto import blend_arrays
from ensemble.choose import selection_optimism, simplest
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
    """Return members that see the true class with noise, at different scales.

    Rows of a group are similar.
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


def test_logits_are_finite_and_computed_row_by_row(method):
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


def test_shares_sum_to_one_and_the_record_is_plain_data(method):
    evidence = drawn()
    fitted = method.fit(evidence)
    assert len(fitted.shares) == 3
    assert min(fitted.shares) >= 0
    assert sum(fitted.shares) == pytest.approx(1)
    assert json.loads(json.dumps(fitted.as_dict(), allow_nan=False)) == fitted.as_dict()
    again = method.fit(drawn())
    assert again.as_dict() == fitted.as_dict()
    np.testing.assert_array_equal(again(evidence.logits_MNC), fitted(evidence.logits_MNC))


def test_a_single_member_is_blended_too(method):
    evidence = drawn(num_members=1)
    fitted = method.fit(evidence)
    assert fitted.shares == (1.0,)
    found = METRICS["accuracy"].score(evidence.rows.label_N, softmax(fitted(evidence.logits_MNC)))
    assert (
        found
        >= METRICS["accuracy"].score(evidence.rows.label_N, softmax(evidence.logits_MNC[0])) - 0.05
    )


def test_a_class_without_rows_is_not_predicted_more_often(method):
    evidence = drawn(missing=2)
    logits = method.fit(evidence)(evidence.logits_MNC)
    assert logits.shape[1] == NUM_CLASSES
    assert np.isfinite(logits).all()
    # Nothing in these rows is a reason to predict the class more often than the members do.
    voted = soft_vote(evidence.logits_MNC, [1] * 3).argmax(1) == 2
    assert (logits.argmax(1) == 2).sum() <= max(3, 1.5 * voted.sum())


def test_methods_that_fit_nothing_do_not_use_labels():
    evidence = drawn()
    other = relabelled(evidence, np.zeros_like(evidence.rows.label_N))
    for name, method in METHODS.items():
        same = np.array_equal(
            method.fit(evidence)(evidence.logits_MNC), method.fit(other)(evidence.logits_MNC)
        )
        assert same or method.fits, name


def test_votes_by_hand():
    confident = np.log([[0.98, 0.01, 0.01]])
    unsure = np.log([[0.2, 0.5, 0.3]])
    three = [confident, unsure, unsure]
    np.testing.assert_allclose(
        np.exp(soft_vote(three, [1, 1, 1])), [[1.38 / 3, 1.01 / 3, 0.61 / 3]]
    )
    geometric = np.array([[0.98 * 0.2 * 0.2, 0.01 * 0.5 * 0.5, 0.01 * 0.3 * 0.3]]) ** (1 / 3)
    np.testing.assert_allclose(softmax(log_vote(three, [1, 1, 1])), geometric / geometric.sum())
    assert hard_vote(three, [1, 1, 1]).argmax() == 1
    assert (
        hard_vote([confident, unsure], [1, 1]).argmax() == 0
    )  # the mean probability decides the tie
    assert soft_vote(three, [1, 1, 1]).argmax() == 0


def test_rank_raises_a_class_that_is_never_the_most_likely():
    rng = np.random.default_rng(0)
    label = (rng.random(4000) < 0.05).astype(int)
    margin = 5 - 3 * label + rng.normal(size=4000)
    logits = np.stack([margin, np.zeros(4000)], axis=1).astype(np.float32)
    evidence = Evidence([logits], Rows.of(label, np.arange(4000)))
    recall = METRICS["balanced_accuracy"].score
    ranked = METHODS["rank"].fit(evidence)([logits])
    assert recall(label, softmax(ranked)) > recall(label, softmax(logits)) + 0.2


def test_cross_fitted_rows_do_not_depend_on_labels_of_their_fold():
    """Changing the labels of a fold does not change the logits of that fold."""
    evidence = drawn()
    fold = assign_folds(evidence.rows.label_N, evidence.rows.group_N, num_folds=4, seed=0)
    changed = np.where(fold == 2, (evidence.rows.label_N + 1) % NUM_CLASSES, evidence.rows.label_N)
    other = relabelled(evidence, changed)
    methods = {name: one for name, one in METHODS.items() if one.fits and not one.thorough}
    before, after = (
        cross_fit(one, splits_of(folded(one, fold)), methods) for one in (evidence, other)
    )
    for name in methods:
        np.testing.assert_array_equal(
            before[name].logits_NC[fold == 2], after[name].logits_NC[fold == 2], err_msg=name
        )
        # Rank uses labels only to see which classes occur.
        # The best member stays the best.
        if name not in ("rank", "single"):
            finals = (one[name].final(evidence.logits_MNC) for one in (before, after))
            assert not np.array_equal(*finals), name


def test_nothing_is_learned_from_permuted_labels(monkeypatch):
    """With labels permuted between groups, a stacker scores well in-sample but not nested.

    It would choose the vote, so the test makes it use the weakest L2 penalty.
    """
    monkeypatch.setattr(stack.Problem, "best_spread", lambda _: stack.SPREADS[-1])
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
    """Return a score whose resamples are normal around it."""
    return Score(value, value + spread * np.random.default_rng(seed).standard_normal(1000))


def test_the_simplest_within_one_standard_error_is_chosen():
    assert simplest([score(0.79, 0.02), score(0.80, 0.02)]) == 0
    assert simplest([score(0.77, 0.02), score(0.785, 0.02), score(0.80, 0.02)]) == 1
    assert simplest([score(0.70, 0.02), score(0.80, 0.02)]) == 1
    assert simplest([score(np.nan, 0.02), score(0.7, 0.02)]) == 1
    assert simplest([score(np.nan, 0.02), score(np.nan, 0.02)]) == 0


def test_selection_optimism_is_estimated_about_right():
    """Among equally good methods with independent errors, the chosen score errs upwards."""
    assert selection_optimism([score(0.8, 0.02)]) == 0
    same = score(0.8, 0.02)
    assert selection_optimism([same, same, same]) == 0
    rng = np.random.default_rng(0)
    off = []
    for seed in range(40):
        errors = rng.normal(0, 0.02, 6)
        scores = [
            score(0.8 + error, 0.02, seed=(seed, place)) for place, error in enumerate(errors)
        ]
        off.append((scores[simplest(scores)].value - 0.8, selection_optimism(scores)))
    true, estimated = np.mean(off, axis=0)
    assert 0.005 < true < 0.025
    assert estimated == pytest.approx(true, abs=0.01)
