"""Folders for timm: one linear head in place of heads of attributes and of frozen features."""

import dataclasses
import json

import numpy as np
import pytest
import torch

import run_cv
from foldblend.attributes import Attribute
from foldblend.errors import UserError
from pipeline.export import timm_folder
from pipeline.models.attribute_head import AttributeJoin
from pipeline.predict.open import open_predictor
from pipeline.predict.tree import Leaf
from tests.makers.constants import TINY

MASK = Attribute(name="mask", values=("worn", "not worn"), of_class=(0, 0, 0, 1, 1, 1))
AGE = Attribute(name="age", values=("young", "middle", "old"), of_class=(0, 1, 2, 0, 1, 2))


def test_heads_of_attributes_are_one_linear_layer(alpha):
    (leaf,) = open_predictor(alpha.path).leaves.values()
    recipe = dataclasses.replace(leaf.recipe, attributes=(MASK, AGE))
    rng = np.random.default_rng(0)
    weight_XD = rng.normal(size=(5, 7))
    features_ND = rng.normal(size=(20, 7))
    outputs = torch.from_numpy(features_ND @ weight_XD.T)
    wanted_NC = AttributeJoin([MASK, AGE])(outputs).numpy()
    apart_NC = features_ND @ timm_folder.folded(recipe, weight_XD).T - wanted_NC
    np.testing.assert_allclose(apart_NC, apart_NC[:, :1].repeat(6, axis=1), atol=1e-5)
    assert np.abs(apart_NC).min() > 0.1


@pytest.fixture(scope="module")
def made(tiny_layout, tmp_path_factory):
    """Return a folder with a run with heads of attributes and a frozen run; read-only."""
    output = tmp_path_factory.mktemp("made")
    for name, flags in (("heads", ["--head", "attributes"]), ("frozen", ["--finetune", "head"])):
        argv = ["--data", tiny_layout, "--output", output, "--name", name, *TINY]
        argv += ["--backbone", "test_resnet", *flags]
        if name == "frozen":
            place = argv.index("--epochs")
            del argv[place : place + 2]
        assert run_cv.main([str(word) for word in argv]) == 0
    return output


@pytest.mark.parametrize("name", ["heads", "frozen"])
def test_timm_loads_a_folder_of_each_model(name, made, tmp_path):
    predictor = open_predictor(made / name)
    said = []
    # It compares the logits of each folder, as timm loads it, with those of the run.
    folders = timm_folder.write_timm(predictor, tmp_path, say=said.append)
    assert [one.name for one in folders] == [f"{name}_fold_0", f"{name}_fold_1"]
    assert said == [f"2 folders for timm in {tmp_path}"]
    config = json.loads((folders[0] / "config.json").read_text(encoding="utf-8"))
    assert config["architecture"] == "test_resnet"
    assert config["label_names"] == [*predictor.classes]
    assert config["pretrained_cfg"]["input_size"] == [3, 32, 32]
    assert config["foldblend"]["preprocess"] == predictor.info["preprocess"]


def test_what_is_not_in_the_folders_is_said(tiny_runs, tmp_path):
    said = []
    timm_folder.write_timm(open_predictor(tiny_runs / "alpha"), tmp_path, say=said.append)
    assert said == [f"2 folders for timm in {tmp_path}; not inside: the views identity, hflip"]


def test_other_logits_remove_the_folder(tiny_runs, tmp_path, monkeypatch):
    monkeypatch.setattr(timm_folder, "_difference", lambda *_: 0.25)
    with pytest.raises(UserError, match=r"beta_fold_0: its logits differ by 0\.25"):
        timm_folder.write_timm(open_predictor(tiny_runs / "beta"), tmp_path, say=print)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"backbone": "my_models:Net"}, "my_models:Net is code of its own"),
        ({"attributes": (MASK, AGE), "ordinal": "age"}, r"ordinal attribute age \(--ordinal\)"),
    ],
)
def test_models_that_timm_does_not_have_are_refused(changes, words, tiny_runs, tmp_path):
    predictor = open_predictor(tiny_runs / "beta")
    leaf = predictor.root
    assert isinstance(leaf, Leaf)
    recipe = dataclasses.replace(leaf.recipe, **changes)
    other = dataclasses.replace(predictor, root=dataclasses.replace(leaf, recipe=recipe))
    with pytest.raises(UserError, match=f"--timm: beta: .*{words}"):
        timm_folder.write_timm(other, tmp_path / "folders", say=print)
    assert not (tmp_path / "folders").exists()
