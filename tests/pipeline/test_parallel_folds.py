"""Folds in parallel processes: equal logits, and a dying process only fails its own fold."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import pandas as pd
import pytest
import torch
import yaml

from foldblend.errors import UserError
from foldblend.runs.run import Run
from pipeline.data.feeding import Feeder
from pipeline.machine import workers_of
from pipeline.memory import Limits
from pipeline.models.timm_import import timm
from pipeline.training import parallel_folds
from pipeline.training.fold_children import FoldError
from pipeline.training.gpu_share import FoldProcess
from pipeline.training.parallel_folds import run_folds
from pipeline.training.shared_images import SharedImages
from tests.makers.constants import TINY
from tests.makers.jobs import fake_job

ROOT = Path(__file__).resolve().parents[2]


def silent(_: str) -> None:
    pass


def do_or_die(job, index):
    """Replace the training of a fold: 1 is killed, 2 fails, 3 has bad input, others succeed."""
    if index == 1:
        print("about to be killed", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if index == 2:
        raise ValueError("broken")
    if index == 3:
        raise UserError("--lr 9: too much")
    job.say(f"fold {index} here")
    job.say_epoch(f"fold {index} epoch 1/1")
    held = signal.SIGHUP in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    return {
        "index": index,
        "score": 0.5,
        "seconds": 72.0,
        "pid": os.getpid(),
        "threads": torch.get_num_threads(),
        "hangup_held": held,
    }


@pytest.mark.slow
def test_one_process_trains_several_folds(tmp_path):
    said = []
    done = run_folds(fake_job(tmp_path, said.append, parallel_folds=2), [0, 4, 5], run=do_or_die)
    assert sorted(done) == [0, 4, 5]
    pids = {one["pid"] for one in done.values()}
    assert os.getpid() not in pids
    assert len(pids) <= 2
    assert {one["threads"] for one in done.values()} == {1}
    # SIGHUP is blocked from the first instruction of a child on.
    assert all(one["hangup_held"] for one in done.values())
    assert signal.SIGHUP not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    for fold in (0, 4, 5):
        lines = [line for line in said if line.startswith(f"fold {fold}")]
        assert lines == [
            f"fold {fold} here",
            f"fold {fold} epoch 1/1",
            f"fold {fold}: held-out macro F1 0.5000, 72 s",
        ]


def test_epochs_are_not_logged_on_a_terminal(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    run_folds(fake_job(tmp_path, said.append), [0], run=do_or_die)
    assert said == ["fold 0 here", "fold 0: held-out macro F1 0.5000, 72 s"]


@pytest.mark.slow
def test_a_dying_fold_does_not_stop_the_others(tmp_path):
    said = []
    with pytest.raises(UserError) as stop:
        run_folds(fake_job(tmp_path, said.append, parallel_folds=2), range(6), run=do_or_die)
    message = str(stop.value)
    assert "fold 1 was killed (SIGKILL), often because memory ran out; see" in message
    assert "fold 2 failed: ValueError: broken" in message
    assert "fold 3 failed: --lr 9: too much" in message
    assert "The other folds are kept; run the same command again to train the rest" in message
    assert {"fold 0 here", "fold 4 here", "fold 5 here"} <= {*said}
    assert "about to be killed" in (tmp_path / "logs" / "fold_1.log").read_text()
    assert "Traceback" in (tmp_path / "logs" / "fold_2.log").read_text()
    assert "Traceback" not in (tmp_path / "logs" / "fold_3.log").read_text()


@pytest.mark.slow
def test_a_refit_has_a_log_of_its_own(tmp_path):
    job = fake_job(tmp_path, silent, num_folds=2, parallel_folds=2)
    with pytest.raises(UserError, match=r"refit 0 failed: .*logs/refit_0\.log"):
        run_folds(job, [2, 4], run=do_or_die)
    assert "Traceback" in (tmp_path / "logs" / "refit_0.log").read_text()
    assert not (tmp_path / "logs" / "fold_2.log").exists()


def test_one_at_a_time_stays_in_this_process(tmp_path):
    assert run_folds(fake_job(tmp_path, print), [0, 4], run=do_or_die)[4]["pid"] == os.getpid()
    assert (
        run_folds(fake_job(tmp_path, print, parallel_folds=3), [5], run=do_or_die)[5]["pid"]
        == os.getpid()
    )


@pytest.mark.slow
def test_parallel_folds_have_the_logits_of_serial_ones(alpha, tiny_layout, tmp_path, cv_command):
    done = cv_command(
        "--data",
        tiny_layout,
        "--output",
        tmp_path,
        "--name",
        "alpha",
        "--backbone",
        "test_efficientnet",
        "--tta",
        "hflip",
        "--parallel-folds",
        "2",
        *TINY,
    )
    assert done.code == 0, done.err
    run = Run(tmp_path / "alpha")
    assert run.info["run_key"] == alpha.info["run_key"]
    pd.testing.assert_frame_equal(run.oof, alpha.oof, check_exact=True)
    pd.testing.assert_frame_equal(run.test, alpha.test, check_exact=True)


def children_of(pid):
    """Return the command lines of a process's children by process id."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text()
            command = (folder / "cmdline").read_bytes().decode()
        except OSError:
            continue
        if int(stat.rsplit(")", 1)[1].split()[1]) == pid and "resource_tracker" not in command:
            found[int(folder.name)] = command
    return found


