"""Boosted trees as arrays: the probabilities of scikit-learn, and nodes that are no trees."""

import dataclasses

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from ensemble.methods.forest import forest_of


def grown(num_classes, *, num_rounds=12, seed=0, num_rows=300, **settings):
    rng = np.random.default_rng(seed)
    # Rounded, so that many values lie on thresholds.
    feature_ND = np.round(rng.normal(size=(num_rows, num_classes + 4)), 1).astype(np.float32)
    noisy_NC = feature_ND[:, :num_classes] + rng.normal(size=(num_rows, num_classes))
    model = HistGradientBoostingClassifier(
        max_iter=num_rounds, max_leaf_nodes=8, early_stopping=False, random_state=0, **settings
    )
    return model.fit(feature_ND, noisy_NC.argmax(axis=1)), feature_ND


@pytest.mark.parametrize("num_classes", [2, 3, 5, pytest.param(18, marks=pytest.mark.slow)])
def test_probabilities_are_those_of_scikit_learn_to_the_bit(num_classes):
    model, feature_ND = grown(num_classes)
    new_ND = np.random.default_rng(1).normal(size=(500, feature_ND.shape[1])).astype(np.float32)
    for one_ND in (feature_ND, 3 * new_ND, new_ND[:1], np.asfortranarray(new_ND)):
        proba_NE = forest_of(model)(one_ND)
        expected_NE = model.predict_proba(one_ND)
        np.testing.assert_array_equal(proba_NE, expected_NE)
        # Later sums depend on the order of the axes.
        assert proba_NE.flags.f_contiguous == expected_NE.flags.f_contiguous


def test_two_classes_have_one_tree_per_round():
    assert forest_of(grown(2)[0]).root_LZ.shape == (12, 1)
    assert forest_of(grown(3)[0]).root_LZ.shape == (12, 3)


def test_trees_of_a_single_leaf():
    model, feature_ND = grown(3, num_rounds=2, min_samples_leaf=300)
    forest = forest_of(model)
    assert forest.is_leaf_X.all()
    np.testing.assert_array_equal(forest(feature_ND), model.predict_proba(feature_ND))


def test_nodes_that_are_no_trees_are_refused():
    forest = forest_of(grown(2)[0])
    parent = int(np.flatnonzero(~forest.is_leaf_X)[1])
    for child in (0, parent, len(forest.left_X), -1):
        left_X = forest.left_X.copy()
        left_X[parent] = child
        with pytest.raises(ValueError, match="no trees"):
            dataclasses.replace(forest, left_X=left_X)
