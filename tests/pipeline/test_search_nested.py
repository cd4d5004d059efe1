"""The nested score of a search: repeats, folds, and studies that have more trials than asked."""

import pytest

from foldblend.errors import UserError
from pipeline.search.frozen import FrozenTrials
from tests.makers.searches import tuner


@pytest.fixture
def tune(tiny_layout, tmp_path):
    return tuner(tiny_layout, tmp_path)


@pytest.fixture
def inner(monkeypatch):
    """Return the outer folds of the trials of inner searches so far."""
    seen = []
    without = FrozenTrials.without_fold

    def watched(self, config, outer):
        seen.append(outer)
        return without(self, config, outer)

    monkeypatch.setattr(FrozenTrials, "without_fold", watched)
    return seen


def test_the_folds_of_several_repeats_have_a_nested_score_of_the_first(tune):
    once = tune(trials=2, nested=True, study="once").info["search"]
    twice = tune(trials=2, nested=True, study="twice", repeats=2).info["search"]
    assert twice["nested"]["value"] == pytest.approx(once["nested"]["value"])


def test_two_folds_are_refused_before_the_first_trial(tune, tmp_path):
    with pytest.raises(UserError, match="--nested: needs 3 or more folds"):
        tune(nested=True, folds=2)
    assert not (tmp_path / "outputs" / "s").exists()


def test_a_nested_score_is_of_as_many_trials_as_the_study_has(tune, inner):
    tune(trials=4)
    best = tune(trials=1, nested=True)
    assert best.info["search"]["num_trials"] == 4
    assert inner == 4 * [0] + 4 * [1] + 4 * [2]


def test_a_nested_score_stays_until_the_study_grows(tune):
    nested = tune(trials=3, nested=True).info["search"]["nested"]
    assert tune(trials=3).info["search"]["nested"] == nested
    assert tune(trials=1).info["search"]["nested"] == nested
    assert "nested" not in tune(trials=4).info["search"]
