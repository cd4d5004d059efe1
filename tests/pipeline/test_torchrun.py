"""Folds that torchrun trains by several processes: rows, kills, errors and the record."""

import os
import shutil
import signal
import time

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import yaml

from foldblend.runs.folder import read_json
from foldblend.runs.run import Run
from foldblend.runs.tables import check_rows_once
from pipeline.config.settings import make_config
from pipeline.infer import predict
from pipeline.job import job_of
from pipeline.prepare import prepare
from pipeline.training.checkpoint import CHECKPOINT, Checkpoints
from tests.makers.constants import ROOT, TINY
from tests.makers.torchruns import children_of, kill_all, start_torchrun, torchrun
from tta.views.names import view_of

pytestmark = pytest.mark.slow

# Whatever a process might keep to itself: dropout, batch norm and its average, images of others.
HARD = ["--backbone", "test_efficientnet", "--drop", "0.3", "--model-ema", "--cutmix", "1"]
HARD += ["--reprob", "0.2", "--batch-size", "12", "--grad-accum-steps", "2"]
HARD += ["--validation-batch-size", "8", "--infer-engine", "torch"]
MANY = ["--only-folds", "0", "--epochs", "30", "--save-every", "0"]
WAIT_S = 180


def argv_of(layout, output, name, *more):
    where = ["--data", layout, "--output", output, "--name", name]
    return [ROOT / "run_cv.py", *where, *TINY, *HARD, *more]


def files_of(run):
    return read_json(run / "fold_0" / "done.json")["files"]


def key_of(run):
    return read_json(run / "fold_0" / "done.json")["run_key"]


def ours(text):
    """Return the lines that are not torchrun's own account of a process that failed."""
    lines = text.splitlines()
    known = [line for line in lines if line.startswith(("error: ", "stopped"))]
    assert not any(f"{ROOT}/pipeline" in line for line in lines), text
    return known


def wait_for(condition):
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_running(number):
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


def by_one_process(folder, index):
    """Return the held-out rows of a fold and their logits, from its weights by one process."""
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    run = prepare(make_config(settings), lambda _: None, is_made=True)
    job = job_of(run, folder, say=lambda _: None)
    model = job.new_model()
    model.load_state_dict(safetensors.torch.load_file(folder / f"fold_{index}/best.safetensors"))
    held = run.manifest.train[run.is_held_out(index)].reset_index(drop=True)
    rows = job.feeder.rows(held)
    views = [view_of(name) for name in run.views]
    return held, predict(model, rows, run.preprocess, job.compute, views, pad_to=8)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_rows_are_predicted_once_with_the_bits_of_one_process(size, tiny_layout, tmp_path):
    ran = torchrun(size, *argv_of(tiny_layout, tmp_path, "a", "--tta", "hflip"))
    assert ran.returncode == 0, ran.stderr
    run = Run(tmp_path / "a")
    check_rows_once(run.oof["image_id"], pd.read_csv(run.path / "folds.csv")["image_id"], "oof")
    for index in range(2):
        assert run.info["folds"][index].get("processes", 1) == size
        held, logits_VNC = by_one_process(run.path, index)
        kept = pd.read_parquet(run.path / f"tta/oof_fold_{index}.parquet")
        for view, logits_NC in zip(run.info["views"], logits_VNC, strict=True):
            rows = kept[kept["view"] == view].set_index("image_id").loc[held["image_id"]]
            assert np.array_equal(rows.filter(like="logit_").to_numpy(), logits_NC)


def kill_within(size, folder, argv):
    """Start a fold by several processes, and kill them when some of its epochs are logged."""
    started = start_torchrun(size, *argv)
    checkpoint = folder / "fold_0" / CHECKPOINT
    log = checkpoint.with_name("log.csv")
    wait_for(lambda: log.exists() and checkpoint.exists() and len(pd.read_csv(log)) >= 3)
    children = kill_all(started)
    assert len(children) == size
    wait_for(lambda: not any(map(is_running, children)))
    assert not (folder / "fold_0" / "done.json").exists()


def test_a_fold_of_three_processes_continues_with_equal_bits(tiny_layout, tmp_path):
    # With three, the order of a sum matters too.
    whole = torchrun(3, *argv_of(tiny_layout, tmp_path, "whole", *MANY, "--epochs", "8"))
    assert whole.returncode == 0, whole.stderr
    argv = argv_of(tiny_layout, tmp_path, "killed", *MANY, "--epochs", "8")
    kill_within(3, tmp_path / "killed", argv)
    again = torchrun(3, *argv)
    assert again.returncode == 0, again.stderr
    assert "continued at epoch" in again.stdout
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")


