"""Tests of wrong input to run_cv.py: exit code 2, one line with the cause and the cure.

Nothing is left half-written.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from foldblend.runs.run import Run
from tests.makers.constants import TINY

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run_tiny(cv_command, layout_copy, tmp_path):
    def run(*argv):
        return cv_command(
            "--data",
            layout_copy,
            "--output",
            tmp_path / "out",
            "--backbone",
            "test_efficientnet",
            *TINY,
            *argv,
        )

    return run


def first_person(layout_copy):
    return sorted((layout_copy / "train" / "images").iterdir())[0]


def replace_file(file, data):
    # The images are hard links, so writing in place would change the data set of all tests.
    file.unlink()
    file.write_bytes(data)


def test_no_data_root(cv_command):
    cv_command("--data", "/nowhere", *TINY).assert_one_line_error("/nowhere", "--data", "no such")


def test_a_mistyped_folder_below_the_root_is_not_the_root(cv_command, tiny_layout):
    cv_command("--data", tiny_layout / "trian", *TINY).assert_one_line_error("trian", "--data")


def test_output_that_is_a_file(run_tiny, tmp_path):
    (tmp_path / "out").write_text("x")
    run_tiny().assert_one_line_error("out", "--output")


def test_a_name_with_blanks_becomes_a_folder_name(cv_command, layout_copy, tmp_path):
    blank = layout_copy.rename(tmp_path / "my faces (new)")
    done = cv_command(
        "--data", blank, "--output", tmp_path / "out", "--backbone", "test_efficientnet", *TINY
    )
    assert done.code == 0, done.err
    assert (tmp_path / "out" / "my-faces-new-_test_efficientnet" / "report.txt").exists()


def test_corrupt_image(run_tiny, layout_copy, tmp_path):
    image = first_person(layout_copy) / "mask3.jpg"
    replace_file(image, image.read_bytes()[:900])
    run_tiny().assert_one_line_error(
        f"{first_person(layout_copy).name}/mask3.jpg", "Premature end", "--on-bad-image skip"
    )
    assert not (tmp_path / "out").exists()
    done = run_tiny("--on-bad-image", "skip")
    assert done.code == 0, done.err
    assert "skipped 1 unreadable" in done.out
    assert len(Run(tmp_path / "out" / "copy_test_efficientnet").oof) == 83


def test_missing_image(run_tiny, layout_copy, tmp_path):
    (first_person(layout_copy) / "normal.jpg").unlink()
    run_tiny().assert_one_line_error("normal", "missing", "--on-bad-image skip")
    assert run_tiny("--on-bad-image", "skip").code == 0
    assert len(Run(tmp_path / "out" / "copy_test_efficientnet").oof) == 83


def test_corrupt_test_image_is_never_skipped(run_tiny, layout_copy):
    image = sorted((layout_copy / "eval" / "images").iterdir())[0]
    replace_file(image, b"not an image")
    done = run_tiny("--on-bad-image", "skip")
    done.assert_one_line_error(image.name, "fetch it again")
    assert "image editor" in done.err
    assert "--on-bad-image" not in done.err


@pytest.mark.parametrize(("column", "value"), [("age", "old"), ("gender", "f")])
def test_unknown_age_or_gender(run_tiny, layout_copy, edit_csv, column, value):
    edit_csv(layout_copy / "train" / "train.csv", lambda table: table.assign(**{column: value}))
    run_tiny().assert_one_line_error("train.csv", f"unknown {column} '{value}'")


def test_column_missing(run_tiny, layout_copy, edit_csv):
    edit_csv(layout_copy / "train" / "train.csv", lambda table: table.drop(columns="age"))
    run_tiny().assert_one_line_error("train.csv", "no column age")


def test_duplicate_test_id(run_tiny, layout_copy, edit_csv):
    edit_csv(layout_copy / "eval" / "info.csv", lambda table: pd.concat([table, table.head(1)]))
    run_tiny().assert_one_line_error("test set", "more than once")


def test_empty_test_set(run_tiny, layout_copy, edit_csv):
    edit_csv(layout_copy / "eval" / "info.csv", lambda table: table.head(0))
    run_tiny().assert_one_line_error("test set", "no image")


def test_fewer_groups_than_folds(run_tiny, tmp_path):
    run_tiny("--folds", "13").assert_one_line_error("--folds 13", "only 12 people")
    assert not (tmp_path / "out").exists()


def test_a_class_with_fewer_groups_than_folds_is_a_warning(run_tiny):
    # Each combination of gender and age has two people.
    done = run_tiny("--folds", "3")
    assert done.code == 0, done.err
    assert "fewer people than the 3 folds" in done.out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--backbone", "test_efficientnett"], ["did you mean test_efficientnet"]),
        (["--backbone", "hf-hub:timm/resnet18.a1_in1k"], ["pass --backbone resnet18.a1_in1k"]),
        (["--backbone", "resnet18.nonsense"], ["no weights with the tag nonsense"]),
        (["--opt", "adamz"], ["--opt adamz", "did you mean adam"]),
        (["--opt", "adafactor", "--sched", "onecycle", "--lr", "nan"], ["--lr nan"]),
        (["--tta", "hflp"], ["--tta hflp", "did you mean hflip"]),
        (["--metric", "f1_marco"], ["--metric f1_marco", "did you mean f1_macro"]),
        (["--device", "cuda:7"], ["--device cuda:7", "--device cpu"]),
        (["--device", "abacus"], ["--device abacus"]),
        (["--weights", "/nowhere.pth"], ["/nowhere.pth", "--weights"]),
        (["--drop-path", "0.1", "--backbone", "vgg11"], ["--drop-path", "vgg11"]),
        (["--backbone", "test_vit", "--img-size", "33"], ["--img-size"]),
    ],
)
def test_wrong_values_of_flags(run_tiny, tmp_path, monkeypatch, argv, words):
    # The hub is not asked, several times, over a network that tests may not have.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    run_tiny(*argv).assert_one_line_error(*words)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_a_run(run_tiny, tmp_path):
    (tmp_path / "out" / "mine").mkdir(parents=True)
    (tmp_path / "out" / "mine" / "thesis.txt").write_text("x")
    why = "exists and is not a run folder"
    run_tiny("--name", "mine").assert_one_line_error(why, "--name")
    run_tiny("--name", "mine", "--no-resume").assert_one_line_error(why)
    assert (tmp_path / "out" / "mine" / "thesis.txt").exists()


def test_a_leaky_split_is_marked(run_tiny, tmp_path):
    done = run_tiny("--split", "stratified")
    assert "leaks people between folds" in done.out
    report = Run(tmp_path / "out" / "copy_test_efficientnet").report
    assert any("people" in note and "too high" in note for note in report["notes"])


def test_hub_out_of_reach(cv_command, layout_copy, tmp_path, monkeypatch, tiny_layout):
    """Check that real data give an error, and the demo set a warning and random weights."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    argv = [
        "--output",
        tmp_path / "out",
        *TINY,
        "--pretrained",
        "auto",
        "--backbone",
        "test_resnet",
    ]
    cv_command("--data", layout_copy, *argv).assert_one_line_error(
        "test_resnet", "cannot be reached", "--pretrained none", "--weights FILE"
    )
    monkeypatch.setattr("folds.data.source.make_demo", lambda: tiny_layout)
    done = cv_command("--data", "demo", *argv)
    assert done.code == 0, done.err
    assert "random weights" in done.out


