import functools
import inspect
import itertools
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.dummy import DummyClassifier
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.model_selection import StratifiedGroupKFold as Theirs

from foldblend.errors import UserError
from folds.balance import lower_bound, objective, profiles_of
from folds.evenness import audit_lines, evenness_line, unevenness
from folds.kfold import StratifiedGroupKFold, codes_of, stratified_group_folds
from folds.split import SPLITTERS, assign_folds, rare_classes, split_groups

COHORT = (549, 410, 83, 732, 817, 109)


@st.composite
def grouped(draw):
    num_groups = draw(st.integers(2, 30))
    sizes = draw(st.lists(st.integers(1, 6), min_size=num_groups, max_size=num_groups))
    group = np.repeat([f"g{index}" for index in range(num_groups)], sizes)
    label = np.array(draw(st.lists(st.integers(0, 4), min_size=len(group), max_size=len(group))))
    return label, group, draw(st.integers(2, min(6, num_groups))), draw(st.integers(0, 99))


def check_split(data, split):
    """Check that folds are complete, keep groups, ignore row order and respect the bound."""
    label, group, num_folds, seed = data
    row = np.array([f"{index:04d}.jpg" for index in range(len(label))])
    fold = assign_folds(label, group, num_folds=num_folds, seed=seed, split=split, id_N=row)
    assert fold.shape == label.shape
    assert set(fold.tolist()) == set(range(num_folds))
    if not SPLITTERS[split].leaks:
        assert split_groups(fold, group) == []
    order = np.random.default_rng(seed).permutation(len(label))
    again = assign_folds(
        label[order], group[order], num_folds=num_folds, seed=seed, split=split, id_N=row[order]
    )
    assert np.array_equal(again, fold[order])
    if split == "stratified-group":
        value, bound = unevenness(label, group, fold)
        assert value >= bound - 1e-9


@pytest.mark.parametrize("split", SPLITTERS)
@settings(max_examples=40, deadline=None)
@given(data=grouped())
def test_properties_of_every_splitter(split, data):
    check_split(data, split)


@pytest.mark.exhaustive
@pytest.mark.parametrize("split", SPLITTERS)
@settings(max_examples=10_000, deadline=None)
@given(data=grouped())
def test_properties_of_every_splitter_at_length(split, data):
    # Every start has these properties, and more starts only take longer.
    with mock.patch("folds.balance.MOST_STARTS", 2):
        check_split(data, split)


def value_of(label, group, fold):
    """Return the objective by its definition, in plain loops."""
    num_folds = fold.max() + 1
    total = 0.0
    for counted in [*(label == one for one in np.unique(label)), np.ones(len(label), bool)]:
        share = counted.sum() / num_folds
        total += sum((np.sum(counted & (fold == k)) / share - 1) ** 2 for k in range(num_folds))
    return total


@pytest.mark.parametrize("seed", range(12))
def test_small_data_reach_the_optimum(seed):
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(7), rng.integers(1, 5, 7))
    label = rng.integers(0, 3, len(group))
    fold = stratified_group_folds(label, group, num_folds=3, seed=0)
    best = min(
        value_of(label, group, np.array(of_group)[group])
        for of_group in itertools.product(range(3), repeat=7)
        if len(set(of_group)) == 3
    )
    assert value_of(label, group, fold) == pytest.approx(best)
    value, bound = unevenness(label, group, fold)
    assert value == pytest.approx(best)
    assert bound <= best + 1e-12


@pytest.mark.parametrize("seed", range(3))
def test_folds_of_the_competition_differ_by_at_most_one_person_per_stratum(seed):
    stratum = np.repeat(np.arange(6), COHORT)
    label = (stratum[:, None] + np.array([0, 0, 0, 0, 0, 6, 12])).ravel()
    group = np.repeat(np.arange(len(stratum)), 7)
    fold = stratified_group_folds(label, group, num_folds=5, seed=seed)
    people = np.array(
        [[np.sum((fold[::7] == k) & (stratum == one)) for one in range(6)] for k in range(5)]
    )
    assert (np.ptp(people, axis=0) <= 1).all()
    assert (people.sum(axis=1) == 540).all()
    value, bound = unevenness(label, group, fold)
    assert value == pytest.approx(bound)
    lines = audit_lines(label, group, fold, classes=[str(one) for one in range(18)])
    assert lines[1].split() == ["0", "540", "3,780", "18", "of", "18"]
    assert lines[-1] == "Folds are as even as they can be."
    assert max(map(len, lines)) <= 80


