"""The end of a search: its best trial becomes a run, also after a kill."""

import contextlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import foldblend as fb
from foldblend.errors import UserError
from foldblend.locks import hold
from foldblend.runs.folder import lock_fold
from pipeline.job import Chosen
from pipeline.search import run as search_run
from pipeline.search.frozen import FrozenTrials
from pipeline.search.trials import Result
from pipeline.search.winner import check_place, is_of_other_trial, take_over
from tests.makers.searches import silent, tuner

BEST = Result("trial_00001", {"lr": 0.01}, 0.5)


@pytest.fixture
def tune(tiny_layout, tmp_path):
    return tuner(tiny_layout, tmp_path)


class Killed(BaseException):
    """Stands for the end of a process."""


def chosen(best):
    """Return the record of a search whose best trial is given."""
    counts = {"num_trials": 2, "num_configurations": 2}
    record = {"study": "s", "trial": best.name, "settings": dict(best.settings), **counts}
    return Chosen(record=record, section={})


def files_of(folder):
    """Return the names of the files in a folder; locks and temporary files do not count."""
    names = {str(one.relative_to(folder)) for one in folder.rglob("*") if one.is_file()}
    return {name for name in names if not name.startswith(".")}


@pytest.mark.parametrize("num_moves", [0, 1])
@pytest.mark.parametrize("before", [None, "default"])
def test_a_kill_while_the_best_run_is_copied_blocks_nothing(
    before, num_moves, tiny_runs, tmp_path, monkeypatch
):
    place = tmp_path / "s_best"
    if before is not None:
        shutil.copytree(tiny_runs / "beta", place)
        info = json.loads((place / "run.json").read_text())
        search = chosen(Result(before, {}, 0.4)).record
        (place / "run.json").write_text(json.dumps({**info, "search": search}))
    moves = []
    replace = os.replace

    def cut(old, new):
        if Path(old) == place or Path(new) == place:
            moves.append(new)
            if len(moves) > num_moves:
                raise Killed
        replace(old, new)

    monkeypatch.setattr("os.replace", cut)
    with pytest.raises(Killed):
        take_over(tiny_runs / "alpha", place, BEST, chosen(BEST))
    monkeypatch.undo()
    check_place(place, "s")
    # Until the new run is whole, the old one stays.
    assert (place / "run.json").exists() == (before is not None and num_moves == 0)
    take_over(tiny_runs / "alpha", place, BEST, chosen(BEST))
    check_place(place, "s")
    assert not is_of_other_trial(place, BEST)
    assert files_of(place) == files_of(tiny_runs / "alpha")
    assert fb.load(place).info["search"] == chosen(BEST).record
    assert [one.name for one in tmp_path.iterdir()] == ["s_best"]


def test_a_run_whose_fold_is_trained_is_not_replaced(tiny_runs, tmp_path):
    place = tmp_path / "s_best"
    take_over(tiny_runs / "beta", place, BEST, chosen(BEST))
    other = Result("trial_00002", {}, 0.6)
    with lock_fold(place, 1), pytest.raises(UserError, match="trains a fold"):
        take_over(tiny_runs / "alpha", place, other, chosen(other))
    assert not is_of_other_trial(place, BEST)


@pytest.mark.slow
def test_a_new_best_trial_that_trained_is_taken_over_also_after_a_kill(tune, tmp_path, monkeypatch):
    (tmp_path / "space.yaml").write_text("lr: [1e-6, 0.01]\n")
    settings = {"finetune": "full", "epochs": 1, "head_l2": "auto", "lr": 1e-6}
    first = tune(trials=1, **settings)
    assert first.info["search"]["trial"] == "default"

    def killed(*args, **kwargs):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(search_run, "cross_validate_chosen", killed)
        with pytest.raises(Killed):
            tune(trials=4, **settings)
    lines = []
    best = tune(trials=4, say=lines.append, **settings)
    assert best.info["search"]["settings"] == {"lr": 0.01}
    assert any("finished before, so nothing was trained" in one for one in lines)
    alone = fb.cross_validate(best.settings, name="alone", page=False, say=silent)
    np.testing.assert_array_equal(best.logits(best.oof), alone.logits(alone.oof))


def test_two_storages_of_one_study_keep_their_predictions_apart(tune, tmp_path):
    first = tune(trials=4).info
    held_out = tmp_path / "outputs" / "s" / "held_out"
    kept = {file: file.read_bytes() for file in held_out.iterdir()}
    other = tune(trials=4, storage=tmp_path / "x.db", optuna_options="seed=1").info
    assert other["search"]["settings"] != first["search"]["settings"]
    assert kept == {file: file.read_bytes() for file in held_out.iterdir()}
    assert tune(trials=4).info["search"] == first["search"]


def test_predictions_of_another_trial_are_made_again(tune, tmp_path):
    best = tune(trials=4)
    held_out = tmp_path / "outputs" / "s" / "held_out"
    file = held_out / f"{best.info['search']['trial']}.safetensors"
    right = file.read_bytes()
    file.write_bytes((held_out / "default.safetensors").read_bytes())
    assert file.read_bytes() != right
    assert tune(trials=4).info == best.info
    assert file.read_bytes() == right


def test_the_best_run_is_there_before_the_nested_score(tune, tmp_path, monkeypatch):
    def killed(*args):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(FrozenTrials, "without_fold", killed)
        with pytest.raises(Killed):
            tune(trials=3, nested=True)
    before = fb.load(tmp_path / "outputs" / "s_best").info
    assert before["status"] == "done"
    after = tune(trials=3, nested=True).info
    assert after["search"].pop("nested")["value"] is not None
    assert after["search"] == before["search"]
    assert after["finished"] == before["finished"]


def test_a_process_that_waits_for_the_end_of_another_sees_all_trials(tune, tmp_path):
    first = tune(trials=2)
    assert first.info["search"]["num_trials"] == 2
    with contextlib.ExitStack() as other:
        other.enter_context(hold(tmp_path / "outputs" / "s" / ".lock-end"))
        lines = []

        def say(line):
            lines.append(line)
            if "waiting for another process" in line:
                other.close()

        assert tune(trials=4, say=say).info["search"]["num_trials"] == 4
    assert any("waiting for another process" in one for one in lines)
