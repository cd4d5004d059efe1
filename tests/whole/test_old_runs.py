"""Tests that runs of an earlier commit can be read, resumed, augmented, blended and reported."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

import blend
import leaderboard
import report
import run_cv
import run_tta
from ensemble.parameters_file import PARAMETERS
from ensemble.saved import load_blend
from foldblend.runs.run import Run
from pipeline.predict.config import PredictConfig
from pipeline.predict.inputs import read_inputs
from pipeline.predict.run import Prediction
from pipeline.predict.session import open_session
from tests.makers.constants import TINY
from tests.makers.old_runs import commands_of, make_old_runs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def old(tiny_layout, tmp_path_factory):
    """Return outputs/ as the earlier commit left it."""
    try:
        return make_old_runs(tmp_path_factory.mktemp("old"), tiny_layout)
    except FileNotFoundError as error:
        pytest.skip(f"the earlier commit is not in this clone: {error}")


def succeed(main, *argv):
    assert main([str(word) for word in argv]) == 0


def equal(one, other):
    pd.testing.assert_frame_equal(one.oof, other.oof, check_exact=True)
    pd.testing.assert_frame_equal(one.test, other.test, check_exact=True)


def same(one, other):
    """Assert equal logits but for the last bits: new runs are predicted in full batches."""
    pd.testing.assert_frame_equal(one.oof, other.oof, check_exact=False, rtol=0, atol=2e-5)
    pd.testing.assert_frame_equal(one.test, other.test, check_exact=False, rtol=0, atol=2e-5)


def test_a_run_that_the_old_code_left_in_mid_fold_resumes_to_the_same_bits(
    old, tiny_layout, capsys
):
    info = json.loads((old / "killed" / "run.json").read_text())
    succeed(run_cv.main, *commands_of(old, tiny_layout)["killed"])
    assert "fold 1: continued at epoch" in capsys.readouterr().out
    run = Run(old / "killed")
    whole = Run(old / "whole")
    assert run.info["run_key"] == info["run_key"] == whole.info["run_key"]
    equal(run, whole)


@pytest.mark.parametrize("name", ["plain", "flipped", "frozen", "whole"])
def test_the_same_command_again_has_nothing_to_do(old, tiny_layout, name, capsys):
    run = Run(old / name)
    oof = run.oof
    test = run.test
    info = run.info
    keys = (old / name / "fold_0" / "done.json").read_bytes()
    config = (old / name / "config.yaml").read_bytes()
    succeed(run_cv.main, *commands_of(old, tiny_layout)[name])
    again = Run(old / name)
    assert again.info["run_key"] == info["run_key"]
    assert again.info["finished"] == info["finished"]
    assert (old / name / "fold_0" / "done.json").read_bytes() == keys
    assert (old / name / "config.yaml").read_bytes() == config
    pd.testing.assert_frame_equal(again.oof, oof, check_exact=True)
    pd.testing.assert_frame_equal(again.test, test, check_exact=True)


@pytest.mark.parametrize("name", ["plain", "flipped", "frozen"])
def test_the_new_code_trains_a_run_to_the_same_bits(old, tiny_layout, name, tmp_path):
    words = [tmp_path if word == old else word for word in commands_of(old, tiny_layout)[name]]
    succeed(run_cv.main, *words)
    run = Run(tmp_path / name)
    before = Run(old / name)
    assert run.info["run_key"] == before.info["run_key"]
    same(run, before)


def test_new_images_are_predicted_as_the_old_code_predicted_the_test_set(
    old, tiny_layout, tmp_path
):
    """Bit for bit, but for heads on a frozen backbone, which were saved with 32 bits."""
    # The blend is refitted in its folder, which other tests look at.
    outputs = shutil.copytree(old, tmp_path / "outputs")
    images = tiny_layout / "eval" / "images"
    for name, close in (("plain", 0), ("flipped", 0), ("frozen", 1e-6), ("soft", 1e-6)):
        run = Run(outputs / name)
        table = run.test.set_index("image_id")
        config = PredictConfig(run=str(run.path))
        session = open_session(run.path, config, say=lambda line: None)
        paths = [str(images / image) for image in table.index]
        inputs = read_inputs(paths, config.reading({}), run.classes)
        _, found_NC, _ = Prediction(session, inputs, config, say=lambda line: None).logits()
        np.testing.assert_allclose(found_NC, run.logits(table), rtol=0, atol=close)


def test_the_old_cache_is_used(old, tiny_layout, tmp_path, capsys):
    words = [tmp_path if word == old else word for word in commands_of(old, tiny_layout)["frozen"]]
    succeed(run_cv.main, *words)
    assert "126 of them from the cache" in capsys.readouterr().out
    cached = {
        file: file.stat().st_mtime_ns
        for file in (old.parent / "cache" / "pictures").rglob("records*")
    }
    assert cached
    words = [tmp_path if word == old else word for word in commands_of(old, tiny_layout)["plain"]]
    succeed(run_cv.main, *words)
    assert {file: file.stat().st_mtime_ns for file in cached} == cached


def test_a_config_file_of_the_old_code_repeats_its_run(old, tmp_path):
    succeed(
        run_cv.main, "--config", old / "plain" / "config.yaml", "--output", tmp_path, "--no-page"
    )
    run = Run(tmp_path / "plain")
    before = Run(old / "plain")
    assert run.info["run_key"] == before.info["run_key"]
    same(run, before)


def test_views_of_an_old_run_are_kept_and_others_added(old):
    before = Run(old / "plain_tta").oof
    kept = (old / "plain" / "tta").glob("further_*")
    times = {file: file.stat().st_mtime_ns for file in kept}
    assert times
    succeed(run_tta.main, old / "plain", "--views", "hflip,vflip", "--no-page")
    pd.testing.assert_frame_equal(Run(old / "plain_tta").oof, before, check_exact=True)
    assert {file: file.stat().st_mtime_ns for file in times} == times
    succeed(
        run_tta.main, old / "plain", "--views", "hflip,rotate:5", "--name", "turned", "--no-page"
    )
    assert Run(old / "turned").info["views"] == ["identity", "hflip", "rotate:5"]


@pytest.mark.parametrize("name", ["soft", "greedy"])
def test_old_blends_are_refitted_once_when_they_are_read(old, name, tmp_path):
    outputs = shutil.copytree(old, tmp_path / "outputs")
    assert not (outputs / name / PARAMETERS).exists()
    said = []
    loaded = load_blend(outputs / name, say=said.append)
    assert len(said) == 1
    assert "refitted from its members, and the file was written" in said[0]
    members = [Run(outputs / one.name) for one in loaded.members]
    folds = [
        [run.logits(run.test_fold(fold)) for run in members]
        for fold in range(members[0].info["num_test_folds"])
    ]
    run = Run(outputs / name)
    found = loaded.table(run.test["image_id"], folds)
    pd.testing.assert_frame_equal(found, run.test, check_exact=True)
    shutil.rmtree(members[0].path)
    assert load_blend(outputs / name, say=said.append).shares == loaded.shares
    assert len(said) == 1


@pytest.mark.parametrize("name", ["soft", "greedy"])
def test_old_blends_are_reproduced_to_the_bit(old, name, tmp_path):
    before = Run(old / name)
    members = [old / one for one in ("plain_tta", "flipped", "frozen")]
    succeed(blend.main, *members, "--method", name, "--name", name, "--no-page")
    assert Run(old / name).info["run_key"] == before.info["run_key"]
    succeed(
        blend.main,
        "--config",
        old / name / "blend.yaml",
        "--output",
        tmp_path,
        "--name",
        name,
        "--no-page",
    )
    equal(Run(tmp_path / name), before)


def test_old_runs_are_compared_and_their_reports_written_again(old, tmp_path):
    every = sorted(folder for folder in old.iterdir() if (folder / "run.json").is_file())
    succeed(leaderboard.main, *every, "--no-page", "--json", tmp_path / "board.json")
    [board] = json.loads((tmp_path / "board.json").read_text())["boards"]
    assert {row["name"] for row in board["rows"]} >= {
        "plain",
        "flipped",
        "frozen",
        "plain_tta",
        "soft",
        "greedy",
    }
    before = json.loads((old / "flipped" / "report.json").read_text())
    (old / "flipped" / "report.json").unlink()
    succeed(report.main, old / "flipped", "--no-page")
    assert json.loads((old / "flipped" / "report.json").read_text()) == before


@pytest.mark.filterwarnings("ignore:.* is now:FutureWarning")
def test_custom_parts_for_the_old_code_run(old, tiny_layout, tmp_path, monkeypatch):
    """Run the old example of custom parts, which imports modules under their former names."""
    (tmp_path / "former_parts.py").write_text(
        (old.parent / "code" / "examples" / "own_parts.py").read_text()
    )
    monkeypatch.syspath_prepend(tmp_path)
    shared = ["--output", tmp_path / "out", "--pretrained", "none", *TINY]
    parts = ["--backbone", "former_parts:TinyNet", "--augment", "former_parts:Shuffled"]
    parts += ["--loss", "0.5*ce+0.5*former_parts:Brier", "--sched", "former_parts:HalfCosine"]
    succeed(run_cv.main, "--data", tiny_layout, "--name", "parts", *parts, *shared)
    for index, image in enumerate(sorted(tiny_layout.glob("train/images/*/normal.jpg"))):
        folder = tmp_path / "images" / ("cat" if index % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{index // 2}_{index}.jpg").write_bytes(image.read_bytes())
    reader = [
        "--dataset",
        "former_parts:read_folders",
        "--data",
        tmp_path / "images",
        "--backbone",
        "test_resnet",
    ]
    succeed(run_cv.main, "--name", "reader", *reader, *shared)
    assert Run(tmp_path / "out" / "reader").classes == ("cat", "dog")
