"""Sets of classes: p-values by hand, exact coverage on exchangeable rows, groups and repeats."""

import numpy as np
import pytest

from foldblend.scores.conformal import Conformal, sets
from foldblend.scores.coverage import out_of_fold_coverage
from foldblend.scores.metrics import softmax
from foldblend.scores.rows import Rows


def simulated(num_groups, size=3, num_classes=4, seed=0, folds=5):
    """Return logits of groups whose images share an error, and their rows."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(num_groups), size)
    label = rng.integers(num_classes, size=num_groups)[group]
    shape = (len(group), num_classes)
    errors = rng.normal(size=(num_groups, num_classes))[group] + rng.normal(size=shape)
    logits = (1.5 * np.eye(num_classes)[label] + errors).astype(np.float32)
    return logits, Rows.of(label, group, fold_N=group % folds)


def two_classes(proba):
    """Return logits of two classes whose first has these probabilities."""
    proba = np.asarray(proba, float)
    return np.log(np.stack([proba, 1 - proba], axis=1)).astype(np.float32)


def test_p_values_by_hand():
    # Probabilities of the true class of five rows: group 0 has two of them, which weigh half each.
    logits = two_classes([0.9, 0.2, 0.7, 0.6, 0.4])
    rows = Rows.of(np.zeros(5, int), np.array([0, 0, 1, 2, 3]))
    p = Conformal.of(logits, rows).p_values([two_classes([0.65])])
    # At most 0.65 have: half of group 0, and groups 2 and 3. At most 0.35 has half of group 0.
    np.testing.assert_allclose(p, [[(0.5 + 2 + 1) / 5, (0.5 + 1) / 5]])


def test_a_row_that_is_equally_likely_counts():
    logits = two_classes([0.5, 0.7, 0.9])
    p = Conformal.of(logits, Rows.of(np.zeros(3, int), np.arange(3))).p_values([two_classes([0.7])])
    assert p[0, 0] == pytest.approx(3 / 4)


def test_coverage_is_exact_for_exchangeable_groups():
    """Each of 20 groups in turn is new: two of 20 have a p-value of 0.1 or below."""
    logits, rows = simulated(20, size=1, folds=1)
    hits = []
    for new in range(20):
        others = rows.group_N != new
        conformal = Conformal.of(logits[others], rows.take(others))
        p = conformal.p_values([logits[[new]]])[0, rows.label_N[new]]
        hits.append(p > 0.1 + 1e-9)
    assert sum(hits) == 18


def test_the_row_of_a_new_group_is_covered_as_often_as_stated():
    covered = []
    for seed in range(150):
        logits, rows = simulated(61, size=4, seed=seed, folds=1)
        old = rows.group_N > 0
        new = np.flatnonzero(~old)[0]
        conformal = Conformal.of(logits[old], rows.take(old))
        covered.append(conformal.p_values([logits[[new]]])[0, rows.label_N[new]] > 0.2 + 1e-9)
    # 0.8 to 0.8 + 1/61, within three standard errors.
    assert 0.7 < np.mean(covered) < 0.92


def test_copies_of_rows_within_a_group_and_their_order_change_nothing():
    logits, rows = simulated(30)
    new = logits[:7] + 0.5
    p = Conformal.of(logits, rows).p_values([new] * 5)
    # Every row of some groups occurs three times.
    times = np.where(rows.group_N % 4 == 1, 3, 1)
    at = np.random.default_rng(1).permutation(np.repeat(np.arange(len(rows)), times))
    again = Conformal.of(logits[at], rows.take(at)).p_values([new] * 5)
    np.testing.assert_allclose(again, p, rtol=1e-12)


def test_a_model_is_compared_with_the_rows_that_it_has_not_seen():
    logits, rows = simulated(40)
    new = [logits[:6] + shift for shift in np.random.default_rng(2).normal(size=(5, 1, 4))]
    conformal = Conformal.of(logits, rows)
    assert conformal.num_models == 5
    parts = [conformal.p_values([new[model]], models=[model]) for model in range(5)]
    held = [rows.fold_N == fold for fold in range(5)]
    for model in range(5):
        alone = Conformal.of(logits[held[model]], rows.take(held[model]))
        np.testing.assert_allclose(parts[model], alone.p_values([new[model]]))
    # Over all folds the counts of groups are added, and the new image is one more.
    counts = [part * (8 + 1) - 1 for part in parts]
    np.testing.assert_allclose(conformal.p_values(new), (np.sum(counts, axis=0) + 1) / 41)
    with pytest.raises(ValueError, match="logits of 2 models, not of 5"):
        conformal.p_values(new[:2])


def test_a_mean_of_models_is_compared_with_all_rows():
    logits, rows = simulated(40)
    one = Conformal.of(logits, rows.in_folds(np.zeros(len(rows), int)))
    new = logits[:6] - 0.3
    np.testing.assert_array_equal(
        Conformal.of(logits, rows).p_values([new]), one.p_values([new], models=[0])
    )


def test_repeats_are_averaged():
    logits, rows = simulated(40)
    other = np.random.default_rng(3).normal(size=logits.shape).astype(np.float32)
    twice = Rows.of(
        np.tile(rows.label_N, 2),
        np.tile(rows.group_N, 2),
        repeat_N=np.repeat([0, 1], len(rows)),
        fold_N=np.tile(rows.fold_N, 2),
    )
    conformal = Conformal.of(np.concatenate([logits, other]), twice)
    new = [logits[:6]] * 5
    parts = [Conformal.of(one, rows).p_values(new) for one in (logits, other)]
    np.testing.assert_allclose(conformal.p_values(new * 2), np.mean(parts, axis=0))
    # Models of the second repeat only.
    np.testing.assert_allclose(conformal.p_values(new, models=range(5, 10)), parts[1])
    assert conformal.without_promise(0.9, 4) == Conformal.of(logits, rows).without_promise(0.9, 4)


def test_a_class_is_compared_with_its_own_rows():
    logits, rows = simulated(60)
    new = [logits[:6]] * 5
    p = Conformal.of(logits, rows).p_values(new, by_class=[2])
    of_class = rows.label_N == 2
    alone = Conformal.of(logits[of_class], rows.take(of_class)).p_values(new)
    np.testing.assert_allclose(p[:, 2], alone[:, 2])
    np.testing.assert_array_equal(p[:, :2], Conformal.of(logits, rows).p_values(new)[:, :2])


def test_classes_with_few_groups_have_no_promise_and_are_compared_with_all_rows():
    label = np.repeat([0, 1, 2], [30, 9, 10])
    logits = np.random.default_rng(4).normal(size=(49, 4)).astype(np.float32)
    conformal = Conformal.of(logits, Rows.of(label, np.arange(49)))
    assert conformal.without_promise(0.9, 4) == [1, 3]
    assert conformal.without_promise(0.8, 4) == [3]
    assert conformal.without_promise(1.0, 4) == [0, 1, 2, 3]
    by_class = conformal.sets([logits], 0.9, by_class=True)
    np.testing.assert_array_equal(
        by_class, sets(conformal.p_values([logits], by_class=[0, 2]), 0.9)
    )


def test_sets_grow_with_the_coverage_and_are_never_empty():
    logits, rows = simulated(60)
    p = Conformal.of(logits, rows).p_values([logits - logits[::-1]] * 5)
    smaller = sets(p, 0.01)
    assert (smaller.sum(axis=1) == 1).all()
    for coverage in (0.5, 0.8, 0.95, 0.999):
        larger = sets(p, coverage)
        assert (larger >= smaller).all()
        smaller = larger
    assert smaller.all()
    assert sets(np.empty((0, 4)), 0.9).shape == (0, 4)


def test_arrays_hold_all_but_the_temperature():
    logits, rows = simulated(30)
    conformal = Conformal.of(logits, rows, temperature=1.7)
    again = Conformal.from_arrays(conformal.as_arrays(), temperature=1.7)
    new = [logits[:9]] * 5
    np.testing.assert_array_equal(
        again.sets(new, 0.9, by_class=True), conformal.sets(new, 0.9, by_class=True)
    )
    np.testing.assert_array_equal(again.p_values(new), conformal.p_values(new))
    warm = Conformal.of(logits / 1.7, rows).p_values([one / 1.7 for one in new])
    np.testing.assert_allclose(conformal.p_values(new), warm, atol=0.02)


def test_coverage_out_of_fold():
    logits, rows = simulated(400)
    narrow = out_of_fold_coverage(logits, rows, 0.8)
    wide = out_of_fold_coverage(logits, rows, 0.95)
    assert narrow.share.low < 0.8 < narrow.share.high
    assert wide.share.low < 0.95 < wide.share.high
    assert 1 <= narrow.width < wide.width <= 4
    by_class = out_of_fold_coverage(logits, rows, 0.8, by_class=True)
    assert by_class.share.low < 0.8 < by_class.share.high
    assert out_of_fold_coverage(logits, rows.in_folds(np.zeros(1200, int)), 0.8) is None


def test_coverage_counts_groups_and_not_images():
    # Group 0 has 40 images, all of them predicted wrong; 19 groups are right with certainty.
    group = np.concatenate([np.zeros(40, int), np.arange(1, 20)])
    label = np.where(group == 0, 1, 0)
    logits = np.tile(np.array([[9.0, -9.0]], np.float32), (59, 1))
    rows = Rows.of(label, group, fold_N=group % 4)
    found = out_of_fold_coverage(logits, rows, 0.9)
    assert found.share.value == pytest.approx(19 / 20)
    # The second class is not below 1 of 16 groups for the folds without group 0.
    assert found.width == pytest.approx((5 * 1 + 15 * 2) / 20)


def test_sets_hold_for_rare_and_confident_classes():
    """A class that the model is always sure of has narrow sets, without any for which it is not."""
    logits, rows = simulated(200, num_classes=6)
    logits[:, 5] -= 20
    kept = rows.label_N != 5
    conformal = Conformal.of(logits[kept], rows.take(kept))
    assert not conformal.sets([logits] * 5, 0.9)[:, 5].any()
    assert softmax(logits)[:, 5].max() < 1e-3
