"""Searches of settings: trials equal runs, go on after a kill, and say what choosing cost."""

import dataclasses

import numpy as np
import pytest

import foldblend as fb
from foldblend.cli import cli_flags
from foldblend.errors import UserError
from foldblend.scores.metrics import METRICS
from foldblend.scores.rows import Rows
from pipeline.config.run import RunConfig
from pipeline.search.config import SearchConfig, make_tune_config
from pipeline.search.frozen import FrozenTrials
from pipeline.search.held_out import HeldOut
from pipeline.search.pruner import PairedPruner
from pipeline.search.scoring import Scoring
from pipeline.search.setup import set_up
from pipeline.search.storage import StorageFailed
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
    assert best.report["search"] == search
    other = fb.cross_validate(best.settings, name="other", page=False, say=silent)
    both = fb.blend([best, other], method="soft", page=False, name="both", say=silent)
    assert any("of s_best were chosen from 5 trials" in one for one in both.info["notes"])
    assert not any("OPTIMISTIC" in one for one in both.info["notes"])


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


def test_the_same_search_again_changes_nothing_and_more_trials_may_change_the_best(tune, tmp_path):
    first = tune(trials=3)
    again = tune(trials=3)
    assert first.info == again.info
    more = tune(trials=8)
    study = study_of(tmp_path / "outputs")
    assert more.info["search"]["num_trials"] == 8
    assert more.report["headline"]["value"] == pytest.approx(study.best_value, abs=1e-12)
    # The run itself, repeated, keeps how it was chosen.
    kept = fb.cross_validate(more.settings, say=silent)
    assert kept.info["search"] == more.info["search"]
    assert kept.info["notes"] == more.info["notes"]


def test_a_trial_that_fails_is_a_line_and_the_search_goes_on(tune, tmp_path, monkeypatch):
    held_out = FrozenTrials.held_out
    num = [0]

    def fails(self, config):
        num[0] += 1
        if num[0] == 3:
            raise UserError("--head-l2: no such luck")
        return held_out(self, config)

    monkeypatch.setattr(FrozenTrials, "held_out", fails)
    lines = []
    best = tune(trials=5, say=lines.append)
    assert best.info["search"]["num_failed"] == 1
    assert any("trial_00002 failed: --head-l2: no such luck" in line for line in lines)
    trial = study_of(tmp_path / "outputs").trials[2]
    assert trial.state.name == "FAIL"
    assert trial.user_attrs["error"] == "--head-l2: no such luck"

    def all_fail(self, config):
        if config.train.head_l2 == "0.3" and config.infer.tta == "none":
            return held_out(self, config)
        raise RuntimeError("never")

    monkeypatch.setattr(FrozenTrials, "held_out", all_fail)
    with pytest.raises(UserError, match=r"all trials .* failed \(3\).*never.*more --trials"):
        tune(trials=4, study="none")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("a wrong\nshape"), "ValueError: a wrong shape"),
        (AssertionError(), "AssertionError"),
    ],
)
def test_any_error_of_a_trial_is_its_own_and_named_by_its_type(
    error, said, tune, tmp_path, monkeypatch
):
    held_out = FrozenTrials.held_out
    failing = {"0.3"}

    def fails(self, config):
        if config.train.head_l2 in failing:
            raise error
        return held_out(self, config)

    monkeypatch.setattr(FrozenTrials, "held_out", fails)
    (tmp_path / "space.yaml").write_text("head_l2: ['0.3', '1.5', '2.5']\n")
    settings = {"trials": 9, "optuna_sampler": "BruteForceSampler"}
    with pytest.raises(type(error)):
        tune(**settings)
    failing = {"1.5"}
    lines = []
    best = tune(**settings, say=lines.append)
    assert best.info["search"]["num_failed"] == 1
    assert any(f"failed: {said} (--head-l2 1.5)" in line for line in lines)


def test_a_storage_that_fails_is_no_fault_of_a_trial(tune, tmp_path, monkeypatch):
    def fails(self, config):
        raise StorageFailed("journal.log: cannot be read")

    tune(trials=2)
    with monkeypatch.context() as patch:
        patch.setattr(FrozenTrials, "held_out", fails)
        with pytest.raises(StorageFailed):
            tune(trials=3)
    assert tune(trials=3).info["search"]["num_failed"] == 0


def test_the_settings_of_the_command_may_lie_outside_of_the_space(tune, tmp_path):
    best = tune(trials=4, head_l2="auto")
    study = study_of(tmp_path / "outputs")
    assert len(study.trials) == 3
    assert best.info["search"]["num_trials"] == 4
    assert best.info["search"]["default"]["value"] == pytest.approx(study.user_attrs["default"])


def test_a_time_limit_ends_with_a_run(tune):
    lines = []
    tune(trials=2)
    best = tune(trials=50, time_limit="0.001s", say=lines.append)
    assert best.info["search"]["num_trials"] == 2
    assert any("2 of 50 trials are finished; the same command goes on" in one for one in lines)


