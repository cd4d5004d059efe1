"""Tests of export: one file that predicts as the run folder does, and that can do nothing else."""

import pickle
import shutil
import subprocess
import zipfile
from pathlib import Path

import albumentations
import huggingface_hub
import numpy as np
import pytest
import torch
import yaml

import foldblend as fb
import run_cv
from ensemble.blend import blend
from export_model import main
from foldblend.errors import UserError
from foldblend.runs.run import Run
from pipeline.export.file import Archive, plain_json
from pipeline.export.layout import all_leaves
from pipeline.export.weights import halved, restored
from pipeline.export.write import export_model
from pipeline.predict.inputs import Inputs
from pipeline.predict.open import open_predictor
from pipeline.predict.stream import Stream
from pipeline.run_tta import run_tta
from tests.makers.constants import TINY
from tests.makers.edits import rehash

PIPELINE = albumentations.Compose([albumentations.RandomGamma(p=1.0)])


def quiet(_):
    pass


@pytest.fixture(scope="module")
def outputs(tiny_runs, tiny_layout, tmp_path_factory):
    """Return a folder of runs of each kind, and of blends of them by several methods."""
    place = tmp_path_factory.mktemp("export")
    folder = Path(shutil.copytree(tiny_runs, place / "outputs"))
    base = ["--data", tiny_layout, "--output", folder, "--backbone", "test_efficientnet", *TINY]
    frozen = [*base, "--finetune", "head"]
    for argv in ([*frozen, "--name", "frozen"], [*frozen, "--name", "thirds", "--folds", 3]):
        assert run_cv.main(list(map(str, argv))) == 0
    pipeline = place / "gamma.yaml"
    albumentations.save(PIPELINE, pipeline, data_format="yaml")
    views = f"hflip,scale:1.1,train:1,albu:{pipeline}"
    run_tta(folder / "beta", views=views, merge="prob", name="turned", page=False, say=quiet)
    members = [folder / "turned", folder / "alpha", folder / "frozen"]
    for name, settings in (
        ("auto", {}),
        ("stack", {"method": "stack"}),
        ("rank", {"method": "rank"}),
        ("weighted", {"weights": [1, 0, 2]}),
    ):
        blend(members, name=name, page=False, say=quiet, **settings)
    blend([folder / "alpha", folder / "thirds"], name="uneven", page=False, say=quiet)
    blend([folder / "auto", folder / "frozen"], name="again", page=False, say=quiet, method="soft")
    return folder


@pytest.fixture(scope="module")
def images(tiny_layout):
    return sorted(map(str, (tiny_layout / "eval").rglob("*.jpg")))[:9]


def logits_of(predictor, images, **settings):
    stream = Stream(predictor.root, say=quiet, **settings)
    found = list(stream.run(Inputs([Path(one).name for one in images], images)))
    return np.concatenate([one.logits_NC for one in found]), np.concatenate(
        [one.plain_KNC for one in found], axis=1
    )


KINDS = ["alpha", "frozen", "turned", "auto", "stack", "rank", "weighted", "uneven", "again"]


@pytest.mark.parametrize("name", KINDS)
def test_a_file_predicts_as_the_folder_to_the_bit(name, outputs, images, tmp_path, monkeypatch):
    folder = open_predictor(outputs / name, say=quiet)
    wanted = logits_of(folder, images)
    file = export_model(outputs / name, tmp_path / "model.zip", say=quiet)
    # Neither the run nor its data is needed, and nothing is unpacked.
    (tmp_path / "elsewhere").mkdir()
    moved = file.rename(tmp_path / "elsewhere" / "moved.zip")
    hidden = outputs.rename(outputs.with_name("hidden"))
    try:
        found = open_predictor(moved, say=quiet)
        for one, other in zip(logits_of(found, images), wanted, strict=True):
            np.testing.assert_array_equal(one, other)
    finally:
        hidden.rename(outputs)
    assert [*moved.parent.iterdir()] == [moved]
    assert found.name == folder.name
    assert found.classes == folder.classes
    assert found.calibration == folder.calibration
    assert {"conformal", "reference"} <= set(found.extras)
    assert found.fingerprint() != folder.fingerprint()
    assert found.info["data"]["name"] == "tiny"


def test_exports_of_equal_runs_are_equal_and_leave_out_local_paths(outputs, tmp_path):
    one = export_model(outputs / "auto", tmp_path / "model.zip", say=quiet)
    (tmp_path / "other").mkdir()
    other = export_model(outputs / "auto", tmp_path / "other" / "model.zip", say=quiet)
    assert one.read_bytes() == other.read_bytes()
    assert str(outputs).encode() not in one.read_bytes()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["model.zip", "other"]


