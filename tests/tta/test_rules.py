"""Tests of the rules that take a candidate policy by its score on held-out groups."""

import numpy as np
import pytest

from foldblend.scores.metrics import METRICS
from foldblend.scores.rows import Rows
from tests.tta.test_choose import simulated
from tta.choose import choose
from tta.policy import IDENTITY, Policy, SavedViews
from tta.rules import SCORE, SIMPLE, Candidates, decide

NUM = 40
PAIR = Policy(("identity", "hflip"))
TRIPLE = Policy(("identity", "hflip", "vflip"))
ALONE = Policy(("vflip",))


def logits_with(num_right):
    """Return logits of two classes, with so many of the first rows right."""
    label_N = np.arange(NUM) % 2
    seen_N = np.where(np.arange(NUM) < num_right, label_N, 1 - label_N)
    return np.eye(2, dtype=np.float32)[seen_N] * 4


def candidates_of(policies, right_held, *, right_of_view=None):
    """Return candidates with so many right rows on held-out groups.

    On all rows, a policy is right where the first of its views that is not identity is.
    """
    right = {"identity": 20, "hflip": 30, "vflip": 30} | (right_of_view or {})
    # Identity is least confident, so other views overrule it.
    logits = [logits_with(num) * (0.1 if name == "identity" else 1) for name, num in right.items()]
    rows = Rows.of(np.arange(NUM) % 2, np.arange(NUM))
    saved = SavedViews(tuple(right), np.stack(logits), rows)
    held = [logits_with(num) for num in right_held]
    return Candidates(policies, held, saved, METRICS["accuracy"])


def test_the_best_score_is_taken_although_its_gain_is_below_one_standard_error():
    candidates = candidates_of([IDENTITY, PAIR], [20, 21])
    assert candidates.gain(1).value == pytest.approx(1 / NUM)
    # One row of 40 is better: the standard error is sqrt(1 / 40 * 39 / 40 / 40).
    assert candidates.gain(1).error == pytest.approx(0.0247, abs=0.002)
    choice = decide(candidates, SCORE)
    [step] = choice.steps
    assert (choice.policy, step.policy, step.over, step.taken) == (PAIR, PAIR, IDENTITY, True)
    assert step.gain == pytest.approx(1 / NUM)
    assert str(choice) == (
        "Views chosen: identity + hflip (mean); the best score on held-out groups: accuracy"
        f" improves by +0.0250 (standard error {step.standard_error:.4f})."
    )


def test_simple_waits_for_more_than_one_standard_error():
    """Two rows that become worse make the standard error of a gain of one row larger than it."""
    candidates = candidates_of([IDENTITY, PAIR], [20, 21])
    candidates.held[1][:2] = candidates.held[1][1::-1]
    candidates.held[1][20:23] = logits_with(NUM)[20:23]
    assert candidates.value(1) == pytest.approx(21 / NUM)
    assert 0 < candidates.gain(1).value < candidates.gain(1).error
    assert decide(candidates, SCORE).policy == PAIR
    simple = decide(candidates, SIMPLE)
    assert simple.policy == IDENTITY
    assert "no view improves the score by more than one standard error" in str(simple)


def test_the_best_of_several_is_taken_and_their_number_is_reported():
    policies = [IDENTITY, PAIR, TRIPLE, TRIPLE]
    # The second entry of an equal policy only fills up the list.
    choice = decide(candidates_of(policies, [20, 24, 26, 30]), SCORE)
    assert choice.policy == TRIPLE
    assert "the best score of 2 policies on held-out groups" in str(choice)
    assert choice.steps[0].gain == pytest.approx(6 / NUM)


def test_of_equal_scores_the_cheapest_is_taken():
    choice = decide(candidates_of([IDENTITY, PAIR, TRIPLE, ALONE], [20, 24, 26, 26]), SCORE)
    assert choice.policy == ALONE
    assert decide(candidates_of([IDENTITY, PAIR, TRIPLE], [20, 26, 26]), SCORE).policy == PAIR


@pytest.mark.parametrize("right", [20, 12])
def test_identity_stays_where_nothing_is_better(right):
    choice = decide(candidates_of([IDENTITY, PAIR, TRIPLE], [20, right, right - 2]), SCORE)
    assert choice.policy == IDENTITY
    assert not choice.steps[0].taken
    assert str(choice).startswith(
        "No augmentation is used: no policy improves accuracy on held-out groups. The closest is"
        f" identity + hflip (mean), with a gain of {(right - 20) / NUM:+.4f} (standard error "
    )


def test_a_policy_that_is_worse_on_the_rows_it_was_fitted_on_is_not_taken():
    worse = {"hflip": 18}
    one = candidates_of([IDENTITY, PAIR], [20, 30], right_of_view=worse)
    choice = decide(one, SCORE)
    assert choice.policy == IDENTITY
    assert "improves accuracy both on held-out groups and on all rows" in str(choice)
    # The next best is taken.
    two = candidates_of([IDENTITY, PAIR, ALONE], [20, 30, 25], right_of_view=worse)
    assert decide(two, SCORE).policy == ALONE


def test_a_score_that_is_not_defined_chooses_nothing():
    candidates = candidates_of([IDENTITY, PAIR], [20, 30])
    rows = Rows.of(np.zeros(NUM, int), np.arange(NUM))
    saved = SavedViews(candidates.saved.names, candidates.saved.logits_VNC, rows)
    undefined = Candidates(candidates.policies, candidates.held, saved, METRICS["roc_auc_ovr"])
    for prefer in (SCORE, SIMPLE):
        assert decide(undefined, prefer).policy == IDENTITY
    assert str(decide(undefined, SCORE)).endswith("is not defined on held-out groups.")


def test_score_finds_small_gains_more_often_than_simple():
    """A useful view and few groups: the gain is real but within its standard error."""
    taken = {SCORE: 0, SIMPLE: 0}
    for seed in range(12):
        saved = simulated(["useful"], num_groups=15, seed=seed)
        for prefer in taken:
            taken[prefer] += choose(saved, weightings=(), prefer=prefer).policy != IDENTITY
    assert taken[SCORE] >= 10
    assert taken[SCORE] > taken[SIMPLE]


def test_views_of_noise_are_mostly_not_taken():
    """Copies of identity with a little noise do not help: half of them look better by chance."""
    taken = 0
    for seed in range(12):
        saved = simulated(["copy"] * 4, num_groups=40, seed=seed)
        rng = np.random.default_rng(seed)
        saved.logits_VNC[1:] += rng.normal(size=saved.logits_VNC[1:].shape)
        taken += choose(saved, budget=2, prefer=SCORE).policy != IDENTITY
    assert taken <= 3
