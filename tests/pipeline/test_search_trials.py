"""Trials of a study whose processes end at any place, without training."""

import contextlib

import pytest

from pipeline.search.samplers import sampler_maker
from pipeline.search.space import Choices, Space
from pipeline.search.storage import open_storage, require_optuna
from pipeline.search.trials import DEFAULT, Trials

SPACE = Space({"tta": Choices(("none", "hflip")), "epochs": Choices((1, 2))})
NUM_SETTINGS = 4


@pytest.fixture
def opened(tmp_path):
    """Return a function that opens the trials of a study, as a new process does."""
    require_optuna()

    def call(sampler="RandomSampler", **parts):
        file = tmp_path / "journal.log"
        defaults = {"tta": "none", "epochs": 1}
        given = {"record": {"metric": "accuracy", "folds": "3"}, "defaults": defaults}
        return Trials(
            tmp_path / "s",
            "s",
            open_storage(None, file),
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
