import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from folds.errors import UserError
from folds.split import SPLITTERS, assign_folds, rare_classes


@st.composite
def grouped(draw):
    num_groups = draw(st.integers(6, 30))
    sizes = draw(st.lists(st.integers(1, 5), min_size=num_groups, max_size=num_groups))
    group = np.repeat([f"g{index}" for index in range(num_groups)], sizes)
    label = np.array(draw(st.lists(st.integers(0, 3), min_size=len(group), max_size=len(group))))
    return label, group, draw(st.integers(2, 5)), draw(st.integers(0, 99))


@settings(max_examples=40, deadline=None)
@given(grouped())
def test_groups_stay_together_and_no_fold_is_empty(world):
    label, group, num_folds, seed = world
    fold = assign_folds(label, group, num_folds=num_folds, seed=seed)
    assert set(fold) == set(range(num_folds))
    for name in np.unique(group):
        assert len(set(fold[group == name])) == 1
    assert np.array_equal(fold, assign_folds(label, group, num_folds=num_folds, seed=seed))


def test_balanced_people_split_evenly():
    group = np.repeat(np.arange(30), 7)
    label = group % 3
    fold = assign_folds(label, group, num_folds=5, seed=0)
    counts = np.array([[np.sum((fold == k) & (label == c)) for c in range(3)] for k in range(5)])
    assert (counts == 14).all()


def test_the_stratified_splitter_leaks_and_says_so():
    group, label = np.repeat(np.arange(10), 6), np.tile([0, 1, 2], 20)
    fold = assign_folds(label, group, num_folds=3, seed=0, split="stratified")
    assert any(len(set(fold[group == name])) > 1 for name in range(10))
    assert SPLITTERS["stratified"].leaks
    assert not SPLITTERS["stratified-group"].leaks


def test_too_few_groups_or_folds():
    label, group = np.zeros(9, int), np.repeat([0, 1, 2], 3)
    with pytest.raises(UserError, match=r"only 3 groups.*pass --folds 3 or fewer"):
        assign_folds(label, group, num_folds=4, seed=0)
    with pytest.raises(UserError, match="at least 2"):
        assign_folds(label, group, num_folds=1, seed=0)


def test_classes_smaller_than_the_folds():
    label, group = np.repeat(np.arange(10), 3), np.arange(30)
    with pytest.raises(UserError, match="no class has as many pictures"):
        assign_folds(label, group, num_folds=5, seed=0)
    with pytest.raises(UserError, match="all pictures are of one group"):
        assign_folds(label, np.zeros(30), num_folds=5, seed=0)


def test_rare_classes_counts_groups_not_rows():
    label = np.array([0] * 12 + [1] * 12)
    group = np.array([0, 1, 2, 3] * 3 + [4] * 12)
    assert rare_classes(label, group, num_folds=3) == {1: 1}