def start(tiny_layout, output, *more):
    argv = [
        "--data",
        tiny_layout,
        "--output",
        output,
        "--name",
        "alpha",
        "--tta",
        "hflip",
        *TINY,
        *more,
    ]
    command = [
        sys.executable,
        "run_cv.py",
        "--backbone",
        "test_efficientnet",
        "--parallel-folds",
        "2",
        *argv,
    ]
    log = (output / "said.txt").open("w")
    return subprocess.Popen([*map(str, command)], cwd=ROOT, stdout=log, stderr=log)


def wait_for(what, seconds=90.0):
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_fold_keeps_the_other_and_is_resumed(tiny_layout, tmp_path, cv_command):
    # With this many epochs, neither fold ends before the other has begun, even on a busy machine.
    more = ["--epochs", "30"]
    folder = tmp_path / "alpha"
    process = start(tiny_layout, tmp_path, *more)
    wait_for(
        lambda: (
            (folder / "fold_0" / "log.csv").exists() and (folder / "fold_1" / "log.csv").exists()
        )
    )
    os.kill(sorted(children_of(process.pid))[0], signal.SIGKILL)
    assert process.wait(timeout=120) == 2
    said = (tmp_path / "said.txt").read_text()
    assert "was killed (SIGKILL)" in said
    assert "Traceback" not in said
    finished = [fold for fold in range(2) if (folder / f"fold_{fold}" / "done.json").exists()]
    assert len(finished) == 1
    before = (folder / f"fold_{finished[0]}" / "done.json").read_bytes()
    assert start(tiny_layout, tmp_path, *more).wait(timeout=120) == 0
    assert (folder / f"fold_{finished[0]}" / "done.json").read_bytes() == before
    argv = [
        "--data",
        tiny_layout,
        "--output",
        tmp_path / "serial",
        "--name",
        "alpha",
        "--tta",
        "hflip",
        *TINY,
        *more,
    ]
    assert cv_command("--backbone", "test_efficientnet", *argv).code == 0
    pd.testing.assert_frame_equal(
        Run(folder).oof, Run(tmp_path / "serial" / "alpha").oof, check_exact=True
    )
    pd.testing.assert_frame_equal(
        Run(folder).test, Run(tmp_path / "serial" / "alpha").test, check_exact=True
    )


@pytest.mark.slow
def test_folds_die_with_the_process_that_started_them(tiny_layout, tmp_path):
    process = start(tiny_layout, tmp_path, "--epochs", "200")
    wait_for(lambda: (tmp_path / "alpha" / "fold_1" / "log.csv").exists())
    children = children_of(process.pid)
    assert len(children) == 2
    process.kill()
    process.wait()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), 15)


