"""Bad input of --teacher and --pseudo-from: one line that names the flag and the cure."""

import shutil

import pandas as pd
import pytest

import plan
import tune
from foldblend.runs.folder import read_json, write_json
from foldblend.runs.run import Run
from tests.makers.constants import ROOT, TINY

SMALL = [*TINY[2:], "--finetune", "head", "--backbone", "test_resnet", "--head-l2", "0.1"]


@pytest.fixture
def command(cv_command, tiny_layout, runs_copy):
    """Return run_cv.py with small settings on the tiny data, which writes beside two runs."""

    def run(*flags, data=tiny_layout):
        return cv_command("--data", data, "--output", runs_copy, *SMALL, *flags)

    return run


def teacher(runs, name="beta"):
    return ("--teacher", runs / name, "--name", "made")


def test_settings_that_contradict_each_other(command, runs_copy):
    beta = runs_copy / "beta"
    for flags, words in (
        (("--teacher", beta, "--pseudo-from", beta), ("--teacher with --pseudo-from", "pass one")),
        (("--teacher", beta, "--teacher-share", "0"), ("--teacher-share 0", "more than 0")),
        (("--teacher", beta, "--teacher-temperature", "0"), ("--teacher-temperature", "above 0")),
        (("--pseudo-from", beta, "--pseudo-threshold", "1"), ("--pseudo-threshold 1", "less")),
        (("--pseudo-from", beta, "--pseudo-rounds", "0"), ("--pseudo-rounds 0", "1 or more")),
        (("--pseudo-from", beta, "--pseudo-rounds", "2"), ("--pseudo-rounds 2", "--name")),
        (
            ("--pseudo-from", beta, "--pseudo-rounds", "2", "--name", "a", "--only-folds", "0"),
            ("--only-folds with --pseudo-rounds", "leave one of them out"),
        ),
        (("--teacher", beta, "--loss", "f1"), ("--loss f1 with --teacher", "leave out one")),
        (("--teacher", beta, "--refit", "full"), ("--refit full with --teacher", "refit soup")),
    ):
        command(*flags).assert_one_line_error(*words)


def test_a_teacher_that_does_not_fit(command, runs_copy, tiny_layout, layout_copy, edit_csv):
    command("--teacher", runs_copy / "gone").assert_one_line_error("--teacher", "gone", "not a run")
    command(*teacher(runs_copy), "--folds", "3").assert_one_line_error(
        "--teacher", "beta", "has 2 folds", "--fold-file"
    )
    command(*teacher(runs_copy), "--folds", "2", "--split-seed", "5").assert_one_line_error(
        "--teacher", "other folds", "--fold-file"
    )
    command("--teacher", runs_copy / "beta", "--name", "beta").assert_one_line_error(
        "--teacher", "is the run itself", "--name"
    )
    edit_csv(layout_copy / "train" / "train.csv", lambda table: table.iloc[:-1])
    command(*teacher(runs_copy), data=layout_copy).assert_one_line_error(
        "--teacher", "other images", "pass a run on the same data"
    )
    assert not (runs_copy / "made").exists()


def test_a_teacher_of_other_classes(cv_command, runs_copy, tiny_layout, tmp_path):
    files = sorted((tiny_layout / "train" / "images").glob("*/normal.*"))
    table = pd.DataFrame({"image": files, "label": [index % 2 for index in range(len(files))]})
    table.to_csv(tmp_path / "other.csv", index=False)
    flags = ("--output", runs_copy, *SMALL, *teacher(runs_copy))
    cv_command("--csv", tmp_path / "other.csv", *flags).assert_one_line_error(
        "--teacher", "other classes", "same data"
    )


def test_a_teacher_that_is_not_finished_or_was_imported(command, runs_copy):
    info = read_json(runs_copy / "beta/run.json")
    write_json(runs_copy / "beta/run.json", info | {"status": "running"})
    command(*teacher(runs_copy)).assert_one_line_error("--teacher", "not finished")
    write_json(runs_copy / "beta/run.json", info | {"imported_runs": ["other"]})
    command(*teacher(runs_copy)).assert_one_line_error("--teacher", "imported", "other")


