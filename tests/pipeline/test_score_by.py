"""A run, its TTA'd run and a blend, scored by group from the command line on."""

import csv
from pathlib import Path

import pandas as pd
import pytest

from ensemble.blend import blend
from foldblend.errors import UserError
from foldblend.runs.run import Run
from pipeline.cv import cross_validate
from pipeline.run_tta import run_tta

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
    """Print nothing."""


def write_tables(layout, folder):
    """Write tables of the genders of the demo's people, each of which has several images."""
    for part, files in (
        ("train", sorted(layout.glob("train/images/*/[mn]*.jpg"))),
        ("test", sorted(layout.glob("train/images/*/inc*.jpg"))),
    ):
        with (folder / f"{part}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["image", "label", "person" if part == "train" else "who"])
            for index, one in enumerate(files):
                person = one.parent.name
                who = person if part == "train" else f"t{index // 3}"
                rows.writerow([str(one), person.split("_")[1], who])


@pytest.fixture(scope="module")
def made(tiny_layout, tmp_path_factory):
    """Return the settings of a finished run on people's genders, scored by image."""
    folder = tmp_path_factory.mktemp("score_by")
    write_tables(tiny_layout, folder)
    settings = SMALL | {
        "csv": str(folder / "train.csv"),
        "group_col": "person",
        "group_name": "person",
        "test": str(folder / "test.csv"),
        "test_group_col": "who",
        "output": str(folder / "outputs"),
        "name": "one",
    }
    run = cross_validate(settings, say=quiet)
    assert run.report["score_by"] == "image"
    return settings


def test_a_finished_run_takes_the_score_by_group_without_training(made):
    before = Run(Path(made["output"]) / "one")
    oof_hash = before.oof_hash
    [of_class] = before.report["by_group"]["scores"]
    lines = []
    run = cross_validate(made | {"score_by": "group"}, say=lines.append)
    assert any("finished before" in line for line in lines)
    assert run.oof_hash == oof_hash
    assert (run.info["score_by"], run.info["group_pool"]) == ("group", "mean")
    assert run.report["headline"] == of_class["by_group"]
    assert any(line.startswith("OOF macro F1 by person") for line in lines)
    again = cross_validate(made, say=quiet)
    assert again.report["headline"] == of_class["by_image"]
    assert "score_by" not in again.info


def test_groups_of_test_images_reach_the_predictions_of_tta_and_blends(made):
    one = cross_validate(made | {"score_by": "group"}, say=quiet)
    tta = run_tta(one.path, views="hflip", name="tta", page=False, say=quiet)
    assert tta.info["score_by"] == "group"
    by_image = run_tta(
        one.path, views="hflip", score_by="image", name="tta2", page=False, say=quiet
    )
    assert "score_by" not in by_image.info
    assert by_image.info["run_key"] != tta.info["run_key"]
    both = blend([one, tta], method="soft", name="both", page=False, say=quiet)
    assert both.info["score_by"] == "group"
    for run in (one, tta, both):
        table = pd.read_csv(run.path / "predictions_by_group.csv")
        test = table[table["part"] == "test"]
        assert test["group"].tolist() == ["t0", "t1", "t2", "t3"]
        assert (test["num_images"] == 3).all()
        assert run.report["test_score"]["score_by"] == "image"


def test_people_with_images_of_two_classes_are_refused_before_training(
    cv_command, tiny_layout, tmp_path
):
    output = tmp_path / "outputs"
    done = cv_command("--data", tiny_layout, "--score-by", "group", "--output", output)
    done.assert_one_line_error("--score-by group", "has images of more than one class")
    assert not output.exists()


def test_the_column_of_test_groups_must_be_there(made, tmp_path):
    with pytest.raises(UserError, match=r"no column 'whom' \(--test-group-col\)"):
        cross_validate(made | {"test_group_col": "whom", "name": "two"}, say=quiet)
    images = str(tmp_path)
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"^--test-group-col who: .* is no table"):
        cross_validate(made | {"test": images, "name": "two"}, say=quiet)
