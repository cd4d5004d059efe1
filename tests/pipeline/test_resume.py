"""An interrupted fold continues at its last step, with the logits of an uninterrupted one."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

import pipeline.training.fold_training as training
from foldblend.runs.folder import read_json
from foldblend.runs.run import Run
from pipeline.config.run import RunConfig
from pipeline.config.settings import make_config
from pipeline.cv import cross_validate
from pipeline.training.checkpoint import CHECKPOINT, Checkpoints
from pipeline.training.fit import Fit
from tests.makers.constants import TINY

BASE = {
    "folds": 2,
    "epochs": 3,
    "img_size": 32,
    "batch_size": 8,
    "pretrained": "none",
    "workers": 0,
    "threads": 1,
    "backbone": "test_efficientnet",
    "log_pictures": False,
    "page": False,
    "save_every": 0.0,
}
# Every part that has a state is in one of these.
KINDS = {
    "plain": {"drop": 0.3},
    "ema": {"model_ema": True, "sched": "onecycle", "clip_grad": 1.0, "mixup": 0.2, "reprob": 0.5},
    "mean": {
        "average_last": 2,
        "sched": "plateau",
        "patience_epochs": 0,
        "sampler": "balanced",
        "opt": "lion",
    },
    "inner": {
        "select": "inner",
        "metric": "log_loss",
        "grad_accum_steps": 2,
        "opt": "sgd",
        "cutmix": 1.0,
        "loss": "focal",
    },
}


class Killed(BaseException):
    """Raised to stop a run at an exact step."""


def dies(*_):
    raise Killed


def config_of(layout, output, **changes) -> RunConfig:
    return make_config({**BASE, "data": str(layout), "output": str(output), "name": "a", **changes})


def run_until(config, monkeypatch, num_steps):
    """Run, and stop after `num_steps` training steps."""
    taken = []
    step = Fit._train_step

    def counted(self, *args):
        if len(taken) == num_steps:
            raise Killed
        taken.append(1)
        step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Fit, "_train_step", counted)
        with pytest.raises(Killed):
            cross_validate(config, say=lambda _: None)


def same(one: Run, other: Run):
    pd.testing.assert_frame_equal(one.oof, other.oof, check_exact=True)
    pd.testing.assert_frame_equal(one.test, other.test, check_exact=True)
    for fold in range(2):
        logs = [
            pd.read_csv(run.path / f"fold_{fold}" / "log.csv").drop(
                columns=["images_per_s", "seconds"]
            )
            for run in (one, other)
        ]
        pd.testing.assert_frame_equal(*logs, check_exact=True)


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[] if kind == "inner" else pytest.mark.slow) for kind in KINDS],
)
def test_a_run_killed_between_steps_has_the_logits_of_an_uninterrupted_one(
    kind, tiny_layout, tmp_path, monkeypatch
):
    whole = cross_validate(
        config_of(tiny_layout, tmp_path / "whole", **KINDS[kind]), say=lambda _: None
    )
    broken = config_of(tiny_layout, tmp_path / "broken", **KINDS[kind])
    steps = (42 if kind != "inner" else 28) // 8 // (2 if kind == "inner" else 1)
    for taken in (2, steps, 3, steps + 1):  # in an epoch, at its end, in the second fold
        run_until(broken, monkeypatch, taken)
    said = []
    again = cross_validate(broken, say=said.append)
    assert any("continued at" in line for line in said)
    same(again, whole)
    assert not list(again.path.rglob(CHECKPOINT))


@pytest.mark.slow
def test_a_fold_killed_after_its_last_step_only_predicts_again(tiny_layout, tmp_path, monkeypatch):
    whole = cross_validate(config_of(tiny_layout, tmp_path / "whole"), say=lambda _: None)
    broken = config_of(tiny_layout, tmp_path / "broken", save_every=1e6)
    with monkeypatch.context() as patch:
        patch.setattr(training.FoldTraining, "_finish", dies)
        with pytest.raises(Killed):
            cross_validate(broken, say=lambda _: None)
    assert (tmp_path / "broken" / "a" / "fold_0" / CHECKPOINT).is_file()
    said = []
    with monkeypatch.context() as patch:
        patch.setattr(training, "start_fold", lambda job, index: None if index else dies())
        again = cross_validate(broken, say=said.append)
    assert any("fold 0: continued at trained" in line for line in said)
    same(again, whole)


def test_a_checkpoint_of_other_settings_is_kept_without_no_resume(
    tiny_layout, tmp_path, monkeypatch, cv_command
):
    run_until(config_of(tiny_layout, tmp_path), monkeypatch, 3)
    argv = [
        word
        for key, value in BASE.items()
        if key not in ("log_pictures", "page", "save_every")
        for word in (f"--{key.replace('_', '-')}", value)
    ]
    argv += ["--data", tiny_layout, "--output", tmp_path, "--name", "a"]
    cv_command(*argv, "--lr", "0.01").assert_one_line_error("lr 0.0005 -> 0.01", "--no-resume")
    done = cv_command(
        *argv, "--lr", "0.01", "--no-resume", "--epochs", "1", "--no-log-pictures", "--no-page"
    )
    assert done.code == 0, done.err


@pytest.mark.slow
def test_a_damaged_checkpoint_is_ignored(tiny_layout, tmp_path, monkeypatch):
    whole = cross_validate(config_of(tiny_layout, tmp_path / "whole"), say=lambda _: None)
    broken = config_of(tiny_layout, tmp_path / "broken")
    run_until(broken, monkeypatch, 4)
    file = tmp_path / "broken" / "a" / "fold_0" / CHECKPOINT
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    same(cross_validate(broken, say=lambda _: None), whole)


def test_checkpoints_need_an_equal_run_key_and_execute_no_code(tmp_path):
    checkpoints = Checkpoints(tmp_path, {"configuration": "a"}, every=1e6)
    checkpoints.save_if_due(lambda: {"never": 1})
    assert checkpoints.load() is None
    checkpoints.save({"step": 3, "weights": torch.ones(2)})
    assert checkpoints.load()["step"] == 3
    assert Checkpoints(tmp_path, {"configuration": "b"}, every=0).load() is None
    torch.save(
        {"run_key": {"configuration": "a"}, "state": np.float64}, checkpoints.file
    )  # a pickled class
    assert checkpoints.load() is None


def test_a_checkpoint_with_a_wrong_bit_is_not_used_and_one_without_a_checksum_is(tmp_path):
    checkpoints = Checkpoints(tmp_path, {"configuration": "a"}, every=1e6)
    checkpoints.save({"weights": torch.arange(1000.0)})
    data = checkpoints.file.read_bytes()
    for place in range(0, len(data) - 24, 53):
        wrong = bytearray(data)
        wrong[place] ^= 1 << place % 8
        checkpoints.file.write_bytes(wrong)
        assert checkpoints.load() is None
    checkpoints.file.write_bytes(data[:-24])  # as written by earlier versions
    assert torch.equal(checkpoints.load()["weights"], torch.arange(1000.0))
    checkpoints.file.write_bytes(data)
    assert torch.equal(checkpoints.load()["weights"], torch.arange(1000.0))


def test_a_loss_that_is_not_finite_is_reported_with_fold_step_and_images(
    tiny_layout, tmp_path, cv_command, monkeypatch
):
    step = Fit._train_step

    def breaks(self, images, labels, loader):
        if (self.seed_parts[1], self.epoch, self.step) == (0, 1, 2):
            next(self.model.parameters()).data.fill_(float("nan"))
        step(self, images, labels, loader)

    argv = [
        "--data",
        tiny_layout,
        "--output",
        tmp_path,
        "--name",
        "a",
        "--backbone",
        "test_efficientnet",
        *TINY,
    ]
    argv += ["--epochs", "2", "--batch-size", "8"]
    with monkeypatch.context() as patch:
        patch.setattr(Fit, "_train_step", breaks)
        done = cv_command(*argv)
    done.assert_one_line_error(
        "fold 0 epoch 2 step 3: the loss is not finite", ".jpg", "and 4 more", "--lr"
    )
    assert not list(tmp_path.rglob(CHECKPOINT))
    # No fold was finished, so other settings may replace the run.
    assert cv_command(*argv, "--lr", "0.0001").code == 0


@pytest.mark.slow
def test_best_is_marked_and_blends_refuse_it(tiny_layout, tmp_path, monkeypatch, blend_command):
    run = cross_validate(
        dataclasses.replace(config_of(tiny_layout, tmp_path, select="best", save_every=60.0)),
        say=lambda _: None,
    )
    assert run.info["optimistic"]
    assert any("OPTIMISTIC" in note for note in run.report["notes"])
    assert "OPTIMISTIC" in (run.path / "report.txt").read_text()
    # The score of a fold is that of the best epoch in its log.
    for fold in range(2):
        log = pd.read_csv(run.path / f"fold_{fold}" / "log.csv")
        done = read_json(run.path / f"fold_{fold}" / "done.json")
        assert done["epoch"] == log["best_f1_macro"].idxmax()
        assert done["score"] == pytest.approx(log["best_f1_macro"].max())
    blend_command(run.path).assert_one_line_error("--allow-optimistic")
    done = blend_command(run.path, "--allow-optimistic", "--name", "b")
    assert done.code == 0, done.err
    blended = Run(tmp_path / "b")
    assert blended.info["optimistic"]
    assert any("OPTIMISTIC" in note for note in blended.report["notes"])


@pytest.mark.slow
def test_the_least_log_loss_is_chosen(tiny_layout, tmp_path):
    run = cross_validate(
        config_of(tiny_layout, tmp_path, select="inner", metric="log_loss"), say=lambda _: None
    )
    for fold in range(2):
        log = pd.read_csv(run.path / f"fold_{fold}" / "log.csv")
        assert (
            read_json(run.path / f"fold_{fold}" / "done.json")["epoch"]
            == log["inner_log_loss"].idxmin()
        )
    assert not run.info["optimistic"]


def test_an_undefined_metric_cannot_choose(tiny_layout, tmp_path, monkeypatch, cv_command):
    monkeypatch.setattr(training.FoldTraining, "_score", lambda *_: float("nan"))
    argv = ["--data", tiny_layout, "--output", tmp_path, "--backbone", "test_efficientnet", *TINY]
    cv_command(*argv, "--select", "inner").assert_one_line_error(
        "fold 0", "is undefined", "--select last"
    )


@pytest.mark.slow
def test_the_batch_is_shown_again_after_a_kill_in_the_first_epoch(
    tiny_layout, tmp_path, monkeypatch
):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = config_of(tiny_layout, tmp_path, log_pictures=True, epochs=1)
    run_until(config, monkeypatch, 2)
    run = cross_validate(config, say=lambda _: None)
    for fold in range(2):
        events = EventAccumulator(str(run.path / f"fold_{fold}" / "tb"))
        events.Reload()
        assert len(events.Images("train/batch")) == 1


@pytest.mark.slow
def test_seeds_make_separate_runs_on_equal_folds(tiny_layout, tmp_path, cv_command):
    argv = ["--data", tiny_layout, "--output", tmp_path, "--backbone", "test_efficientnet", *TINY]
    done = cv_command(*argv, "--name", "a", "--seeds", 2)
    assert done.code == 0, done.err
    assert "2 seeds" in done.out
    runs = [Run(tmp_path / f"a-seed{seed}") for seed in range(2)]
    assert runs[0].info["folds_hash"] == runs[1].info["folds_hash"]
    assert not np.array_equal(runs[0].logits(runs[0].oof), runs[1].logits(runs[1].oof))
    again = cv_command(*argv, "--name", "a-seed1", "--seed", 1)  # an equal run
    assert again.code == 0
    assert "epoch 1/1" not in again.out