def test_the_bound_accounts_for_large_groups_and_coarse_counts():
    # One class: a group of 10 and four of 1 over 2 folds; the group fills a fold, shares are 7.
    group = np.repeat(np.arange(5), [10, 1, 1, 1, 1])
    profiles = profiles_of(np.zeros(14, int), group)
    # The column of the class and that of the size are equal, hence the factor of 2.
    assert lower_bound(profiles, 2) == pytest.approx(2 * 2 * (3 / 7) ** 2)
    # Three groups of 4 over 2 folds: 8 and 4 at best.
    profiles = profiles_of(np.zeros(12, int), np.repeat(np.arange(3), 4))
    assert lower_bound(profiles, 2) == pytest.approx(2 * 2 * (2 / 6) ** 2)
    assert objective(np.array([[6, 6], [6, 6]])) == 0


def test_never_less_even_than_scikit_learn_on_unequal_groups():
    for seed in range(8):
        rng = np.random.default_rng(seed)
        group = np.repeat(np.arange(60), rng.integers(1, 20, 60))
        label = rng.integers(0, 5, len(group))
        theirs = np.empty_like(label)
        for fold, (_, held_out) in enumerate(
            Theirs(5, shuffle=True, random_state=seed).split(label, label, group)
        ):
            theirs[held_out] = fold
        ours = stratified_group_folds(label, group, num_folds=5, seed=seed)
        assert unevenness(label, group, ours)[0] <= unevenness(label, group, theirs)[0]


def test_seeds_and_repeats_give_different_folds_of_equal_balance():
    group = np.repeat(np.arange(60), 3)
    label = group % 4
    folds = [
        assign_folds(label, group, num_folds=5, seed=seed, repeat=r)
        for seed in (0, 1)
        for r in (0, 1)
    ]
    assert all(not np.array_equal(one, other) for one, other in itertools.combinations(folds, 2))
    assert len({unevenness(label, group, fold)[0] for fold in folds}) == 1


def test_many_groups_with_sampled_candidates_and_many_classes():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(3000), rng.integers(1, 6, 3000))
    label = rng.integers(0, 2000, len(group))  # so many that the table of counts stays sparse
    fold = stratified_group_folds(label, group, num_folds=4, seed=0)
    random = assign_folds(label, group, num_folds=4, seed=0, split="group")
    assert split_groups(fold, group) == []
    assert unevenness(label, group, fold)[0] < 0.8 * unevenness(label, group, random)[0]


def test_scikit_learn_accepts_the_splitter():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(30), 4)
    label = rng.integers(0, 3, 120)
    splitter = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    assert splitter.get_n_splits() == 5
    assert (
        len(cross_val_score(DummyClassifier(), label[:, None], label, groups=group, cv=splitter))
        == 5
    )
    search = GridSearchCV(DummyClassifier(), {"strategy": ["prior", "stratified"]}, cv=splitter)
    assert search.fit(label[:, None], label, groups=group).n_splits_ == 5
    seen = [
        set(group[held_out]) & set(group[train])
        for train, held_out in splitter.split(label, label, group)
    ]
    assert seen == [set()] * 5


def held_out_rows(splitter, label, group):
    return [held_out.tolist() for _, held_out in splitter.split(label, label, group)]


def test_the_splitter_has_the_signature_of_scikit_learns():
    ours, theirs = (
        [(one.name, one.kind, one.default) for one in inspect.signature(kind).parameters.values()]
        for kind in (StratifiedGroupKFold, Theirs)
    )
    assert ours == theirs
    for arguments in ({}, {"n_splits": 3, "shuffle": True, "random_state": 7}):
        assert repr(StratifiedGroupKFold(**arguments)) == repr(Theirs(**arguments))
        assert vars(StratifiedGroupKFold(**arguments)) == vars(Theirs(**arguments))


def test_shuffle_decides_on_the_folds_without_a_seed_only():
    group = np.repeat(np.arange(30), 4)
    label = np.random.default_rng(0).integers(0, 3, 120)
    rows = functools.partial(held_out_rows, label=label, group=group)
    for seed in (0, 7):
        fold = stratified_group_folds(label, group, num_folds=5, seed=seed)
        expected = [np.flatnonzero(fold == one).tolist() for one in range(5)]
        # Earlier versions had no `shuffle` and took a seed without it.
        assert rows(StratifiedGroupKFold(5, random_state=seed)) == expected
        assert rows(StratifiedGroupKFold(5, shuffle=True, random_state=seed)) == expected
    assert rows(StratifiedGroupKFold(5)) == rows(StratifiedGroupKFold(5, random_state=0))
    fresh = StratifiedGroupKFold(5, shuffle=True)
    assert len({str(rows(fresh)) for _ in range(4)}) == 4
    legacy = StratifiedGroupKFold(5, shuffle=True, random_state=np.random.RandomState(0))
    assert rows(legacy) != rows(legacy)
    with pytest.raises(TypeError, match="shuffle='yes'"):
        StratifiedGroupKFold(5, shuffle="yes")


