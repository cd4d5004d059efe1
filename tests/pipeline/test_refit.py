"""Models of all rows that join a run: their share of test logits, and what stays the folds'."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import foldblend as fb
import pipeline.complete as complete
import pipeline.training.full_training as full_training
import pipeline.training.soup_of_folds as soup_of_folds
from foldblend.errors import UserError
from foldblend.runs.refit import with_refits
from foldblend.runs.run import Run
from foldblend.scores.metrics import METRICS
from pipeline.models.timm_import import timm
from pipeline.predict.config import PredictConfig
from pipeline.predict.inputs import read_inputs
from pipeline.predict.run import Prediction
from pipeline.predict.session import open_session

BACKBONE = "test_efficientnet"
SMALL: dict[str, Any] = {
    "backbone": BACKBONE,
    "folds": 3,
    "epochs": 1,
    "img_size": "32",
    "threads": 1,
    "workers": 0,
    "page": False,
}
KINDS = (
    *("full", "soup", "only", "two"),
    *("frozen_full", "frozen_soup", "full_tta", "soup_tta", "both"),
)
SHARES = [("full", 0.25), ("soup", 1), ("only", 1), ("two", 0.5)]


def silent(_: str) -> None:
    pass


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a file of weights that the models of all folds begin with."""
    file = tmp_path_factory.mktemp("start") / "start.safetensors"
    torch.manual_seed(0)
    safetensors.torch.save_file(timm.create_model(BACKBONE).state_dict(), file)
    return str(file)


@pytest.fixture(scope="module")
def settings(start: str, tiny_layout: Path) -> dict[str, Any]:
    small = {name: value for name, value in SMALL.items() if value is not None}
    return {**small, "weights": start, "data": str(tiny_layout), "say": silent}


