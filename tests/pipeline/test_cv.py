"""The run folder: its files, resuming, and bit-equal results."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from foldblend.errors import UserError
from foldblend.runs.folder import file_hash
from foldblend.runs.run import Run
from foldblend.scores.metrics import METRICS, softmax
from folds.data.layout import read_layout
from pipeline.config.settings import make_config
from pipeline.cv import cross_validate
from tests.makers.constants import TINY

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "folds": 2,
    "epochs": 1,
    "img_size": 32,
    "pretrained": "none",
    "workers": 0,
    "threads": 1,
    "backbone": "test_efficientnet",
    "log_pictures": False,
    "page": False,
}


def quiet(_):
    pass


def alpha_again(tiny_layout, output, **changes):
    settings = (
        SMALL
        | {"tta": "hflip", "data": str(tiny_layout), "output": str(output), "name": "alpha"}
        | changes
    )
    return cross_validate(make_config(settings), say=quiet)


def test_files_and_columns(alpha, tiny_layout):
    manifest = read_layout(tiny_layout)
    names = {item.name for item in alpha.path.iterdir()} - {".lock"}
    assert names == {
        "config.yaml",
        "env.json",
        "folds.csv",
        "run.json",
        "fold_0",
        "fold_1",
        "oof.parquet",
        "test.parquet",
        "test_fold_0.parquet",
        "test_fold_1.parquet",
        "tta",
        "report.json",
        "report.txt",
        "submission.csv",
        "predictions.csv",
        "predictions_by_group.csv",
        "reference.safetensors",
        "pictures.parquet",
        "sections",
    }
    assert {item.name for item in (alpha.path / "fold_0").iterdir()} == {
        "best.safetensors",
        "log.csv",
        "tb",
        "done.json",
        "oof.parquet",
    }
    logits = [f"logit_{index}" for index in range(18)]
    assert list(alpha.oof.columns) == [
        "image_id",
        "group",
        "label",
        "label_raw",
        "repeat",
        "fold",
        *logits,
    ]
    assert (alpha.oof.dtypes[logits] == np.float32).all()
    assert np.isfinite(alpha.oof[logits]).all().all()
    assert sorted(alpha.oof["image_id"]) == sorted(manifest.train["image_id"])
    assert alpha.oof["image_id"].is_unique
    rows = alpha.oof.set_index("image_id").loc[manifest.train["image_id"]]
    assert (rows["label"].to_numpy() == manifest.train["label"].to_numpy()).all()
    assert (alpha.oof.groupby("group")["fold"].nunique() == 1).all()
    folds = (
        pd.read_csv(alpha.path / "folds.csv")
        .set_index("image_id")
        .loc[alpha.oof["image_id"], "fold"]
    )
    assert (folds.to_numpy() == alpha.oof["fold"].to_numpy()).all()


def test_test_logits_are_the_mean_over_folds(alpha, tiny_layout):
    folds = [alpha.logits(alpha.test_fold(fold)) for fold in range(2)]
    assert not np.array_equal(*folds)
    np.testing.assert_array_equal(
        alpha.logits(alpha.test), np.mean(np.float64(folds), axis=0).astype(np.float32)
    )
    submission = pd.read_csv(alpha.path / "submission.csv")
    info = pd.read_csv(tiny_layout / "eval" / "info.csv")
    assert list(submission.columns) == ["ImageID", "ans"]
    assert submission["ImageID"].tolist() == info["ImageID"].tolist()
    assert submission["ans"].tolist() == alpha.logits(alpha.test).argmax(1).tolist()


def test_views_are_kept_and_their_mean_is_the_logit(alpha):
    for fold in range(2):
        views = pd.read_parquet(alpha.path / "tta" / f"oof_fold_{fold}.parquet")
        one = pd.read_parquet(alpha.path / f"fold_{fold}" / "oof.parquet")
        assert views["view"].unique().tolist() == ["identity", "hflip"]
        parts = [alpha.logits(views[views["view"] == name]) for name in ("identity", "hflip")]
        assert not np.array_equal(*parts)
        np.testing.assert_array_equal(
            np.mean(np.float64(parts), axis=0).astype(np.float32), alpha.logits(one)
        )


def test_records(alpha):
    info = alpha.info
    env = json.loads((alpha.path / "env.json").read_text())
    assert info["status"] == "done"
    assert info["data"]["num_groups"] == 12
    assert {name: file_hash(alpha.path / name) for name in info["files"]} == info["files"]
    assert env["weights"] == {"source": "random", "licence": "none"}
    assert env["packages"]["torch"].startswith("2.")
    config = yaml.safe_load((alpha.path / "config.yaml").read_text())
    assert (config["img_size"], config["epochs"], config["threads"], config["device"]) == (
        "32x32",
        1,
        1,
        "cpu",
    )
    log = pd.read_csv(alpha.path / "fold_0" / "log.csv")
    assert log.columns.tolist() == [
        "epoch",
        "lr",
        "train_loss",
        "images_per_s",
        "seconds",
        "val_f1_macro",
        "val_log_loss",
    ]
    oof = pd.read_parquet(alpha.path / "fold_0" / "oof.parquet")
    loss = METRICS["log_loss"].score(oof["label"].to_numpy(), softmax(alpha.logits(oof)))
    assert log["val_log_loss"].iloc[-1] == pytest.approx(loss)
    # A report has no use for the time of an epoch.
    assert "seconds" not in alpha.report["curves"][0]


def test_report_describes_the_oof_rows(alpha):
    report = alpha.report
    proba = softmax(alpha.logits(alpha.oof))
    label = alpha.oof["label"].to_numpy()
    assert report["headline"]["value"] == METRICS["f1_macro"].score(label, proba)
    assert report["headline"]["low"] <= report["headline"]["value"] <= report["headline"]["high"]
    assert [row["name"] for row in report["attributes"]] == ["mask", "gender", "age"]
    assert report["num_classes_occurring"] == len(np.unique(label))
    text = (alpha.path / "report.txt").read_text()
    assert max(len(line) for line in text.splitlines()) <= 80
    assert f"{report['headline']['value']:.4f}" in text
    assert "merged - identity" in text


def test_tensorboard_tags(alpha):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(alpha.path / "fold_1" / "tb"))
    events.Reload()
    tags = {"train/loss", "train/lr", "train/images_per_s", "val/loss"}
    tags |= {"val/f1_macro", "hparam/f1_macro"}
    tags |= {f"val/{name}_f1_macro" for name in ("mask", "gender", "age")}
    assert set(events.Tags()["scalars"]) == tags
    oof = pd.read_parquet(alpha.path / "fold_1" / "oof.parquet")
    score = METRICS["f1_macro"].score(oof["label"].to_numpy(), softmax(alpha.logits(oof)))
    assert events.Scalars("val/f1_macro")[-1].value == pytest.approx(score)


def test_images_and_settings_reach_tensorboard_and_change_no_result(alpha, tiny_layout, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = alpha_again(tiny_layout, tmp_path, log_pictures=True)
    pd.testing.assert_frame_equal(run.oof, alpha.oof, check_exact=True)
    events = EventAccumulator(str(run.path / "fold_0" / "tb"))
    events.Reload()
    assert set(events.Tags()["images"]) == {"train/batch", "val/worst", "val/confusion"}
    assert (
        "hparams" in events.summary_metadata["_hparams_/session_start_info"].plugin_data.plugin_name
    )


def test_only_folds_and_then_the_rest(alpha, tiny_layout, tmp_path, cv_command):
    argv = [
        "--data",
        tiny_layout,
        "--output",
        tmp_path,
        "--name",
        "alpha",
        "--backbone",
        "test_efficientnet",
    ]
    argv += ["--tta", "hflip", *TINY]
    done = cv_command(*argv, "--only-folds", "1")
    assert "folds 0 are left" in done.out
    assert "kept" not in done.out
    assert not (tmp_path / "alpha" / "oof.parquet").exists()
    assert "fold 1: finished before, kept" in cv_command(*argv).out
    pd.testing.assert_frame_equal(Run(tmp_path / "alpha").oof, alpha.oof, check_exact=True)
    cv_command(*argv, "--only-folds", "2").assert_one_line_error("--only-folds 2", "there are 2")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_results_do_not_depend_on_workers_or_row_order(
    tiny_layout, layout_copy, edit_csv, tmp_path
):
    """Train two epochs with dropout: an extra random number would change the second one."""
    edit_csv(layout_copy / "train" / "train.csv", lambda table: table.iloc[::-1])
    changes = {
        "epochs": 2,
        "drop": 0.2,
        "mixup": 0.2,
        "cutmix": 1.0,
        "reprob": 0.5,
        "sampler": "balanced",
    }
    runs = [alpha_again(tiny_layout, tmp_path / "0", **changes)]
    runs += [
        alpha_again(layout_copy, tmp_path / str(workers), **changes, workers=workers)
        for workers in (1, 4)
    ]
    for name in ("oof.parquet", "test.parquet", "test_fold_0.parquet"):
        one, *others = (pd.read_parquet(run.path / name) for run in runs)
        for other in others:
            pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_another_seed_keeps_the_folds(alpha, tiny_layout, tmp_path):
    other = alpha_again(tiny_layout, tmp_path, seed=1)
    assert (other.path / "folds.csv").read_bytes() == (alpha.path / "folds.csv").read_bytes()
    assert not np.array_equal(other.logits(other.oof), alpha.logits(alpha.oof))


def test_finished_folds_are_kept_and_the_rest_is_bit_equal(runs_copy, alpha, tiny_layout):
    folder = runs_copy / "alpha"
    (folder / "fold_1" / "done.json").unlink()
    (folder / "oof.parquet").unlink()
    (folder / ".draft-1-oof.parquet").write_bytes(b"half")
    before = (folder / "fold_0" / "done.json").stat().st_mtime_ns
    again = alpha_again(tiny_layout, runs_copy)
    assert (folder / "fold_0" / "done.json").stat().st_mtime_ns == before
    pd.testing.assert_frame_equal(again.oof, alpha.oof, check_exact=True)
    pd.testing.assert_frame_equal(again.test, alpha.test, check_exact=True)
    assert not list(folder.rglob(".draft-*"))


def test_a_fold_with_a_damaged_file_is_trained_again(runs_copy, alpha, tiny_layout):
    table = runs_copy / "alpha" / "fold_0" / "oof.parquet"
    table.write_bytes(table.read_bytes()[:-9])
    pd.testing.assert_frame_equal(
        alpha_again(tiny_layout, runs_copy).oof, alpha.oof, check_exact=True
    )


def test_other_settings_or_data_under_the_same_name(
    runs_copy, layout_copy, tiny_layout, edit_csv, cv_command
):
    base = [
        "--output",
        runs_copy,
        "--name",
        "alpha",
        "--backbone",
        "test_efficientnet",
        "--tta",
        "hflip",
        *TINY,
    ]
    before = file_hash(runs_copy / "alpha" / "oof.parquet")
    done = cv_command("--data", tiny_layout, *base, "--lr", "0.1")
    done.assert_one_line_error("alpha", "lr 0.001 -> 0.1", "--name alpha-2", "--no-resume")
    edit_csv(
        layout_copy / "train" / "train.csv",
        lambda t: t.assign(gender=t["gender"].iloc[::-1].tolist()),
    )
    cv_command("--data", layout_copy, *base).assert_one_line_error(
        "made with different data (28 labels changed, first of ",
        "name: tiny -> copy)",
        "--name alpha-2",
    )
    assert file_hash(runs_copy / "alpha" / "oof.parquet") == before
    assert cv_command("--data", tiny_layout, *base, "--lr", "0.1", "--no-resume").code == 0
    assert file_hash(runs_copy / "alpha" / "oof.parquet") != before


def test_different_data_under_the_same_name(
    runs_copy, layout_copy, edit_csv, tiny_layout, cv_command
):
    argv = ["--output", runs_copy, "--name", "alpha", "--backbone", "test_efficientnet", *TINY]
    argv += ["--tta", "hflip", "--data", layout_copy]
    shutil.copytree(layout_copy / "eval", layout_copy.parent / "eval")
    edit_csv(layout_copy / "eval" / "info.csv", lambda table: table.head(5))
    num_test = len(pd.read_csv(tiny_layout / "eval" / "info.csv"))
    cv_command(*argv).assert_one_line_error(
        f"different data (test images: {num_test} -> 5, {num_test - 5} test images gone: ",
        "name: tiny -> copy);",
    )
    shutil.rmtree(layout_copy / "eval")
    shutil.move(layout_copy.parent / "eval", layout_copy / "eval")
    edit_csv(layout_copy / "train" / "train.csv", lambda table: table.iloc[1:])
    cv_command(*argv, "--lr", "0.1").assert_one_line_error(
        "a different configuration (lr 0.001 -> 0.1) and different data (training images: 84 -> 77,"
        " people: 12 -> 11, 7 training images gone: ",
        "name: tiny -> copy);",
    )


def test_config_yaml_repeats_the_run(alpha, tmp_path, cv_command):
    done = cv_command(
        "--config", alpha.path / "config.yaml", "--output", tmp_path, "--name", "again"
    )
    assert done.code == 0, done.err
    pd.testing.assert_frame_equal(Run(tmp_path / "again").oof, alpha.oof, check_exact=True)


def test_without_a_test_set_there_are_no_test_logits(layout_copy, tmp_path):
    shutil.rmtree(layout_copy / "eval")
    run = alpha_again(layout_copy, tmp_path, tta="none")
    assert run.test is None
    assert not (run.path / "submission.csv").exists()
    assert not list(run.path.glob("test_fold_*"))
    assert run.report["num_images"] == 84


def test_any_csv(tiny_layout, tmp_path, cv_command):
    """Read the same images from a table with two named classes."""
    manifest = read_layout(tiny_layout)
    table = pd.DataFrame(
        {
            "file": [f"train/images/{image}" for image in manifest.train["image_id"]],
            "kind": np.where(manifest.train["label"] < 6, "masked", "bare"),
            "who": manifest.train["group"],
        }
    )
    table.to_csv(tmp_path / "two.csv", index=False)
    table[["file"]].head(3).to_csv(tmp_path / "test.csv", index=False)
    done = cv_command(
        "--csv",
        tmp_path / "two.csv",
        "--image-col",
        "file",
        "--label-col",
        "kind",
        "--group-col",
        "who",
        "--image-root",
        tiny_layout,
        "--test-csv",
        tmp_path / "test.csv",
        "--output",
        tmp_path,
        "--backbone",
        "test_efficientnet",
        *TINY,
    )
    assert done.code == 0, done.err
    run = Run(tmp_path / "two_test_efficientnet")
    assert run.classes == ("bare", "masked")
    assert list(run.oof.columns)[-2:] == ["logit_0", "logit_1"]
    submission = pd.read_csv(run.path / "submission.csv")
    assert list(submission) == ["file", "kind"]
    assert set(submission["kind"]) <= {"bare", "masked"}


@pytest.mark.slow
def test_model_ema_clipping_and_schedule_change_the_result(tiny_layout, tmp_path):
    """Take five steps: Adam's first step has no gradient size, and its average is the model."""
    changes = {
        "plain": {},
        "ema": {"model_ema": True},
        "clip": {"clip_grad": 0.01},
        "cycle": {"sched": "onecycle"},
    }
    runs = [
        alpha_again(tiny_layout, tmp_path, name=name, batch_size=8, **change)
        for name, change in changes.items()
    ]
    assert len({run.logits(run.oof).tobytes() for run in runs}) == len(changes)