def test_scikit_learn_is_never_imported():
    code = (
        "import sys, numpy as np; from folds import StratifiedGroupKFold as S;list(S(2).split(None,"
        " np.arange(8) % 2, np.arange(8) // 2)); assert 'sklearn' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_invalid_arguments_of_the_splitter():
    label = np.arange(8) % 2
    group = np.arange(8) // 2
    for arguments, message in (
        ((None, label, None), "both y"),
        ((None, None, group), "both y"),
        ((np.zeros(7), label, group), "lengths differ"),
        ((None, label, np.zeros(8)), "only 1 groups"),
        ((None, label, [None] * 8), "is missing"),
    ):
        with pytest.raises(ValueError, match=message):
            list(StratifiedGroupKFold(2).split(*arguments))
    for folds in (1, 2.5, "5"):
        with pytest.raises(ValueError, match="at least 2"):
            StratifiedGroupKFold(folds)


def test_leaky_splitters_leak_and_are_marked():
    group = np.repeat(np.arange(10), 6)
    label = np.tile([0, 1, 2], 20)
    for split in ("stratified", "random"):
        assert split_groups(assign_folds(label, group, num_folds=3, seed=0, split=split), group)
        assert SPLITTERS[split].leaks
    assert not SPLITTERS["stratified-group"].leaks
    assert not SPLITTERS["group"].leaks


def test_too_few_groups_or_folds():
    label = np.zeros(9, int)
    group = np.repeat([0, 1, 2], 3)
    with pytest.raises(UserError, match=r"only 3 groups.*pass --folds 3 or fewer"):
        assign_folds(label, group, num_folds=4, seed=0)
    with pytest.raises(UserError, match="at least 2"):
        assign_folds(label, group, num_folds=1, seed=0)
    with pytest.raises(UserError, match="all images are of one group"):
        assign_folds(label, np.zeros(9), num_folds=3, seed=0)
    with pytest.raises(UserError, match="no images"):
        assign_folds(label[:0], group[:0], num_folds=3, seed=0)


def test_a_class_of_one_group_a_single_class_and_groups_of_one_image():
    label = np.array([0] * 12 + [1] * 3)
    group = np.array([0, 1, 2, 3] * 3 + [4] * 3)
    assert set(assign_folds(label, group, num_folds=5, seed=0)) == set(range(5))
    assert rare_classes(label, group, num_folds=3) == {1: 1}
    fold = assign_folds(np.zeros(11, int), np.arange(11), num_folds=5, seed=0)
    assert sorted(np.bincount(fold)) == [2, 2, 2, 2, 3]


def test_codes_follow_the_sorted_values():
    assert codes_of(np.array(["b", "a", "b"], dtype=object)).tolist() == [1, 0, 1]
    assert codes_of([30, 2, 30]).tolist() == [1, 0, 1]


def test_the_audit_reports_the_least_even_class_and_the_even_share():
    label = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    fold = np.array([0, 0, 1, 1, 0, 1, 1, 1])
    lines = audit_lines(label, np.arange(8), fold, classes=["cat", "dog", "eel"])
    assert lines[1].split() == ["0", "3", "3", "2", "of", "2"]
    assert lines[3].split() == ["even", "share", "4.0", "4.0"]
    assert lines[4] == "Least even class: 'dog', 1 image in fold 0 (even share 2.0)."
    assert lines[5] == "Class counts of the folds are 32.3% off the even share (root mean square)."
    # Two groups of 3 and 1 images: the folds cannot be even, and these are the best.
    label = np.zeros(4, int)
    group = np.array([0, 0, 0, 1])
    assert "as even as they can be" in evenness_line(label, group, np.array([0, 0, 0, 1]))
    # Groups of 3, 2 and 1 images: 4 and 2 in two folds, where 3 and 3 are possible.
    group = np.array([0, 0, 0, 1, 1, 2])
    line = evenness_line(np.zeros(6, int), group, np.array([0, 0, 0, 1, 1, 0]))
    assert line == "Class counts of the folds are 33.3% off the even share (root mean square)."
    # Groups of 5, 1 and 1 images: all in one fold but one, where 5 and 2 are possible.
    group = np.array([0, 0, 0, 0, 0, 1, 2])
    line = evenness_line(np.zeros(7, int), group, np.array([0, 0, 0, 0, 0, 1, 0]))
    assert line.endswith(
        "71.4% off the even share (root mean square); no split can be below 42.9%."
    )