@pytest.fixture(scope="module")
def outputs(settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a run, and copies of it with each kind of refit; TTA'd runs and a blend of them."""
    made = tmp_path_factory.mktemp("made") / "outputs"
    common = {**settings, "output": str(made)}
    fb.cross_validate(**common, tta="hflip", name="plain")
    patch = pytest.MonkeyPatch()
    # Models that have learned little may have a mean that is worse than one of them.
    patch.setattr(soup_of_folds, "check_fits", lambda *_: None)
    asked: dict[str, dict[str, Any]] = {
        "full": {"refit": "full"},
        "soup": {"refit": "soup"},
        "only": {"refit": "full", "refit_share": 1},
        "two": {"refit": "full", "refit_models": 2, "refit_share": 0.5},
    }
    for name, refit in asked.items():
        shutil.copytree(made / "plain", made / name)
        fb.cross_validate(**common, tta="hflip", name=name, **refit)
    for kind in ("full", "soup"):
        fb.cross_validate(**common, finetune="head", name=f"frozen_{kind}", refit=kind)
    patch.undo()
    short = {"page": False, "say": silent}
    for kind in ("full", "soup"):
        fb.run_tta(made / kind, views="vflip,gamma:1.2", merge="prob", name=f"{kind}_tta", **short)
    members = [made / name for name in ("full", "soup_tta", "frozen_full", "plain")]
    fb.blend(members, method="tempered", name="both", **short)
    return made


def predicted(place: Path, images: Path) -> tuple[list[str], np.ndarray]:
    """Return the ids and logits that a run or file predicts."""
    config = PredictConfig(run=str(place))
    session = open_session(place, config, say=silent)
    inputs = read_inputs(str(images), config.reading(session.predictor.settings), ())
    _, logits_NC, _ = Prediction(session, inputs, config, say=silent).logits()
    return inputs.ids, logits_NC


def test_the_folds_and_their_score_stay_as_they_are(outputs):
    plain = Run(outputs / "plain")
    for name in ("full", "soup", "only", "two"):
        run = Run(outputs / name)
        for file in ("oof.parquet", "fold_1/best.safetensors", "test_fold_2.parquet", "folds.csv"):
            assert (plain.path / file).read_bytes() == (run.path / file).read_bytes()
        assert plain.report["headline"] == run.report["headline"]
        assert any("the score is theirs" in note for note in run.info["notes"])


@pytest.mark.parametrize(("name", "share"), SHARES)
def test_refits_have_the_stated_share_of_the_test_logits(outputs, name, share):
    plain = Run(outputs / "plain")
    run = Run(outputs / name)
    assert run.info["refit"]["share"] == share
    num = len(run.info["refit"]["models"])
    own = plain.logits(plain.test).astype(float)
    added = np.mean([run.logits(run.table(f"test_refit_{one}")) for one in range(num)], axis=0)
    wanted = (1 - share) * own + share * added
    np.testing.assert_allclose(run.logits(run.test), wanted, atol=1e-5)
    assert np.abs(own - added).max() > 1e-3
    # Each fold's logits have the same share, so that what is fitted on folds keeps it.
    folds = [run.logits(run.test_fold(fold)).astype(float) for fold in range(3)]
    np.testing.assert_allclose(np.mean(folds, axis=0), wanted, atol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_folders_and_files_predict_as_the_test_table_has_it(outputs, tiny_layout, name, tmp_path):
    """Bit for bit, also where the folds' models are not in the file."""
    run = Run(outputs / name)
    file = fb.export_model(run, tmp_path / "a.zip", say=silent)
    for place in (run.path, file):
        ids, logits_NC = predicted(place, tiny_layout / "eval" / "images")
        wanted = run.logits(run.test.set_index("image_id").loc[ids])
        np.testing.assert_array_equal(logits_NC, wanted)
    names = zipfile.ZipFile(file).namelist()
    of_folds = [one for one in names if "/fold_" in one]
    assert bool(of_folds) == (name not in ("soup", "only", "frozen_soup", "soup_tta"))


def test_chosen_folds_predict_without_the_refit(outputs, tiny_layout):
    """A refit has trained on the held-out rows of every fold."""
    run = Run(outputs / "full")
    found = fb.predict(run.path, str(tiny_layout / "eval" / "images"), folds="1", say=silent)
    other = fb.predict(
        outputs / "plain", str(tiny_layout / "eval" / "images"), folds="1", say=silent
    )
    columns = [one for one in found if one.startswith("proba_")]
    np.testing.assert_array_equal(found[columns], other[columns])


@pytest.mark.parametrize("name", ["full", "only"])
def test_exported_folds_have_no_refit(outputs, tiny_layout, tmp_path, name):
    file = fb.export_model(Run(outputs / name), tmp_path / "a.zip", folds="1", say=silent)
    assert not [one for one in zipfile.ZipFile(file).namelist() if "refit" in one]
    images = str(tiny_layout / "eval" / "images")
    found = fb.predict(file, images, say=silent)
    other = fb.predict(outputs / "plain", images, folds="1", say=silent)
    columns = [one for one in found if one.startswith("proba_")]
    np.testing.assert_allclose(found[columns], other[columns], rtol=1e-6)
    # The refit is no fold.
    with pytest.raises(UserError, match=r"--folds 3: .* has 3 models, numbered from 0"):
        fb.export_model(Run(outputs / name), tmp_path / "b.zip", folds="3", say=silent)


def test_a_file_of_refits_alone_has_no_folds_to_choose(outputs, tiny_layout, tmp_path):
    file = fb.export_model(Run(outputs / "only"), tmp_path / "a.zip", say=silent)
    with pytest.raises(UserError, match=r"a\.zip: has no models of the folds.*leave --folds out"):
        fb.predict(file, str(tiny_layout / "eval" / "images"), folds="1", say=silent)


def test_the_same_command_trains_nothing_again_and_keeps_the_refit(outputs, settings):
    run = Run(outputs / "two")
    before = {file: file.stat().st_mtime_ns for file in run.path.rglob("best.safetensors")}
    test = (run.path / "test.parquet").read_bytes()
    said: list[str] = []
    common = {**settings, "output": str(outputs), "tta": "hflip", "say": said.append}
    fb.cross_validate(**common, name="two")
    assert any("nothing was trained" in line for line in said)
    assert (run.path / "test.parquet").read_bytes() == test
    assert before == {file: file.stat().st_mtime_ns for file in run.path.rglob("best.safetensors")}
    assert Run(run.path).settings["refit"] == "full"


def test_the_share_can_be_changed_and_the_refit_left_out(outputs, settings, tmp_path):
    shutil.copytree(outputs / "two", tmp_path / "two")
    common = {**settings, "output": str(tmp_path), "tta": "hflip", "name": "two"}
    weights = (tmp_path / "two" / "refit_1" / "best.safetensors").stat().st_mtime_ns
    run = fb.cross_validate(**common, refit_share=0.1)
    assert run.info["refit"]["share"] == 0.1
    assert (run.path / "refit_1" / "best.safetensors").stat().st_mtime_ns == weights
    run = fb.cross_validate(**common, refit="none")
    assert "refit" not in run.info
    plain = Run(outputs / "plain")
    assert (run.path / "test.parquet").read_bytes() == (plain.path / "test.parquet").read_bytes()


def test_a_damaged_refit_is_made_again(outputs, settings, tmp_path):
    shutil.copytree(outputs / "full", tmp_path / "full")
    file = tmp_path / "full" / "refit_0" / "best.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(UserError, match=r"refit_0/best\.safetensors: has changed"):
        predicted(tmp_path / "full", Path(settings["data"]) / "eval" / "images")
    said: list[str] = []
    common = {**settings, "output": str(tmp_path), "tta": "hflip", "say": said.append}
    fb.cross_validate(**common, name="full")
    assert any("damaged" in line and "refit_0" in line for line in said)
    assert file.read_bytes() == whole


def test_folds_that_begin_with_random_weights_have_no_soup(settings, tmp_path):
    with pytest.raises(UserError, match=r"--refit soup: .* different random weights"):
        fb.cross_validate(
            **{**settings, "weights": None},
            pretrained="none",
            output=str(tmp_path),
            name="a",
            refit="soup",
        )
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("metric", "soup", "one", "fits"),
    [
        ("f1_macro", 0.5, 0.5, True),
        ("f1_macro", 0.49, 0.5, False),
        ("log_loss", 0.49, 0.5, True),
        ("log_loss", 0.51, 0.5, False),
        # A metric that is not defined says nothing.
        ("roc_auc_ovr", float("nan"), 0.5, True),
    ],
)
def test_a_soup_fits_the_training_images_as_one_of_its_models_does(metric, soup, one, fits):
    if fits:
        soup_of_folds.check_fits(soup, one, METRICS[metric])
        return
    with pytest.raises(UserError, match="too far apart for a mean; pass --refit full or none"):
        soup_of_folds.check_fits(soup, one, METRICS[metric])


def test_models_that_are_too_far_apart_leave_the_run_complete(
    outputs, settings, tmp_path, monkeypatch
):
    """Models of other starts, which no mean of weights can join."""
    shutil.copytree(outputs / "plain", tmp_path / "a")
    plain = Run(outputs / "plain")
    scores = iter([0.9, 0.1])
    monkeypatch.setattr(soup_of_folds, "_seen_score", lambda *_: next(scores))
    common = {**settings, "output": str(tmp_path), "tta": "hflip", "name": "a"}
    with pytest.raises(UserError, match="the run is complete without the refit"):
        fb.cross_validate(**common, refit="soup")
    run = Run(tmp_path / "a")
    assert run.info["status"] == "done"
    assert not (run.path / "refit_0").exists()
    assert (run.path / "test.parquet").read_bytes() == (plain.path / "test.parquet").read_bytes()


def test_no_refit_leaves_logits_as_they_are():
    logits_NC = np.ones((2, 3), np.float32)
    assert with_refits(logits_NC, [], 0.5) is logits_NC


def test_a_refit_of_select_inner_ends_at_the_median_epoch_of_the_folds(settings, tmp_path):
    common = {**settings, "epochs": 3, "output": str(tmp_path), "name": "a", "select": "inner"}
    run = fb.cross_validate(**common, refit="full")
    chosen = sorted(fold["epoch"] for fold in run.info["folds"])
    assert run.info["refit"]["models"][0]["epoch"] == chosen[1]


@pytest.mark.parametrize(
    "changed",
    [
        {"refit_share": 0},
        {"refit_share": 1.5},
        {"refit_share": "half"},
        {"refit_models": 0},
    ],
)
def test_wrong_settings_are_named(settings, tmp_path, changed):
    with pytest.raises(UserError, match=f"--{next(iter(changed)).replace('_', '-')}"):
        fb.cross_validate(**settings, output=str(tmp_path), refit="full", **changed)


def test_a_changed_test_table_of_a_refit_is_noticed(outputs, tmp_path):
    shutil.copytree(outputs / "full", tmp_path / "full")
    file = tmp_path / "full" / "test_refit_0.parquet"
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(UserError, match=r"test_refit_0\.parquet: has changed"):
        Run(tmp_path / "full").test_fold(0)


def test_what_was_made_before_a_refit_is_to_be_made_again(outputs, settings, tmp_path):
    """The rows out of fold do not show a refit, but predictions would have it."""
    shutil.copytree(outputs / "plain", tmp_path / "a")
    short = {"page": False, "say": silent}
    fb.run_tta(tmp_path / "a", views="vflip", name="t", **short)
    fb.blend([tmp_path / "a", outputs / "frozen_full"], name="b", output=str(tmp_path), **short)
    images = Path(settings["data"]) / "eval" / "images"
    before = predicted(tmp_path / "b", images)[1]
    common = {**settings, "output": str(tmp_path), "tta": "hflip", "name": "a"}
    fb.cross_validate(**common, refit="full")
    for name, script in (("t", "run_tta"), ("b", "blend")):
        with pytest.raises(UserError, match=rf"made again since; run {script}\.py again"):
            predicted(tmp_path / name, images)
    fb.run_tta(tmp_path / "a", views="vflip", name="t", **short)
    predicted(tmp_path / "t", images)
    fb.cross_validate(**common, refit="none")
    np.testing.assert_array_equal(predicted(tmp_path / "b", images)[1], before)


def test_a_blend_of_a_ttad_run_notices_the_refit_that_this_one_shares(outputs, settings, tmp_path):
    """It is two steps from the refit, and the rows of both stay as they are."""
    shutil.copytree(outputs / "plain", tmp_path / "a")
    short = {"page": False, "say": silent}
    blended = {**short, "output": str(tmp_path), "method": "tempered"}
    fb.run_tta(tmp_path / "a", views="vflip", name="t", **short)
    fb.blend([tmp_path / "t", outputs / "frozen_full"], name="b", **blended)
    fb.blend([tmp_path / "b", outputs / "soup"], name="c", include_blends=True, **blended)
    images = Path(settings["data"]) / "eval" / "images"
    common = {**settings, "output": str(tmp_path), "tta": "hflip", "name": "a"}
    fb.cross_validate(**common, refit="full")
    fb.run_tta(tmp_path / "a", views="vflip", name="t", **short)
    with pytest.raises(
        UserError, match=r"t: this member .* was made again since; run blend\.py again"
    ):
        predicted(tmp_path / "b", images)
    members = [tmp_path / "t", outputs / "frozen_full"]
    fb.blend(members, name="b", overwrite=True, **blended)
    predicted(tmp_path / "b", images)
    with pytest.raises(
        UserError, match=r"b: this member .* was made again since; run blend\.py again"
    ):
        predicted(tmp_path / "c", images)


def test_sets_of_classes_say_that_their_coverage_is_not_that_of_a_refit(outputs, settings):
    images = str(Path(settings["data"]) / "eval" / "images")
    for name, folds, told in (
        ("full", None, True),
        ("full", "0,1,2", False),
        ("plain", None, False),
    ):
        said: list[str] = []
        fb.predict(outputs / name, images, coverage=0.9, folds=folds, say=said.append)
        assert any("nothing is known of the models of all rows" in line for line in said) == told


def test_a_killed_refit_continues_and_the_run_is_complete_meanwhile(
    outputs, settings, tmp_path, monkeypatch
):
    class Killed(BaseException):
        pass

    def dies(*_: Any) -> None:
        raise Killed

    shutil.copytree(outputs / "plain", tmp_path / "a")
    common = {**settings, "output": str(tmp_path), "tta": "hflip", "name": "a", "refit": "full"}
    with monkeypatch.context() as patch:
        patch.setattr(full_training.FullTraining, "_finish", dies)
        with pytest.raises(Killed):
            fb.cross_validate(**common)
    run = Run(tmp_path / "a")
    assert run.info["status"] == "done"
    assert "refit" not in run.info
    said: list[str] = []
    run = fb.cross_validate(**{**common, "say": said.append})
    assert any("refit 0: continued at trained" in line for line in said)
    one = run.path / "refit_0" / "best.safetensors"
    assert one.read_bytes() == (outputs / "full" / "refit_0" / "best.safetensors").read_bytes()


def test_a_kill_among_the_final_files_leaves_no_run_that_seems_finished(
    outputs, settings, tmp_path, monkeypatch
):
    class Killed(BaseException):
        pass

    def dies(*_: Any) -> None:
        raise Killed

    shutil.copytree(outputs / "full", tmp_path / "a")
    common = {**settings, "output": str(tmp_path), "tta": "hflip", "name": "a"}
    with monkeypatch.context() as patch:
        # test.parquet has the new share by then, and run.json has the old one.
        patch.setattr(complete, "finish_record", dies)
        with pytest.raises(Killed):
            fb.cross_validate(**common, refit_share=0.5)
    with pytest.raises(UserError, match="not finished; run the same command again"):
        predicted(tmp_path / "a", Path(settings["data"]) / "eval" / "images")
    said: list[str] = []
    run = fb.cross_validate(**{**common, "say": said.append}, refit_share=0.5)
    assert any("nothing was trained" in line for line in said)
    assert run.info["refit"]["share"] == 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["full_tta", "only", "frozen_full", "frozen_soup", "both"])
def test_graphs_and_folders_of_timm_have_the_refits(outputs, tmp_path, name):
    """Each graph and folder is compared with predict.py when it is written."""
    pytest.importorskip("onnxruntime")
    fb.export_model(Run(outputs / name), onnx=tmp_path / "onnx", timm=tmp_path / "timm", say=silent)
    graphs = {file.stem for file in (tmp_path / "onnx").glob("*.onnx")}
    folders = {file.name for file in (tmp_path / "timm").iterdir()}
    for made in (graphs, folders):
        assert any("refit_0" in one for one in made)
        assert any("fold_0" in one for one in made) == (name not in ("only", "frozen_soup"))
