"""Trials of a study whose processes end at any place, without training."""

import contextlib
import unittest.mock

import optuna
import pytest
from optuna.study import Study
from optuna.trial import TrialState, create_trial

from foldblend.errors import UserError
from foldblend.locks import is_held
from pipeline.search.samplers import sampler_maker
from pipeline.search.space import Choices, Space
from pipeline.search.storage import StorageFailed, open_storage, require_optuna
from pipeline.search.trials import DEFAULT, Trials

SPACE = Space({"tta": Choices(("none", "hflip")), "epochs": Choices((1, 2))})
NUM_SETTINGS = 4


@pytest.fixture
def opened(tmp_path):
    """Return a function that opens the trials of a study, as a new process does."""
    require_optuna()

    def call(sampler="RandomSampler", name="journal.log", **parts):
        file = tmp_path / name
        defaults = {"tta": "none", "epochs": 1}
        given = {"record": {"metric": "accuracy", "folds": "3"}, "defaults": defaults}
        return Trials(
            tmp_path / "s",
            "s",
            open_storage(str(file), file),
            file,
            SPACE,
            maximize=True,
            sampler_of=sampler_maker(sampler, {}, SPACE),
            **given | parts,
        )

    return call


class Killed(BaseException):
    """Stands for the end of a process."""


def killed(*args, **more):
    raise Killed


def run(trials, num):
    """Run trials until some are finished, with scores that grow; return the claims."""
    claims = []
    while (claim := trials.claim(num)) is not None:
        with claim.lock:
            trials.finish(claim, len(claims) / 100)
        claims.append(claim)
    return claims


def test_the_settings_of_the_command_are_one_trial_wherever_its_process_ends(opened, monkeypatch):
    trials = opened()
    claim = trials.claim(9)
    monkeypatch.setattr(trials.study, "set_user_attr", killed)
    with contextlib.suppress(Killed), claim.lock:
        trials.finish(claim, 0.5)
    after = opened()
    assert after.default() == 0.5
    assert after.counts().finished == 1
    assert [one.name for one in after.results()] == [DEFAULT]
    assert after.claim(9).name == "trial_00001"


def test_a_study_whose_process_ends_while_it_is_made_goes_on(opened, monkeypatch):
    write = Study.set_user_attr

    def dies_after_one(self, key, value):
        write(self, key, value)
        raise Killed

    monkeypatch.setattr(Study, "set_user_attr", dies_after_one)
    with pytest.raises(Killed):
        opened()
    monkeypatch.undo()
    assert len(run(opened(), 2)) == 2
    with pytest.raises(UserError, match="the study s has different metric; pass another --study"):
        opened(record={"metric": "macro F1", "folds": "3"})


@pytest.fixture
def study_before(tmp_path):
    """Return a study as earlier versions made it."""
    storage = open_storage(None, tmp_path / "journal.log")
    return optuna.create_study(study_name="s", storage=storage, direction="maximize")


def test_a_part_of_the_record_of_an_earlier_version_is_no_study(opened, study_before):
    study_before.set_user_attr("metric", "accuracy")
    assert len(run(opened(), 2)) == 2


def test_a_study_of_an_earlier_version_goes_on(opened, study_before):
    study_before.set_user_attr("metric", "accuracy")
    study_before.set_user_attr("folds", "3")
    params = {"tta": "none", "epochs": 1}
    of = SPACE.distributions()
    for attrs in ({DEFAULT: True}, {}):
        study_before.add_trial(
            create_trial(params=params, distributions=of, value=0.25, user_attrs=attrs)
        )
    study_before.set_user_attr(DEFAULT, 0.25)
    trials = opened()
    assert [one.name for one in trials.results()] == [DEFAULT, "trial_00001"]
    assert [one.name for one in run(trials, 4)] == ["trial_00002", "trial_00003"]
    with pytest.raises(UserError, match="the study s has different folds; pass another --study"):
        opened(record={"metric": "accuracy", "folds": "4"})


ALL = ("GridSampler", "BruteForceSampler")


def settings_of(trials):
    """Return the different settings of the finished trials."""
    params = [one.params for one in trials.study.trials if one.state.name == "COMPLETE"]
    return {tuple(sorted(one.items())) for one in params}