def test_the_sums_of_an_unpacked_file_hold(outputs, tmp_path):
    file = export_model(outputs / "frozen", tmp_path / "model.zip", say=quiet)
    with zipfile.ZipFile(file) as archive:
        archive.extractall(tmp_path / "there")
    done = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"],
        cwd=tmp_path / "there",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    listed = {line.partition(":")[0] for line in done.stdout.splitlines()}
    assert listed == {name for name in Archive(file).sizes if name != "SHA256SUMS"}
    assert {"model.json", "README.md", "conformal.safetensors"} <= listed
    assert {"licences/foldblend.txt", "licences/weights.txt"} <= listed


def test_shared_weights_are_stored_once(outputs, tmp_path):
    """Runs share a frozen backbone, and so do the folds of each."""
    file = export_model(outputs / "uneven", tmp_path / "one.zip", say=quiet)
    alone = export_model(outputs / "thirds", tmp_path / "two.zip", say=quiet)
    backbone = (outputs / "thirds" / "backbone.safetensors").stat().st_size
    assert alone.stat().st_size < 2 * backbone + 200_000
    both = blend(
        [outputs / "frozen", outputs / "thirds"], name="both", method="soft", page=False, say=quiet
    )
    file = export_model(both, tmp_path / "both.zip", say=quiet)
    predictor = open_predictor(file, say=quiet)
    prints = {leaf.weights.fingerprint(None) for leaf in predictor.leaves.values()}
    assert len(prints) == 1
    assert sum(size for name, size in Archive(file).sizes.items() if "backbone" in name) < (
        1.1 * backbone
    )
    shutil.rmtree(both.path)


def test_a_file_has_the_coverage_of_its_sets_out_of_fold(outputs, images, tmp_path):
    file = export_model(outputs / "auto", tmp_path / "model.zip", say=quiet)
    for wanted, by_class in ((0.9, "all"), (0.8, "class")):
        settings = {"coverage": wanted, "coverage_by": by_class, "odd": False}
        lines = []
        for source in (outputs / "auto", file):
            said = []
            fb.predict(source, images, say=said.append, **settings)
            lines.append([one for one in said if one.startswith("--coverage")])
        assert lines[0] == lines[1]
        assert "contain the true class for" in lines[0][-1]
    said = []
    fb.predict(file, images, say=said.append, coverage=0.85, odd=False)
    assert any("only for 0.5, 0.8, 0.9, 0.95, 0.99" in one for one in said)


def test_members_without_a_share_keep_their_place_only(outputs, images, tmp_path):
    file = export_model(outputs / "weighted", tmp_path / "model.zip", say=quiet)
    predictor = open_predictor(file, say=quiet)
    assert [one.name for one in predictor.root.members] == ["alpha", "frozen", "turned"]
    model = plain_json(Archive(file).read("model.json"))
    without = [one["name"] for one in model["leaves"] if one["models"] is None]
    assert without == ["alpha"]
    (alpha,) = [one for one in all_leaves(predictor.root).values() if one.name == "alpha"]
    with pytest.raises(UserError, match="no share"):
        alpha.weights.read(0)


@pytest.mark.parametrize("name", ["auto", "uneven"])
def test_some_folds_are_those_of_the_stream(name, outputs, images, tmp_path):
    file = export_model(outputs / name, tmp_path / "model.zip", folds="1", say=quiet)
    wanted, _ = logits_of(open_predictor(outputs / name, say=quiet), images, models=[1])
    predictor = open_predictor(file, say=quiet)
    found, plain_KNC = logits_of(predictor, images)
    np.testing.assert_array_equal(found, wanted)
    assert len(plain_KNC) == 1
    if name == "auto":
        assert predictor.conformal.num_models == 1
    assert "some of the run's models only" in Archive(file).read("README.md").decode()


def test_folds_that_are_not_there_are_refused(outputs, tmp_path):
    with pytest.raises(UserError, match=r"--folds 7: alpha has 2 models"):
        export_model(outputs / "alpha", tmp_path / "model.zip", folds="7", say=quiet)
    with pytest.raises(UserError, match="--folds x"):
        export_model(outputs / "alpha", tmp_path / "model.zip", folds="x", say=quiet)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["alpha", "frozen", "auto", "uneven"])