def test_the_nested_score_is_of_settings_that_never_saw_the_fold(tune, tmp_path, monkeypatch):
    seen = []
    without = FrozenTrials.without_fold

    def watched(self, config, outer):
        found_NC = without(self, config, outer)
        run = next(iter(self.kept.values())).job.run
        assert np.isnan(found_NC[run.fold_RN[0] == outer]).all()
        assert np.isfinite(found_NC[run.fold_RN[0] != outer]).all()
        seen.append(outer)
        return found_NC

    monkeypatch.setattr(FrozenTrials, "without_fold", watched)
    best = tune(trials=3, nested=True)
    assert seen == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert best.info["search"]["nested"]["value"] is not None
    assert any("the nested score of the search is" in one for one in best.info["notes"])
    again = tune(trials=3, nested=True)
    assert len(seen) == 9
    assert again.info == best.info


def test_logits_of_an_inner_search_depend_on_no_label_of_the_outer_fold(tiny_layout, tmp_path):
    config = set_up_of(tmp_path, tiny_layout, head_l2="auto", feature_views=1).base
    trials = FrozenTrials(tmp_path)
    inner_NC = trials.without_fold(config, 0)
    of_outer_NC = trials.of_fold(config, 0)
    other_inner_NC = trials.without_fold(config, 1)
    (key, inputs), *_ = trials.kept.items()
    rows = inputs.rows
    is_outer_N = inputs.job.run.fold_RN[0][rows.place_N] == 0
    label_N = np.where(is_outer_N, rows.label_N.max() - rows.label_N, rows.label_N)
    changed = dataclasses.replace(rows, label_N=label_N)
    trials.kept[key] = dataclasses.replace(inputs, rows=changed)
    np.testing.assert_array_equal(trials.without_fold(config, 0), inner_NC)
    np.testing.assert_array_equal(trials.of_fold(config, 0), of_outer_NC)
    # They are used elsewhere.
    assert not np.array_equal(trials.without_fold(config, 1), other_inner_NC, equal_nan=True)


def test_a_grid_with_fewer_settings_than_trials_has_a_nested_score(tune, tmp_path):
    (tmp_path / "space.yaml").write_text("tta: [none, hflip]\n")
    best = tune(trials=9, nested=True, optuna_sampler="GridSampler")
    assert best.info["search"]["nested"]["value"] is not None


@pytest.mark.slow
def test_trials_that_train_are_run_folders_which_the_best_run_takes_over(tune, tmp_path):
    (tmp_path / "space.yaml").write_text("lr: {low: 1e-4, high: 0.1, log: true}\n")
    settings = {"finetune": "full", "epochs": 1, "head_l2": "auto", "lr": 0.01}
    lines = []
    best = tune(trials=4, say=lines.append, **settings)
    assert any("finished before, so nothing was trained" in one for one in lines)
    own = best.settings | {"name": "alone", "output": str(tmp_path / "alone"), "page": False}
    alone = fb.cross_validate(own, say=silent)
    np.testing.assert_array_equal(best.logits(best.oof), alone.logits(alone.oof))


class Trial:
    """Stands for a trial of Optuna."""

    number = 1


def test_the_pruner_stops_what_is_clearly_worse_on_the_folds_that_both_have(tmp_path):
    num = 60
    rows = Rows.of(np.arange(num) % 2, np.arange(num), fold_N=np.arange(num) % 3)
    held_out = HeldOut(tmp_path, num_rows=num, num_classes=2)
    best = ["trial_00000"]
    pruner = PairedPruner(Scoring(METRICS["accuracy"], rows, 2), held_out, lambda: best[0])
    right_NC = 4 * np.eye(2, dtype=np.float32)[rows.label_N]
    wrong_NC = right_NC[:, ::-1].copy()
    held_out.write("trial_00000", right_NC)
    so_far_NC = np.where((rows.fold_N == 0)[:, None], wrong_NC, np.nan).astype(np.float32)
    assert not pruner.prune(None, Trial())
    held_out.write("trial_00001", so_far_NC)
    assert pruner.prune(None, Trial())
    # A single wrong group is within the error.
    near_NC = np.where((rows.fold_N == 0)[:, None], right_NC, np.nan).astype(np.float32)
    near_NC[0] = wrong_NC[0]
    held_out.write("trial_00001", near_NC)
    assert not pruner.prune(None, Trial())
    best[0] = None
    assert not pruner.prune(None, Trial())


def test_a_proposal_that_was_cut_off_is_made_again(tune, tmp_path):
    tune(trials=6, study="whole")
    tune(trials=3, study="cut")
    output = tmp_path / "outputs"
    study = study_of(output, "cut")
    study.ask().suggest_categorical("tta", ["none", "hflip"])
    best = tune(trials=6, study="cut")
    trials = study_of(output, "cut").trials
    assert trials[3].state.name == "FAIL"
    complete = [(one.params, one.value) for one in trials if one.state.name == "COMPLETE"]
    assert complete == [(one.params, one.value) for one in study_of(output, "whole").trials]
    assert best.info["search"]["num_failed"] == 0