@pytest.mark.parametrize("sampler", ALL)
@pytest.mark.parametrize("num", range(1, NUM_SETTINGS + 1))
def test_all_settings_are_run_once_wherever_a_process_ends(sampler, num, opened):
    trials = opened(sampler)
    run(trials, num)
    cut = trials.claim(9)
    if cut is not None:
        cut.lock.close()
    trials = opened(sampler)
    run(trials, 9)
    assert len(settings_of(trials)) == NUM_SETTINGS
    finished = trials.counts().finished
    # The grid does not know of the settings of the command.
    assert finished == NUM_SETTINGS + (sampler == "GridSampler")
    for again in (trials, opened(sampler)):
        assert again.is_exhausted
        assert again.claim(9) is None
        assert again.num_left(9) == 0
    other = opened("RandomSampler")
    assert other.num_left(9) == 9 - finished
    assert other.claim(9) is not None


@pytest.mark.parametrize("sampler", ALL)
def test_the_last_settings_are_run_though_no_further_ones_are_left(sampler, opened):
    trials = opened(sampler)
    run(trials, NUM_SETTINGS - 1)
    rest = []
    while (claim := trials.claim(9)) is not None:
        rest.append(claim)
    for one in rest[1:]:
        trials.finish(one, 0.5)
    assert opened(sampler).num_left(9) == 1
    rest[0].lock.close()
    assert opened(sampler).num_left(9) == 1
    assert len(run(opened(sampler), 9)) == 1
    assert len(settings_of(trials)) == NUM_SETTINGS


@pytest.mark.parametrize("sampler", [*ALL, "TPESampler"])
def test_a_trial_that_another_process_took_for_cut_off_is_not_recorded(sampler, opened):
    trials = opened(sampler)
    run(trials, 1)
    claim = trials.claim(9)
    trials.study.tell(claim.trial, state=TrialState.FAIL)
    trials.finish(claim, 0.5)
    assert [one.name for one in trials.results()] == [DEFAULT]
    assert not trials.is_exhausted


@pytest.mark.parametrize("sampler", ALL)
@pytest.mark.parametrize("proposed", range(3))
@pytest.mark.parametrize("file", ["journal.log", "study.db"])
def test_a_proposal_that_is_cut_off_leaves_out_no_settings(sampler, proposed, file, opened):
    trials = opened(sampler, file)
    run(trials, 2)
    trials.study.sampler = trials.sampler_of(1)
    trials.study.ask(dict([*SPACE.distributions().items()][:proposed]))
    run(opened(sampler, file), 9)
    assert len(settings_of(trials)) == NUM_SETTINGS


def test_the_score_of_some_folds_that_cannot_be_written_is_an_error_of_the_storage(opened):
    trials = opened()
    run(trials, 1)
    claim = trials.claim(2)
    assert trials.goes_on(claim, 0.5, step=1)
    claim.trial.report = unittest.mock.Mock(side_effect=KeyError("row"))
    with pytest.raises(StorageFailed, match=r"journal\.log: cannot be read"):
        trials.goes_on(claim, 0.5, step=2)


def test_the_first_process_decides_for_all(opened, monkeypatch):
    trials = opened()
    write = Study.set_user_attr
    held = []

    def watched(self, key, value):
        held.append(is_held(trials.folder / ".lock"))
        write(self, key, value)

    monkeypatch.setattr(Study, "set_user_attr", watched)
    names = ("a", "b")
    assert trials.decided("engine", "a", among=names) == "a"
    assert opened().decided("engine", "b", among=names) == "a"
    assert held == [True]
    assert opened().decided("engine", "c", among=("c",)) == "c"


def test_all_samplers_that_proposed_settings_are_named(opened):
    run(opened("RandomSampler"), 2)
    assert opened("TPESampler").samplers == "RandomSampler"
    run(opened("TPESampler"), 3)
    assert opened("RandomSampler").samplers == "RandomSampler, TPESampler"


def test_a_damaged_trial_is_named_with_its_file(opened, tmp_path):
    run(opened(), 3)
    file = tmp_path / "journal.log"
    # A choice is kept as its place among the values of the record of the trial.
    text = file.read_text()
    damaged = text.replace(r"{\"choices\": [1, 2]}", r"{\"choices\": [7, 8]}")
    assert damaged != text
    file.write_text(damaged)
    words = r"journal\.log: trial_0000\d of the study s is damaged .*--epochs [78].* --storage"
    with pytest.raises(StorageFailed, match=words):
        opened().best()