def read_all_files(folder):
    """Read all files of a run folder except drafts; each must be complete."""
    for file in folder.rglob("*"):
        if file.name.startswith(".") or file.is_dir() or "tb" in file.parts:
            continue
        if file.suffix == ".parquet":
            pd.read_parquet(file)
        elif file.suffix == ".json":
            json.loads(file.read_text())
        elif file.suffix == ".csv":
            assert file.read_bytes().endswith(b"\n")


def kill_and_finish(alpha, tiny_layout, output, moments):
    """Kill a run at each moment (file to wait for, seconds after it), finish it and compare."""
    argv = ["--data", tiny_layout, "--output", output, "--name", "alpha", "--tta", "hflip", *TINY]
    command = [sys.executable, "run_cv.py", "--backbone", "test_efficientnet", *map(str, argv)]
    num_killed = 0
    for file, delay in moments:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while not (output / "alpha" / file).exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(delay)
        process.kill()
        num_killed += process.wait() == -signal.SIGKILL
        read_all_files(output / "alpha")
    again = alpha_again(tiny_layout, output)
    pd.testing.assert_frame_equal(again.oof, alpha.oof, check_exact=True)
    pd.testing.assert_frame_equal(again.test, alpha.test, check_exact=True)
    return num_killed


@pytest.mark.slow
def test_killed_twice_then_finished_bit_equal(alpha, tiny_layout, tmp_path):
    moments = [(".lock", 0.0), ("fold_0/done.json", 0.05)]
    assert kill_and_finish(alpha, tiny_layout, tmp_path, moments) == 2