def test_images_without_labels_that_are_absent(command, runs_copy, layout_copy, tmp_path):
    absent = command(*teacher(runs_copy), "--unlabelled", tmp_path / "gone.csv")
    absent.assert_one_line_error("gone.csv", "--unlabelled", "correct the path")
    (tmp_path / "empty").mkdir()
    empty = command(*teacher(runs_copy), "--unlabelled", tmp_path / "empty")
    empty.assert_one_line_error("--unlabelled", "no image")
    shutil.rmtree(layout_copy / "eval")
    for flags in (
        ("--pseudo-from", runs_copy / "beta"),
        ("--teacher", runs_copy / "beta", "--unlabelled", "test"),
    ):
        command(*flags, data=layout_copy).assert_one_line_error("--unlabelled test", "--test")
    assert not (runs_copy / "made").exists()


def test_damaged_images_without_labels(command, runs_copy, layout_copy, tmp_path):
    """They stop the command, or are skipped where the user asks for that."""
    images = sorted((layout_copy / "eval").rglob("*.png")) or sorted(
        (layout_copy / "eval").rglob("*.jpg")
    )
    more = tmp_path / "more"
    more.mkdir()
    for image in images[:2]:
        shutil.copy(image, more)
    (more / images[0].name).write_bytes(images[0].read_bytes()[:60])
    given = (*teacher(runs_copy), "--unlabelled", more)
    command(*given).assert_one_line_error(images[0].name, "--on-bad-image skip")
    made = command(*given, "--on-bad-image", "skip")
    assert made.code == 0, made.err
    assert "--unlabelled: skipped 1 unreadable image" in made.out
    assert Run(runs_copy / "made").info["labels"]["num_unlabelled"] == 1
    shutil.copy(more / images[0].name, more / images[1].name)
    none = command(*given, "--on-bad-image", "skip", "--name", "none")
    none.assert_one_line_error("--unlabelled", "no image is left")


def test_no_label_above_the_threshold(command, runs_copy):
    found = command("--pseudo-from", runs_copy / "beta", "--name", "made")
    found.assert_one_line_error("--pseudo-threshold 0.9", "fold 0", "highest probability", "lower")
    assert not [*(runs_copy / "made").glob("fold_*")]
    # The same name is free for the next try.
    again = command(
        "--pseudo-from", runs_copy / "beta", "--name", "made", "--pseudo-threshold", "0.02"
    )
    assert again.code == 0, again.err
    assert Run(runs_copy / "made").info["labels"]["threshold"] == 0.02


def test_a_run_is_not_resumed_with_other_labels(command, runs_copy):
    assert command(*teacher(runs_copy)).code == 0
    command(*teacher(runs_copy, "alpha")).assert_one_line_error(
        "was made with another --teacher", "--name made-2"
    )
    command("--folds", "2", "--name", "made").assert_one_line_error("another --teacher", "--name")
    assert command(*teacher(runs_copy)).code == 0


def test_marks_of_a_teacher_pass_on(command, runs_copy):
    info = read_json(runs_copy / "beta/run.json")
    search = {
        "study": "s",
        "trial": "trial_1",
        "num_trials": 9,
        "num_configurations": 9,
        "optimism": {"value": 0.01, "error": 0.005},
    }
    write_json(runs_copy / "beta/run.json", info | {"optimistic": True, "search": search})
    assert command(*teacher(runs_copy)).code == 0
    made = Run(runs_copy / "made").info
    assert made["optimistic"]
    assert made["searches"] == {"beta": search}
    assert any("OPTIMISTIC" in note and "beta" in note for note in made["notes"])
    assert any("9 trials" in note for note in made["notes"])


@pytest.mark.parametrize(
    ("main", "flags"),
    [
        (plan.main, ("--time-limit", "1m")),
        (tune.main, ("--trials", "1", "--space", ROOT / "recipes" / "space.yaml")),
    ],
    ids=["plan", "tune"],
)
def test_plans_and_searches_take_no_labels(main, flags, command_of, tiny_layout, runs_copy):
    given = ("--data", tiny_layout, "--output", runs_copy, *TINY, *flags)
    found = command_of(main)(*given, "--teacher", runs_copy / "beta")
    found.assert_one_line_error("--teacher", "leave it out")