def test_a_killed_fold_continues_with_equal_bits(tiny_layout, tmp_path, cv_command):
    whole = torchrun(2, *argv_of(tiny_layout, tmp_path, "whole", *MANY))
    assert whole.returncode == 0, whole.stderr
    argv = argv_of(tiny_layout, tmp_path, "killed", *MANY)
    kill_within(2, tmp_path / "killed", argv)
    for name in ("other", "damaged"):
        shutil.copytree(tmp_path / "killed", tmp_path / name)
    again = torchrun(2, *argv)
    assert again.returncode == 0, again.stderr
    assert "continued at epoch" in again.stdout
    assert "processes trained it so far" not in again.stdout
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")
    # All processes start again from a state that the first one finds to be of no use.
    kept = Checkpoints(tmp_path / "damaged" / "fold_0", key_of(tmp_path / "killed"), 0.0)
    state = kept.load()
    state["fit"]["place"][0] = -1
    kept.save(state)
    anew = torchrun(2, *argv_of(tiny_layout, tmp_path, "damaged", *MANY))
    assert anew.returncode == 0, anew.stderr
    assert "is removed (another place in the data), so the fold starts" in anew.stdout
    assert files_of(tmp_path / "damaged") == files_of(tmp_path / "whole")
    # Another number of processes continues too, and says that the bits differ.
    other = argv_of(tiny_layout, tmp_path, "other", *MANY)
    alone = cv_command(*other[1:])
    assert alone.code == 0, alone.err
    assert "2 processes trained it so far, and now 1" in alone.out
    assert files_of(tmp_path / "other") != files_of(tmp_path / "whole")


def test_processes_end_with_torchrun_and_ctrl_c_keeps_the_checkpoint(tiny_layout, tmp_path):
    for name, number in (("killed", signal.SIGKILL), ("stopped", signal.SIGINT)):
        argv = argv_of(tiny_layout, tmp_path, name, *MANY, "--workers", "1")
        started = start_torchrun(2, *argv)
        checkpoint = tmp_path / name / "fold_0" / CHECKPOINT
        wait_for(checkpoint.exists)
        children = children_of(started.pid)
        assert len(children) == 2
        children += [worker for child in children for worker in children_of(child)]
        assert len(children) >= 4
        # Torchrun alone, as its terminal or a scheduler would do.
        os.kill(started.pid, number)
        _, err = started.communicate(timeout=WAIT_S)
        wait_for(lambda numbers=children: not any(map(is_running, numbers)))
        assert checkpoint.exists()
        if number == signal.SIGINT:
            assert ours(err) == ["stopped; the same command continues where it stopped"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--batch-size", "15"], ["--batch-size 15", "--nproc-per-node 2"]),
        (["--lr", "1e30", "--no-amp"], ["not finite", "--clip-grad"]),
        (["--batchsize", "8"], ["--batchsize", "no such flag"]),
    ],
)
def test_errors_are_one_line(flags, words, tiny_layout, tmp_path):
    ran = torchrun(2, *argv_of(tiny_layout, tmp_path, "a", *flags))
    assert ran.returncode != 0
    (line,) = ours(ran.stderr)
    for word in words:
        assert word in line
    assert "exitcode  : 2" in ran.stderr
    if "--lr" not in flags:
        assert not (tmp_path / "a").exists()


def test_an_image_that_one_rank_misses_is_told_in_one_line(layout_copy, tmp_path):
    argv = argv_of(layout_copy, tmp_path, "a", *MANY, "--cache", "off")
    started = start_torchrun(2, *argv)
    wait_for((tmp_path / "a" / "fold_0" / CHECKPOINT).exists)
    folds = pd.read_csv(tmp_path / "a" / "folds.csv")
    # Held-out images are predicted in batches of 8, the second of which only rank 1 reads.
    name = folds.loc[folds["fold"] == 0, "image_id"].iloc[8]
    file = layout_copy / "train" / "images" / name
    file.unlink()
    _, err = started.communicate(timeout=WAIT_S)
    assert started.returncode != 0
    (line,) = ours(err)
    assert f"{file}: No such file" in line
    assert "rank 1 of 2" in line
    assert "waitForInput" not in err


def test_chosen_epochs_and_refits(tiny_layout, tmp_path):
    more = ["--epochs", "3", "--select", "inner", "--refit", "full"]
    ran = torchrun(2, *argv_of(tiny_layout, tmp_path, "a", *more))
    assert ran.returncode == 0, ran.stderr
    info = Run(tmp_path / "a").info
    assert info["status"] == "done"
    assert [one["processes"] for one in info["refit"]["models"]] == [2]
    assert ran.stdout.count("processes train each fold together") == 2