@pytest.mark.slow
def test_weights_workers_and_images_in_ram_reach_the_child_processes(
    tiny_layout, tmp_path, cv_command
):
    """Logits do not depend on cache, processes or workers; a continued run keeps its threads."""
    torch.manual_seed(0)
    torch.save(timm.create_model("test_vit", img_size=32).state_dict(), tmp_path / "w.pth")
    base = [
        "--data",
        tiny_layout,
        "--output",
        tmp_path,
        "--backbone",
        "test_vit",
        "--weights",
        tmp_path / "w.pth",
        "--folds",
        "2",
        "--epochs",
        "1",
        "--img-size",
        "32",
    ]
    first = cv_command(
        *base, "--name", "one", "--cache", "ram", "--parallel-folds", "2", "--workers", "1"
    )
    assert first.code == 0, first.err
    threads = yaml.safe_load((tmp_path / "one" / "config.yaml").read_text())["threads"]
    (tmp_path / "one" / "fold_1" / "done.json").unlink()
    assert cv_command(*base, "--name", "one", "--cache", "off").code == 0
    assert cv_command(*base, "--name", "two", "--cache", "device", "--threads", threads).code == 0
    pd.testing.assert_frame_equal(
        Run(tmp_path / "one").oof, Run(tmp_path / "two").oof, check_exact=True
    )
    pd.testing.assert_frame_equal(
        Run(tmp_path / "one").test, Run(tmp_path / "two").test, check_exact=True
    )


@pytest.mark.slow
def test_a_process_that_cannot_be_started_only_fails_its_fold(tmp_path, monkeypatch):
    import pipeline.training.parallel_folds as schedule

    real = schedule.FoldChild
    tries = []

    def flaky(*args):
        tries.append(args)
        if len(tries) == 1:
            raise BrokenPipeError(32, "Broken pipe")
        return real(*args)

    monkeypatch.setattr(schedule, "FoldChild", flaky)
    said = []
    with pytest.raises(UserError, match=r"could not be started \(Broken pipe\)"):
        run_folds(fake_job(tmp_path, said.append, parallel_folds=2), [0, 4, 5], run=do_or_die)
    assert len([line for line in said if line.endswith(" here")]) == 2


@pytest.mark.slow
def test_a_line_that_cannot_be_printed_ends_the_run(tmp_path):
    class Closed(list):
        def append(self, line):
            if line.endswith(" here"):
                raise BrokenPipeError(32, "Broken pipe")

    before = children_of(os.getpid())
    with pytest.raises(BrokenPipeError):
        run_folds(fake_job(tmp_path, Closed().append, parallel_folds=2), [0, 4, 5], run=do_or_die)
    assert children_of(os.getpid()).keys() <= before.keys()


class FakeChild:
    """A child process in this one, which fails for some folds unless it is alone."""

    alive = True
    started: ClassVar[list] = []

    def __init__(self, job, run, device, images):
        self.job = job
        self.device = device
        self.started.append(self)
        self.done = []

    def do(self, index, job):
        self.done.append(index)
        if index == 3:
            raise FoldError("failed: --lr 9: too much", for_want_of_memory=False)
        if index in (1, 4) and not self.job.limits.releases:
            raise FoldError("was killed (SIGKILL)")
        if index == 4:
            raise FoldError("failed: out of memory")
        return {"index": index, "score": 0.5, "seconds": 1.0}

    def end(self, *, now=False):
        pass


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_folds_that_died_on_a_gpu_are_trained_again_alone(tmp_path, monkeypatch, device):
    monkeypatch.setattr(parallel_folds, "FoldChild", FakeChild)
    monkeypatch.setattr(FakeChild, "started", [])
    process = FoldProcess(device="cuda:0", limits=Limits(micro_batch=8, chunk=64))
    monkeypatch.setattr(parallel_folds, "processes_of", lambda *_: [process] * 3)
    said = []
    job = fake_job(tmp_path, said.append)
    compute = dataclasses.replace(job.compute, device=torch.device(device))
    with pytest.raises(UserError) as stop:
        run_folds(dataclasses.replace(job, compute=compute), range(6))
    message = str(stop.value)
    assert "fold 3 failed: --lr 9" in message
    assert "fold 4 " in message
    # A process whose fold died is not used again: its GPU may fail it, and it keeps memory.
    for child in FakeChild.started:
        assert not {1, 4} & {*child.done[:-1]} or child.job.limits.releases
    again = [child for child in FakeChild.started if child.job.limits.releases]
    if device == "cpu":
        assert not again
        assert "fold 1 was killed" in message
        return
    assert "fold 1" not in message
    assert "fold 1, fold 4: trained again, alone on cuda:0" in said
    # Fold 3 failed for another reason. The process of fold 1 trains fold 4 too.
    assert [child.done for child in again] == [[1, 4]]
    assert again[0].job.limits == Limits(micro_batch=8, chunk=32, releases=True)