def test_half_the_bits_change_little_and_the_change_is_measured(name, outputs, images, tmp_path):
    said = []
    whole = export_model(outputs / name, tmp_path / "whole.zip", say=quiet)
    file = export_model(outputs / name, tmp_path / "half.zip", half=True, say=said.append)
    assert file.stat().st_size < 0.75 * whole.stat().st_size
    text = next(line for line in said if line.startswith("--half"))
    assert "on 84 out-of-fold images, macro F1 is" in text
    assert text.removeprefix("--half: ") in Archive(file).read("README.md").decode()
    found, _ = logits_of(open_predictor(file, say=quiet), images)
    wanted, _ = logits_of(open_predictor(whole, say=quiet), images)
    assert not np.array_equal(found, wanted)
    np.testing.assert_allclose(found, wanted, atol=0.05)


def test_the_full_scores_of_the_measurement_are_those_of_the_run(outputs, tmp_path):
    """The models predict the rows that they were held out from, so a run's own score comes out."""
    said = []
    export_model(outputs / "frozen", tmp_path / "half.zip", half=True, say=said.append)
    score = Run(outputs / "frozen").report["headline"]["value"]
    assert f"and {score:.4f} with those of 32 bits" in said[0]


def test_without_the_images_half_is_not_measured(outputs, tmp_path):
    folder = Path(shutil.copytree(outputs / "frozen", tmp_path / "frozen"))
    (folder / "pictures.parquet").unlink()
    said = []
    file = export_model(folder, tmp_path / "half.zip", half=True, say=said.append)
    assert said[0].startswith("--half: not measured (")
    assert "was not measured" in Archive(file).read("README.md").decode()


def test_values_that_16_bits_cannot_hold_stay_as_they_are():
    state = {
        "large": torch.tensor([[1e5, 1.0]]),
        "small": torch.tensor([[0.5, -1.0]]),
        "bias": torch.tensor([0.1]),
        "head": torch.tensor([[0.1]], dtype=torch.float64),
        "count": torch.tensor(3),
    }
    found = halved(state)
    assert {name: str(one.dtype)[6:] for name, one in found.items()} == {
        "large": "float32",
        "small": "float16",
        "bias": "float32",
        "head": "float16",
        "count": "int64",
    }
    back = restored(found)
    assert torch.equal(back["large"], state["large"])
    assert back["small"].dtype == torch.float32


def test_a_file_that_is_replaced_while_it_is_in_use_is_refused(outputs, images, tmp_path):
    file = export_model(outputs / "alpha", tmp_path / "model.zip", say=quiet)
    predictor = open_predictor(file, say=quiet)
    file.write_bytes(b"other")
    with pytest.raises(UserError, match="was replaced while it was in use"):
        logits_of(predictor, images)
    file.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        logits_of(predictor, images)


def test_what_cannot_be_exported_is_refused_by_name(outputs, tmp_path):
    to = tmp_path / "model.zip"
    to.write_text("mine")
    with pytest.raises(UserError, match="is there already; pass --overwrite"):
        export_model(outputs / "alpha", to, say=quiet)
    assert to.read_text() == "mine"
    export_model(outputs / "alpha", to, overwrite=True, say=quiet)
    with pytest.raises(UserError, match="is a file, maybe an exported one"):
        export_model(to, tmp_path / "again.zip", say=quiet)
    with pytest.raises(UserError, match="is a folder; pass a file in it"):
        export_model(outputs / "alpha", tmp_path, say=quiet)
    folder = Path(shutil.copytree(outputs / "alpha", tmp_path / "own"))
    config = folder / "config.yaml"
    settings = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump(settings | {"backbone": "nowhere:Net"}))
    rehash(config)
    with pytest.raises(UserError, match=r"nowhere:Net is code of its own, which a file cannot"):
        export_model(folder, tmp_path / "own.zip", say=quiet)
    config.write_text(yaml.safe_dump(settings | {"augment": "nowhere:Augment"}))
    rehash(config)
    # Its views do not use the augmentation.
    export_model(folder, tmp_path / "own.zip", say=quiet)
    parts = tmp_path / "parts"
    for name in ("beta", "turned"):
        shutil.copytree(outputs / name, parts / name)
    config = parts / "beta" / "config.yaml"
    settings = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump(settings | {"augment": "nowhere:Augment"}))
    rehash(config)
    with pytest.raises(UserError, match="augment nowhere:Augment is code of its own, which"):
        export_model(parts / "turned", tmp_path / "turned.zip", say=quiet)
    shutil.rmtree(parts / "beta")
    with pytest.raises(UserError, match="is gone; restore it"):
        export_model(parts / "turned", tmp_path / "turned.zip", say=quiet)
    assert not (tmp_path / "turned.zip").exists()
    assert not list(tmp_path.glob(".draft-*"))


