"""A run seen from outside while it trains, after it was killed, and after it went on."""

import shlex

import pytest

import run_cv
from foldblend.runs.run import Run
from foldblend.scores.metrics import METRICS, softmax
from pipeline.cv import cross_validate
from pipeline.training.fit import Fit
from reports.board.running import running_row
from reports.board.running_page import running_page
from reports.board.running_words import now_words
from reports.board.watch import Memory, watch_once
from tests.pipeline.test_resume import Killed, config_of

NOW = 4_000_000_000.0


@pytest.mark.slow
def test_a_run_is_seen_running_then_stopped_then_finished(
    tiny_layout, tmp_path, monkeypatch, capsys
):
    outputs = tmp_path / "outputs"
    folder = outputs / "a"
    config = config_of(tiny_layout, outputs, folds=3, epochs=2)
    memory = Memory()
    looks = []
    rows = []
    step = Fit._train_step

    def look():
        before = looks[-1] if looks else None
        looks.append(watch_once([outputs], before, now=NOW, memory=memory))
        return looks[-1].changes

    def observed(self, *args):
        step(self, *args)
        begun = (folder / "fold_1" / "log.csv").exists()
        if not rows:
            rows.append(running_row(folder, now=NOW))
            assert look() == (f"{folder}: new, running, 0 of 3 folds done",)
        elif begun:
            rows.append(running_row(folder, now=NOW))
            assert look() == (f"{folder}: 1 of 3 folds done",)
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Fit, "_train_step", observed)
        with pytest.raises(Killed):
            cross_validate(config, say=lambda _: None)
    first, later = rows
    assert (first["state"], first["folds_done"], first["score"]) == ("running", 0, None)
    assert now_words(first) == "fold 0: epoch 1 of 2"
    assert (later["state"], later["folds_done"]) == ("running", 1)
    assert now_words(later) == "fold 1: epoch 2 of 2"
    assert later["seconds_left"] is not None
    assert [len(one["epoch"]) for one in later["curves"]] == [2, 1]
    # The clock of the test is far ahead, so the fold in training counts as overdue.
    done = later["folds"][0]["seconds"]
    assert later["seconds_left"] == pytest.approx(done)

    assert look() == (f"{folder}: stopped",)
    stopped = running_row(folder, now=NOW)
    assert stopped["score"] == later["score"]
    assert stopped["problems"] == []
    assert "<svg" in running_page(stopped, back="leaderboard.html")

    # The command that it shows goes on with the run, from any place.
    monkeypatch.chdir(tmp_path)
    _, script, *argv = shlex.split(stopped["resume"])
    assert script == "run_cv.py"
    assert run_cv.main(argv) == 0
    assert "fold 0: finished before, kept" in capsys.readouterr().out
    assert look() == (f"{folder}: finished",)
    run = Run(folder)
    rows = run.oof[run.oof["fold"] == 0]
    expected = METRICS["f1_macro"].score(rows["label"].to_numpy(), softmax(run.logits(rows)))
    assert stopped["score"]["value"] == pytest.approx(expected, abs=1e-12)