def seven(shape, error=None):
    """Return images as another process would find them in shared memory."""
    if error is not None:
        raise RuntimeError(error)
    return torch.full(shape, 7, dtype=torch.uint8)


def see_images(job, index):
    """Replace the training of a fold: return what the process has of shared images."""
    pixels = job.feeder._pixels
    mean = None if pixels is None else float(pixels.float().mean())
    done = {"index": index, "score": 0.5, "seconds": 1.0}
    return done | {"mean": mean, "mode": job.feeder.source.mode, "memory": job.memory}


def run_sharing(tmp_path, monkeypatch):
    """Train three folds in two processes that share images; return their results and the log."""
    process = FoldProcess(device="cpu", shares_images=True)
    monkeypatch.setattr(parallel_folds, "processes_of", lambda *_: [process] * 2)
    said = []
    job = fake_job(tmp_path, said.append)
    source = dataclasses.replace(job.feeder.source, mode="device")
    job = dataclasses.replace(job, feeder=Feeder(job.run.config, source, job.compute))
    return run_folds(job, [0, 1, 2], run=see_images), said


@pytest.mark.slow
@pytest.mark.parametrize("error", [None, "CUDA error: invalid resource handle"])
def test_processes_read_the_images_of_this_one(tmp_path, monkeypatch, error):
    loads = []

    def load(source, device):
        loads.append(device)
        return torch.zeros(1)

    monkeypatch.setattr(parallel_folds, "resident_pixels", load)
    monkeypatch.setattr(
        parallel_folds.SharedImages,
        "of",
        staticmethod(lambda pixels: SharedImages(rebuild=seven, parts=((2, 4, 4, 3), error))),
    )
    done, said = run_sharing(tmp_path, monkeypatch)
    expected = (7.0, "device") if error is None else (None, "disk")
    assert {(one["mean"], one["mode"]) for one in done.values()} == {expected}
    assert loads == [torch.device("cpu")]
    assert any("cannot be read on the GPU" in line for line in said) == (error is not None)


@pytest.mark.slow
def test_images_that_cannot_be_shared_stay_on_disk(tmp_path, monkeypatch):
    def fails(*_):
        raise RuntimeError("CUDA error: operation not supported")

    monkeypatch.setattr(parallel_folds, "resident_pixels", lambda *_: torch.zeros(1))
    monkeypatch.setattr(parallel_folds.SharedImages, "of", staticmethod(fails))
    done, said = run_sharing(tmp_path, monkeypatch)
    assert {(one["mean"], one["mode"]) for one in done.values()} == {(None, "disk")}
    assert len([line for line in said if "the images cannot be shared" in line]) == 1


def test_a_single_fold_trains_on_the_gpu_of_the_plan(tmp_path, monkeypatch):
    process = FoldProcess(device="cpu:0", limits=Limits(chunk=3))
    monkeypatch.setattr(parallel_folds, "processes_of", lambda *_: [process])

    def where(job, index):
        done = {"index": index, "score": 0.5, "seconds": 1.0}
        return done | {"device": job.compute.device, "fed": job.feeder.compute.device}

    done = run_folds(fake_job(tmp_path, print), [0], run=where)
    assert done[0]["device"] == done[0]["fed"] == torch.device("cpu:0")


def test_workers_share_the_cores(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.machine.num_cores", lambda: 64)
    assert workers_of("cuda", 5) == 8
    assert workers_of("cuda", 16) == 4
    assert workers_of("cuda", 100) == 1
    assert workers_of("cpu", 5) == 0
    job = fake_job(tmp_path, print, device="cuda", workers=8)
    there = parallel_folds._for_several(job, 16).run.config.machine
    # It was typed.
    assert (there.workers, there.parallel_folds) == (8, "16")
    config = dataclasses.replace(job.run.config, typed=frozenset())
    job = dataclasses.replace(job, run=dataclasses.replace(job.run, config=config))
    assert parallel_folds._for_several(job, 16).run.config.machine.workers == 4