@pytest.mark.slow
def test_no_traceback_from_the_shell(tmp_path):
    command = [
        sys.executable,
        "run_cv.py",
        "--data",
        str(tmp_path),
        "--output",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_disk_full_is_one_line(run_tiny, monkeypatch, tmp_path):
    import errno

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "oof.parquet")

    monkeypatch.setattr("pipeline.fold_files.write_table", full)
    run_tiny().assert_one_line_error("oof.parquet", "No space left")
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "out")


@pytest.fixture
def run_csv(cv_command, tmp_path):
    """Return a function that runs run_cv.py on small images, one for each (label, group)."""

    def run(rows, *argv):
        rng = np.random.default_rng(0)
        table = pd.DataFrame(rows, columns=["label", "who"])
        table.insert(0, "image", [f"{index}.png" for index in range(len(rows))])
        for name in table["image"]:
            cv2.imwrite(str(tmp_path / name), rng.integers(0, 255, (32, 32, 3), dtype=np.uint8))
        table.to_csv(tmp_path / "any.csv", index=False)
        flags = [
            "--csv",
            tmp_path / "any.csv",
            "--output",
            tmp_path / "out",
            "--name",
            "any",
            *TINY,
        ]
        return cv_command(*flags, "--backbone", "test_resnet", *argv), tmp_path / "out" / "any"

    return run


def test_one_image_per_group(run_csv):
    done, folder = run_csv(
        [("ab"[index % 2], f"p{index}") for index in range(12)], "--group-col", "who"
    )
    assert done.code == 0, done.err
    assert Run(folder).oof.groupby("fold").size().tolist() == [6, 6]
    assert np.isfinite(Run(folder).logits(Run(folder).oof)).all()


def test_a_class_of_one_group_is_a_warning_and_every_fold_is_scored(run_csv):
    rows = [("ab"[index % 2], f"p{index // 3}") for index in range(15)] + [("rare", "p9")]
    done, folder = run_csv(rows, "--group-col", "who", "--folds", "3")
    assert done.code == 0, done.err
    assert "warning: classes with fewer groups than the 3 folds" in done.out
    assert "'rare' (1 group)" in done.out
    assert Run(folder).oof["fold"].nunique() == 3
    assert np.isfinite(Run(folder).logits(Run(folder).oof)).all()


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], ["any.csv", "has no row with an image"]),
        ([("a", "p"), ("a", "q"), ("a", "r")], ["any.csv", "has 1 class"]),
        ([("a", "p"), ("b", "p"), ("a", "p")], ["all images are of one group", "--group-col"]),
        (
            [("a", "p"), ("b", " "), ("a", "q")],
            ["any.csv", "'who' (--group-col)", "blank in line 3"],
        ),
        ([("a", "p"), ("b", "q"), ("a", "q")], ["--folds 3", "only 2 groups", "--folds 2"]),
    ],
)
def test_tables_that_cannot_be_split(run_csv, rows, words):
    done, folder = run_csv(rows, "--group-col", "who", "--folds", "3")
    done.assert_one_line_error(*words)
    assert not folder.exists()
