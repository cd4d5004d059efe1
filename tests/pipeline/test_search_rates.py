"""Studies of trials that train go on though flags or the table of --lr auto have changed."""

import optuna
import pytest

from foldblend.errors import UserError
from pipeline import rates_of_run
from pipeline.search.config import make_tune_config
from pipeline.search.record import AUTO_DECIDED, open_study
from pipeline.search.setup import set_up
from pipeline.search.tuned import TunedTrials
from tests.makers.searches import SMALL, silent


@pytest.fixture
def searched(tiny_layout, tmp_path):
    """Return a function of settings that returns the checked inputs of a search."""
    space = tmp_path / "space.yaml"
    space.write_text("smoothing: [0, 0.1]\n")
    given = SMALL | {"finetune": "full", "epochs": 1, "head_l2": "auto", "study": "s"}

    def call(**settings):
        place = {"data": str(tiny_layout), "output": tmp_path, "space": space}
        return set_up(*make_tune_config(None, {**given, **place, **settings}), silent)

    return call


@pytest.fixture
def recorded():
    """Return a function of a search's record that opens the study and returns its record."""
    storage = optuna.storages.InMemoryStorage()

    def call(record):
        parts = {"storage": storage, "sampler": None, "pruner": None}
        study, found = open_study("s", record, maximize=True, what="the study s", **parts)
        study.add_trial(optuna.create_trial(value=0.5))
        return found

    return call


def test_a_study_goes_on_with_the_rates_that_auto_decided(searched, recorded, monkeypatch):
    first = searched()
    recorded(first.record())
    monkeypatch.setattr(rates_of_run, "rate_of", lambda *args, **more: 0.1)
    later = searched()
    lr = first.run.config.train.lr
    assert later.run.config.train.lr == 0.1 != lr
    going_on = later.going_on(recorded(later.record()))
    assert going_on.config({"smoothing": 0.1}, engine="torch").train.lr == lr
    # A trial that was cut off finds its folds.
    places = {
        TunedTrials(one.folder, one.run, silent, kept=one.rates).place(
            one.config({"smoothing": 0.1}, engine="torch")
        )
        for one in (first, going_on)
    }
    assert len(places) == 1
    recorded(searched(lr=lr).record())
    with pytest.raises(UserError, match=r"different fixed settings \(lr .* -> 0.1\)"):
        recorded(searched(lr=0.1).record())


def test_a_study_of_an_earlier_version_has_its_rates_as_fixed_settings(searched, recorded):
    record = searched().record()
    before = {key: value for key, value in record.items() if key != AUTO_DECIDED}
    assert before["fixed settings"]["lr"] == record[AUTO_DECIDED]["lr"]
    recorded(before)
    search = searched()
    assert search.going_on(recorded(search.record())).rates == {}


def test_flags_that_leave_the_logits_as_they_are_leave_a_trial_its_folder(searched):
    def place(**settings):
        search = searched(**settings)
        tuned = TunedTrials(search.folder / "trials", search.run, silent)
        return tuned.place(search.config({"smoothing": 0.1}, engine="torch"))

    assert place() == place(workers=1, cache="off", parallel_folds="1")
    assert place() != place(epochs=2)