@pytest.mark.slow
def test_killed_often_then_finished_bit_equal(alpha, tiny_layout, tmp_path):
    rng = np.random.default_rng(0)
    moments = [(".lock", delay) for delay in rng.uniform(0.0, 3.0, 12)]
    assert kill_and_finish(alpha, tiny_layout, tmp_path, moments) >= 4


@pytest.mark.parametrize("left", [".draft-7-run.json", ".lock"])
def test_a_kill_before_the_first_file_does_not_lock_the_name(tiny_layout, tmp_path, left):
    (tmp_path / "alpha").mkdir()
    (tmp_path / "alpha" / left).write_text("half")
    assert alpha_again(tiny_layout, tmp_path).info["status"] == "done"


def test_settings_may_change_while_no_fold_is_done(runs_copy, tiny_layout):
    for fold in range(2):
        (runs_copy / "alpha" / f"fold_{fold}" / "done.json").unlink()
    assert alpha_again(tiny_layout, runs_copy, lr=0.01).info["status"] == "done"


def test_a_group_in_two_folds_of_folds_csv_is_an_error(runs_copy, tiny_layout, edit_csv):
    def tear(table):
        table.loc[0, "fold"] = str(1 - int(table.loc[0, "fold"]))
        return table

    edit_csv(runs_copy / "alpha" / "folds.csv", tear)
    with pytest.raises(UserError, match=r"folds.csv: .*person .* is in more than one fold.*remove"):
        alpha_again(tiny_layout, runs_copy)


def test_config_yaml_has_the_path_of_the_data(layout_copy, tmp_path, monkeypatch):
    monkeypatch.setenv("SM_CHANNEL_TRAIN", str(layout_copy / "train" / "images"))
    run = alpha_again(layout_copy, tmp_path, data=None, resume=False, tta="none")
    written = yaml.safe_load((run.path / "config.yaml").read_text())
    assert written["data"] == str(layout_copy.resolve())
    assert written["resume"] is True