def test_the_card_says_what_hugging_face_reads(outputs, tmp_path):
    file = export_model(outputs / "auto", tmp_path / "model.zip", say=quiet)
    text = Archive(file).read("README.md").decode()
    card = huggingface_hub.ModelCard(text)
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.library_name == "foldblend"
    assert card.data.license == "unknown"
    report = Run(outputs / "auto").report
    score = next(one for one in card.data.eval_results if one.metric_type == "f1")
    assert score.metric_value == pytest.approx(report["headline"]["value"])
    assert score.dataset_name == "tiny"
    for title in ("Data", "Score", "Calibration", "Not tested on", "Initial weights", "Use"):
        assert f"\n## {title}\n" in text
    for name in ("mask", "gender", "age"):
        assert f"{name} is right" in text
    for one in report["per_class"]:
        assert f"| {one['support']} | {one['groups']} | {one['recall']:.4f} [" in text
    assert "python predict.py model.zip IMAGES" in text


def test_the_command_writes_the_file(outputs, tmp_path, command_of):
    command = command_of(main)
    done = command(outputs / "alpha", "--to", tmp_path / "model.zip")
    assert done.code == 0, done.err
    assert "model.zip: 2 models, " in done.out
    command(outputs / "alpha", "--to", tmp_path / "model.zip").assert_one_line_error("--overwrite")
    command("--to", tmp_path / "x.zip").assert_one_line_error("RUN: missing")
    command(outputs / "alpha").assert_one_line_error("--to: missing")
    command(tmp_path / "none", "--to", tmp_path / "x.zip").assert_one_line_error("none")


@pytest.mark.slow
def test_loaded_file_is_a_run_that_predicts(outputs, tiny_layout, tmp_path):
    images = sorted((tiny_layout / "eval" / "images").iterdir())[:4]
    folder = fb.load(outputs / "auto")
    file = fb.export_model(outputs / "auto", tmp_path / "auto.zip", say=quiet)
    run = pickle.loads(pickle.dumps(fb.load(file)))
    assert run.classes == folder.classes
    assert run.predict(images).tolist() == folder.predict(images).tolist()
    np.testing.assert_array_equal(run.predict_proba(images), folder.predict_proba(images))
    assert run.score(images, folder.predict(images)) == 1
    with pytest.raises(UserError, match="no out-of-fold rows; load the run's folder"):
        run.oof  # noqa: B018
    (tmp_path / "other.zip").write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match="export the run again"):
        fb.load(tmp_path / "other.zip")


@pytest.mark.parametrize("name", ["onnx", "timm"])
def test_a_file_in_place_of_a_folder(runs_copy, tmp_path, name):
    file = tmp_path / "taken"
    file.write_text("mine")
    with pytest.raises(UserError, match=f"pass another --{name}"):
        fb.export_model(runs_copy / "beta", **{name: str(file)}, say=lambda _: None)
    assert file.read_text() == "mine"


def test_folders_of_models_are_replaced_only_if_asked(outputs, tmp_path, monkeypatch):
    """Nothing is written unless all of it is, and files of others stay."""
    folder = tmp_path / "models"
    kept = folder / "alpha_fold_0" / "notes.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text("mine")
    with pytest.raises(UserError, match=r"--timm .*has files already; pass --overwrite"):
        fb.export_model(outputs / "alpha", timm=str(folder), say=quiet)
    said = []
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.export.timm_folder.CLOSE", -1.0)
        with pytest.raises(UserError, match="so it was removed"):
            fb.export_model(outputs / "alpha", timm=str(folder), overwrite=True, say=quiet)
    assert [item.name for item in folder.rglob("*")] == ["alpha_fold_0", "notes.txt"]
    fb.export_model(outputs / "alpha", timm=str(folder), overwrite=True, say=said.append)
    assert kept.read_text() == "mine"
    assert (folder / "alpha_fold_1" / "model.safetensors").is_file()
    assert (folder / "alpha_fold_0" / "config.json").is_file()
    assert str(folder) in said[-1]
    assert [item.name for item in tmp_path.iterdir()] == ["models"]


def test_results_of_a_run_have_one_entry_per_image(outputs):
    with pytest.raises(UserError, match=r"on_bad_image: .* fb.predict"):
        fb.load(outputs / "alpha").predict(["a.jpg"], on_bad_image="skip")
