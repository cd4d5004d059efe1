"""Several processes on one run: each fold has its lock, and the last one writes the results."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest

import pipeline.make_run as making
from foldblend.errors import UserError
from foldblend.runs.folder import clear_folder, is_empty, lock_fold, lock_folder
from foldblend.runs.run import Run
from pipeline.cv import cross_validate
from pipeline.fold_claims import claim_folds, folds_in_training
from pipeline.training.fit import Fit
from tests.makers.constants import TINY

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {
    "backbone": "test_efficientnet",
    "folds": 3,
    "epochs": 1,
    "img_size": 32,
    "batch_size": 8,
    "pretrained": "none",
    "workers": 0,
    "threads": 1,
    "page": False,
    "log_pictures": False,
    "name": "a",
}


def run(layout, output, said=None, **changes):
    say = (lambda _: None) if said is None else said.append
    return cross_validate(say=say, **SETTINGS | {"data": layout, "output": output} | changes)


def same(one, other):
    pd.testing.assert_frame_equal(one.oof, other.oof, check_exact=True)
    pd.testing.assert_frame_equal(one.test, other.test, check_exact=True)


def test_free_folds_are_claimed_and_locked_ones_are_named(tmp_path):
    with lock_fold(tmp_path, 1), contextlib.ExitStack() as stack:
        claim = claim_folds(stack, tmp_path, [0, 1, 2], chosen=False)
        assert (claim.mine, claim.others) == ((0, 2), (1,))
        assert folds_in_training(tmp_path, [0, 1, 2, 3]) == [0, 1, 2]
        with pytest.raises(UserError, match="another process is training fold 1"):
            claim_folds(stack, tmp_path, [3, 1], chosen=True)
        with pytest.raises(UserError, match="training folds 0, 1, and no other fold is left"):
            claim_folds(stack, tmp_path, [0, 1], chosen=False)
    assert folds_in_training(tmp_path, [0, 1, 2, 3]) == []
    assert is_empty(tmp_path)


def test_a_folder_is_not_cleared_while_a_fold_is_trained(tmp_path):
    (tmp_path / "file").touch()
    with lock_fold(tmp_path, 1), pytest.raises(UserError, match="is training fold 1; wait for it"):
        clear_folder(tmp_path)
    assert (tmp_path / "file").exists()
    clear_folder(tmp_path)
    assert is_empty(tmp_path)


def test_a_second_command_trains_what_is_free_and_the_last_one_completes(
    tiny_layout, tmp_path, monkeypatch
):
    """While fold 0 is in training, a second command does the others and leaves the results."""
    whole = run(tiny_layout, tmp_path / "whole")
    first = []
    second = []
    train = making.run_folds

    def train_and_share(job, todo, **more):
        if len(first) and not second:
            second.append("started")
            shared = run(tiny_layout, tmp_path / "shared", second)
            assert not (shared.path / "oof.parquet").exists()
            with pytest.raises(UserError, match="another process is training fold 0"):
                run(tiny_layout, tmp_path / "shared", only_folds="0")
            with pytest.raises(UserError, match="training folds 0, and no other fold is left"):
                run(tiny_layout, tmp_path / "shared")
            with pytest.raises(UserError, match="is training fold 0; wait for it"):
                run(tiny_layout, tmp_path / "shared", resume=False)
        return train(job, todo, **more)

    monkeypatch.setattr(making, "run_folds", train_and_share)
    shared = run(tiny_layout, tmp_path / "shared", first, only_folds="0")
    assert any("another process is training folds 0" in line for line in second)
    assert not list(shared.path.glob(".lock-*"))
    assert any("folds 0 are in training by other processes" in line for line in second)
    assert shared.info["status"] == "done"
    same(shared, whole)


def test_a_command_waits_for_one_that_writes_the_folder(tiny_layout, tmp_path):
    done = run(tiny_layout, tmp_path, folds=2)
    before = done.oof
    said = []
    is_held = threading.Event()
    may_end = threading.Event()

    def hold_for_a_while():
        with lock_folder(done.path):
            is_held.set()
            may_end.wait()

    threading.Thread(target=hold_for_a_while).start()
    is_held.wait()

    def say(line):
        said.append(line)
        if "waiting for another process" in line:
            may_end.set()

    settings = SETTINGS | {"data": tiny_layout, "output": tmp_path, "folds": 2}
    again = cross_validate(say=say, **settings)
    assert sum("waiting for another process" in line for line in said) == 1
    pd.testing.assert_frame_equal(again.oof, before, check_exact=True)


def test_a_folder_that_is_removed_while_it_is_used_is_an_error_and_starts_afresh(
    tiny_layout, tmp_path, monkeypatch
):
    step = Fit._train_step

    def remove_and_step(*args):
        shutil.rmtree(tmp_path / "a", ignore_errors=True)
        step(*args)

    with monkeypatch.context() as patch:
        patch.setattr(Fit, "_train_step", remove_and_step)
        with pytest.raises(UserError, match="a: was removed or renamed while it was in use"):
            run(tiny_layout, tmp_path, folds=2, epochs=2)
    assert not (tmp_path / "a" / "fold_0").exists()
    assert run(tiny_layout, tmp_path, folds=2).info["status"] == "done"


def command(layout, output, *flags):
    # TINY has two folds; the last value of a flag counts.
    argv = [*TINY, "--data", layout, "--output", output, "--name", "a", "--folds", "5", *flags]
    return [sys.executable, ROOT / "run_cv.py", *map(str, argv), "--backbone", "test_efficientnet"]


@pytest.mark.slow
@pytest.mark.parametrize("finetune", ["full", "head"])
def test_five_processes_have_the_logits_of_one(finetune, tiny_layout, tmp_path):
    """Five commands at once, one fold each; one of them is killed and started again."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    flags = ("--finetune", finetune, "--epochs", "3" if finetune == "full" else "1")
    subprocess.run(command(tiny_layout, tmp_path / "one", *flags), check=True, **quiet)
    each = [
        command(tiny_layout, tmp_path / "five", *flags, "--only-folds", fold) for fold in range(5)
    ]
    running = [subprocess.Popen(one, **quiet) for one in each]
    killed = tmp_path / "five" / "a" / "fold_4"
    while not killed.exists() and running[4].poll() is None:
        time.sleep(0.01)
    os.kill(running[4].pid, signal.SIGKILL)
    running[4].wait()
    running[4] = subprocess.Popen(each[4], **quiet)
    assert [one.wait() for one in running] == [0] * 5
    same(Run(tmp_path / "five" / "a"), Run(tmp_path / "one" / "a"))
    assert Run(tmp_path / "five" / "a").info["status"] == "done"
