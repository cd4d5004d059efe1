"""Searches by several processes, of which some are killed."""

import os
import signal
import subprocess
import sys
import time

import pytest

from pipeline.search.held_out import HeldOut
from pipeline.search.trials import DEFAULT, name_of
from tests.makers.constants import ROOT
from tests.makers.searches import SMALL, SPACE, study_of, tuner

pytestmark = pytest.mark.slow


def start(data, folder, trials, *flags):
    """Start tune.py in a process of its own."""
    settings = {name: value for name, value in SMALL.items() if name != "page"}
    given = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    given += [
        f"--data={data}",
        f"--space={folder / 'space.yaml'}",
        f"--output={folder / 'outputs'}",
    ]
    return subprocess.Popen(
        [sys.executable, "tune.py", *given, "--study=s", f"--trials={trials}", "--no-page", *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def complete(folder):
    """Return the finished trials of a study, by number."""
    if not (folder / "outputs" / "s" / "journal.log").is_file():
        return {}
    try:
        trials = study_of(folder / "outputs").trials
    except KeyError:
        return {}
    return {one.number: one for one in trials if one.state.name == "COMPLETE"}


def wait_for(folder, num):
    """Wait until a study has some finished trials."""
    end = time.monotonic() + 120
    while len(complete(folder)) < num:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_killed_search_loses_no_finished_trial_and_equals_an_unbroken_one(tiny_layout, tmp_path):
    tuner(tiny_layout, tmp_path)(trials=20, study="whole")
    for num in (3, 9):
        process = start(tiny_layout, tmp_path, 20)
        wait_for(tmp_path, num)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        before = complete(tmp_path)
    last = start(tiny_layout, tmp_path, 20)
    out, _ = last.communicate()
    assert last.returncode == 0, out
    after = complete(tmp_path)
    assert {number: one.value for number, one in before.items()}.items() <= {
        number: one.value for number, one in after.items()
    }.items()
    whole = [(one.params, one.value) for one in study_of(tmp_path / "outputs", "whole").trials]
    assert [(one.params, one.value) for one in after.values()] == whole
    assert (tmp_path / "outputs" / "s_best" / "report.json").is_file()


def test_several_processes_share_the_trials(tiny_layout, tmp_path):
    (tmp_path / "space.yaml").write_text(SPACE)
    processes = [start(tiny_layout, tmp_path, 24) for _ in range(3)]
    wait_for(tmp_path, 4)
    os.kill(processes[0].pid, signal.SIGKILL)
    outs = [one.communicate()[0] for one in processes]
    assert [one.returncode for one in processes[1:]] == [0, 0], outs
    trials = study_of(tmp_path / "outputs").trials
    found = complete(tmp_path)
    assert len(found) == 24
    # A trial that is killed while its settings are proposed lacks some of them.
    failed = [one for one in trials if one.state.name == "FAIL"]
    cut = [one.number for one in failed if len(one.params) == 2]
    again = [one.user_attrs["again"] for one in trials if "again" in one.user_attrs]
    assert sorted(cut) == sorted(again)
    assert all(one.state.name in ("COMPLETE", "FAIL") for one in trials)
    kept = HeldOut(tmp_path / "outputs" / "s" / "held_out", num_rows=84, num_classes=18)
    names = [
        DEFAULT if DEFAULT in one.user_attrs else name_of(one.number) for one in found.values()
    ]
    assert all(kept.read(name) is not None for name in names)
    assert any("macro F1" in out and "chosen from 24 trials" in out for out in outs)


def test_a_database_serves_as_well(tiny_layout, tmp_path):
    (tmp_path / "space.yaml").write_text(SPACE)
    flag = f"--storage={tmp_path / 'study.db'}"
    processes = [start(tiny_layout, tmp_path, 10, flag) for _ in range(2)]
    outs = [one.communicate()[0] for one in processes]
    assert [one.returncode for one in processes] == [0, 0], outs
    assert not (tmp_path / "outputs" / "s" / "journal.log").exists()
    best = tuner(tiny_layout, tmp_path)(trials=12, storage=str(tmp_path / "study.db"))
    assert best.info["search"]["num_trials"] == 12
