"""Searches of settings: trials equal runs, go on after a kill, and say what choosing cost."""

import numpy as np
import pytest

import foldblend as fb
from foldblend.cli import cli_flags
from pipeline.config.run import RunConfig
from pipeline.search.config import SearchConfig, make_tune_config
from pipeline.search.frozen import FrozenTrials
from pipeline.search.setup import set_up
from tests.makers.searches import SMALL, SPACE, silent, study_of, tuner


@pytest.fixture
def tune(tiny_layout, tmp_path):
    return tuner(tiny_layout, tmp_path)


def test_no_flag_of_a_search_is_one_of_a_run():
    assert not cli_flags(SearchConfig).keys() & cli_flags(RunConfig).keys()


def test_a_trial_has_the_bits_of_a_run(tiny_layout, tmp_path):
    settings = {**SMALL, "data": str(tiny_layout), "output": tmp_path, "feature_views": 1}
    for own in ({"tta": "hflip", "head_l2": 0.05}, {"head_l2": "auto"}):
        run = fb.cross_validate(settings, **own, name=f"run{len(own)}", say=silent)
        found_NC = FrozenTrials(tmp_path).held_out(fb.make_config(settings, **own))
        oof = run.oof.sort_values("image_id")
        train = set_up_of(tmp_path, tiny_layout).run.manifest.train
        order = np.argsort(train["image_id"].to_numpy())
        np.testing.assert_array_equal(run.logits(oof), found_NC[order])


def set_up_of(tmp_path, tiny_layout, **more):
    """Return the checked inputs of a search."""
    (tmp_path / "space.yaml").write_text(SPACE)
    settings = {**SMALL, "data": str(tiny_layout), "output": tmp_path, "study": "s", **more}
    return set_up(*make_tune_config(None, {**settings, "space": tmp_path / "space.yaml"}), silent)


def test_the_best_trial_becomes_a_run_that_says_so(tune, tmp_path):
    best = tune(trials=5)
    study = study_of(tmp_path / "outputs")
    assert len(study.trials) == 5
    assert study.trials[0].params == {"head_l2": 0.3, "tta": "none"}
    search = best.info["search"]
    assert best.name == "s_best"
    assert search["num_trials"] == 5
    assert best.report["headline"]["value"] == pytest.approx(study.best_value, abs=1e-12)
    assert search["score"]["value"] == pytest.approx(study.best_value, abs=1e-12)
    assert search["expected"]["value"] <= search["score"]["value"]
    assert any("chosen from 5 trials on these folds" in one for one in best.info["notes"])
    assert any(one["title"] == "Search of settings" for one in best.report["sections"])


def test_a_search_goes_on_and_equals_an_unbroken_one(tune, tmp_path):
    tune(trials=2, study="a")
    tune(trials=5, study="a")
    tune(trials=5, study="b")
    first, second = (study_of(tmp_path / "outputs", name) for name in "ab")
    assert [(one.params, one.value) for one in first.trials] == [
        (one.params, one.value) for one in second.trials
    ]


class Killed(BaseException):
    """Stands for the end of a process."""


def test_a_cut_trial_is_run_again_and_no_finished_one_is_lost(tune, tmp_path, monkeypatch):
    tune(trials=6, study="whole")
    held_out = FrozenTrials.held_out
    calls = []

    def cut(self, config):
        calls.append(config)
        if len(calls) == 4:
            raise Killed
        return held_out(self, config)

    monkeypatch.setattr(FrozenTrials, "held_out", cut)
    with pytest.raises(Killed):
        tune(trials=6, study="cut")
    output = tmp_path / "outputs"
    before = study_of(output, "cut").trials
    assert [one.state.name for one in before] == ["COMPLETE"] * 3 + ["RUNNING"]
    tune(trials=6, study="cut")
    after = study_of(output, "cut").trials
    assert [one.value for one in after[:3]] == [one.value for one in before[:3]]
    assert after[3].state.name == "FAIL"
    assert after[4].params == before[3].params
    complete = [(one.params, one.value) for one in after if one.state.name == "COMPLETE"]
    assert complete == [(one.params, one.value) for one in study_of(output, "whole").trials]
