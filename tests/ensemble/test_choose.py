"""Averages weighted by the chance to be best, and the optimism of finding such weights."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.auto import SCORE, SIMPLE, apply, blend_arrays
from ensemble.choose import averaging_optimism, chances, mean_proba, score_logits
from ensemble.config import BlendConfig, decisions, read_blend_file
from ensemble.methods.base import Evidence
from ensemble.methods.mixture import MIXTURE, Mixture
from ensemble.methods.registry import METHODS
from ensemble.methods.vote import Vote
from foldblend.scores.metrics import METRICS, softmax
from foldblend.scores.rows import Rows
from foldblend.scores.score import Score
from tests.makers.worlds import World

VOTES = {name: METHODS[name] for name in ("single", "soft", "log", "hard", "tempered", "weights")}


def score(value, spread, seed=0):
    return Score(value, value + spread * np.random.default_rng(seed).standard_normal(1000))


def test_weights_are_the_shares_of_samples_in_which_a_prediction_is_best():
    values = np.array([[3, 3, 0, 0], [1, 1, 2, 0], [0, 0, 0, 1.0]])
    found = chances([Score(row.mean(), row) for row in values])
    np.testing.assert_allclose(found, [0.5, 0.25, 0.25])


def test_of_equal_predictions_the_first_has_all_the_weight():
    same = score(0.8, 0.02)
    assert chances([same, same]).tolist() == [1, 0]


def test_weights_below_two_percent_are_left_out():
    best_B = np.zeros(1000)
    best_B[:19] = 2  # 1.9 %
    found = chances([Score(0.0, best_B), Score(1.0, np.ones(1000))])
    assert found.tolist() == [0, 1]


def test_samples_without_a_finite_score_do_not_count():
    found = chances([Score(0.0, np.array([np.nan, 1, 1])), Score(0.0, np.array([9, 0, 2.0]))])
    assert found.tolist() == [0.5, 0.5]
    assert chances([Score(np.nan, np.full(3, np.nan))] * 2).tolist() == [1, 0]


@given(st.integers(1, 6), st.integers(0, 9))
def test_weights_sum_to_one_and_a_better_prediction_never_gets_less(num, seed):
    rng = np.random.default_rng(seed)
    spread_SB = rng.normal(size=(num, 200)) * 0.1
    value_S = rng.random(num)
    before = chances([Score(v, v + row) for v, row in zip(value_S, spread_SB, strict=True)])
    value_S[0] += 0.05
    after = chances([Score(v, v + row) for v, row in zip(value_S, spread_SB, strict=True)])
    assert before.sum() == pytest.approx(1)
    assert after[0] >= before[0] - 0.03  # small weights are dropped, so the rest is rescaled


def test_the_mean_of_probabilities():
    proba_SNC = np.array([[[0.8, 0.2]], [[0.4, 0.6]], [[np.nan, np.nan]]])
    np.testing.assert_allclose(mean_proba(proba_SNC, np.array([0.25, 0.75, 0])), [[0.5, 0.5]])


def _guesses(seed, num=6, num_groups=80):
    """Return predictions that are right on 60 % of the images, independently of each other."""
    rng = np.random.default_rng(seed)
    group_N = np.repeat(np.arange(num_groups), 3)
    label_N = rng.integers(0, 3, len(group_N))
    evidence = Evidence([np.zeros((len(label_N), 3))], Rows.of(label_N, group_N), "accuracy")
    is_right_SN = rng.random((num, len(label_N))) < 0.6
    predicted_SN = np.where(is_right_SN, label_N, (label_N + 1) % 3)
    return evidence, 0.9 * np.eye(3)[predicted_SN] + 0.1 / 3


def test_averaging_the_same_prediction_is_not_optimistic():
    evidence, proba_SNC = _guesses(0, num=1)
    same_SNC = np.repeat(proba_SNC, 3, axis=0)
    scores = [score_logits(evidence, np.log(one)) for one in same_SNC]
    assert averaging_optimism(evidence, same_SNC, scores, chances(scores)) == 0
    assert averaging_optimism(evidence, proba_SNC, scores[:1], np.ones(1)) == 0


def test_the_optimism_of_averaging_is_estimated_about_right():
    """Predictions are right on 60 % of the images, and their scores differ by chance alone.

    This is the hardest case: a resample cannot know that none is better than the others, so the
    estimate is too low, by a third here.
    """
    true = []
    estimated = []
    for seed in range(40):
        evidence, proba_SNC = _guesses(seed, num_groups=40)
        scores = [score_logits(evidence, np.log(one)) for one in proba_SNC]
        weight_S = chances(scores)
        found = score_logits(evidence, np.log(mean_proba(proba_SNC, weight_S)), resampled=False)
        new, new_SNC = _guesses(1000 + seed, num_groups=2000)
        fresh_NC = mean_proba(new_SNC, weight_S)
        true.append(found.value - METRICS["accuracy"].score(new.rows.label_N, fresh_NC))
        estimated.append(averaging_optimism(evidence, proba_SNC, scores, weight_S))
    error = np.std(true) / np.sqrt(len(true))
    assert np.mean(true) > 4 * error
    assert 0.5 * np.mean(true) < np.mean(estimated) < np.mean(true)


@pytest.fixture(scope="module")
def evidence():
    return World(3, "averaged").evidence()


def test_a_mixture_is_the_weighted_mean_of_its_methods(evidence):
    made = blend_arrays(evidence, VOTES, decide=False)
    assert not made.is_choice
    assert made.chosen.name == MIXTURE
    parts_SNC = np.stack([softmax(trial.logits_NC) for trial in made.trials])
    expected_NC = np.einsum("s,snc->nc", made.weight_S, parts_SNC)
    np.testing.assert_allclose(softmax(made.chosen.logits_NC), expected_NC, atol=1e-5)
    final = made.chosen.final
    assert isinstance(final, Mixture)
    whole_SNC = np.stack([softmax(t.final(evidence.logits_MNC)) for t in made.trials])
    expected_NC = np.einsum("s,snc->nc", made.weight_S, whole_SNC)
    np.testing.assert_allclose(softmax(final(evidence.logits_MNC)), expected_NC, atol=1e-9)
    assert sum(final.shares) == pytest.approx(1)
    share_M = np.einsum("s,sm->m", made.weight_S, [t.final.shares for t in made.trials])
    np.testing.assert_allclose(final.shares, share_M)


def test_what_is_preferred_decides_between_a_mean_and_the_simplest(evidence):
    simple = blend_arrays(evidence, VOTES, decide=False, prefer=SIMPLE)
    assert simple.is_choice
    assert simple.chosen in simple.trials
    mean = blend_arrays(evidence, VOTES, decide=False, prefer=SCORE)
    for one, other in zip(simple.trials, mean.trials, strict=True):
        np.testing.assert_array_equal(one.logits_NC, other.logits_NC)


def test_each_method_of_a_mixture_has_its_own_decision_rule():
    votes = Vote("soft", (1.0,), (1.0,)), Vote("soft", (1.0,), (2.0,))
    offsets_SC = np.array([[1.0, -1.0], [0.0, 0.0]])
    mixture = Mixture(("soft", "tempered"), votes, (0.5, 0.5), offsets_SC)
    logits = [np.array([[0.0, 0.5], [2.0, 0.0]], np.float32)]
    parts = (
        apply(vote, offsets_C, logits) for vote, offsets_C in zip(votes, offsets_SC, strict=True)
    )
    np.testing.assert_allclose(
        softmax(mixture(iter(logits))), sum(softmax(part) for part in parts) / 2
    )


def test_a_single_member_is_chosen_where_the_others_are_noise():
    rng = np.random.default_rng(0)
    label_N = rng.integers(0, 4, 300)
    good_NC = 2 * np.eye(4)[label_N] + rng.normal(size=(300, 4))
    logits = [rng.normal(size=(300, 4)), good_NC, rng.normal(size=(300, 4))]
    found = METHODS["single"].fit(Evidence(logits, Rows.of(label_N, np.arange(300) // 3)))
    assert found.shares == (0, 1, 0)
    np.testing.assert_allclose(softmax(found(logits)), softmax(good_NC), atol=1e-12)


def test_blends_of_earlier_versions_keep_their_choice_and_their_key(tmp_path):
    file = tmp_path / "blend.yaml"
    file.write_text("method: auto\nmetric: f1_macro\nmembers: [{path: ../a}]\n")
    old = read_blend_file(file)
    assert old.prefer == SIMPLE
    assert "prefer" not in decisions(old)
    assert decisions(BlendConfig())["prefer"] == SCORE
    # A vote that fits nothing is the same blend as before.
    assert "prefer" not in decisions(BlendConfig(method="soft"))
    assert decisions(BlendConfig(method="stack"))["prefer"] == SCORE
