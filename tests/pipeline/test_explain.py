"""Tests of explanations: known answers, every kind of run, and what explain.json keeps."""

import json
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
import torch

import foldblend as fb
from foldblend.errors import UserError
from foldblend.runs.broken import BrokenRun
from foldblend.runs.oof import oof_arrays
from foldblend.runs.run import Run
from pipeline.config.trust import NOTHING
from pipeline.models.timm_import import timm
from reports.run.explain_file import EXPLAIN, read_explain
from reports.run.explained import explanations_of, rows_to_explain
from tests.makers.edits import rehash

pytest.importorskip("captum", reason="captum is not installed: pip install captum")

from pipeline.explain.layers import layers_with_places
from pipeline.explain.maker import Maker
from pipeline.explain.methods import by_occlusion, explainer_of, scaled
from pipeline.explain.source import mistakes_of, source_of

CPU = torch.device("cpu")
SIZE = (32, 32)


def quiet(_):
    pass


def in_the_corner(map_HW):
    """Return the share of a map that is in the upper right quarter."""
    height, width = map_HW.shape
    return map_HW[: height // 2, width // 2 :].sum() / map_HW.sum()


class Corner(torch.nn.Module):
    """Net whose class 1 is the brightness of the upper right corner, and class 0 that elsewhere."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 4, stride=4)
        self.act = torch.nn.ReLU(inplace=True)
        self.head = torch.nn.Linear(4 * 8 * 8, 2, bias=False)
        with torch.no_grad():
            self.conv.weight.fill_(0.1)
            self.conv.bias.fill_(0.0)
            weight = torch.zeros(2, 4, 8, 8)
            weight[1, :, :4, 4:] = 1
            weight[0] = 1 - weight[1]
            self.head.weight.copy_(weight.flatten(1))

    def forward(self, pixels):
        return self.head(self.act(self.conv(pixels)).flatten(1))


class Flat(torch.nn.Module):
    """The same by a linear layer on the pixels, which has no layer with positions."""

    def __init__(self):
        super().__init__()
        weight = torch.zeros(2, 3, *SIZE)
        weight[1, :, :16, 16:] = 1
        weight[0] = 1 - weight[1]
        self.head = torch.nn.Linear(3 * 32 * 32, 2, bias=False)
        self.head.weight.data = weight.flatten(1)

    def forward(self, pixels):
        return self.head(pixels.flatten(1))


@pytest.mark.parametrize(("net", "method"), [(Corner, "layer"), (Flat, "occlusion")])
def test_the_map_is_where_the_class_is_decided(net, method):
    model = net().eval().requires_grad_(False)
    explainer = explainer_of(model, SIZE, CPU)
    assert explainer.method == method
    pixels = torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(1)) + 0.5
    maps = scaled(explainer.maps(model, pixels, torch.tensor([1, 0]))).float()
    # A window of occlusion reaches one step beyond the corner.
    assert in_the_corner(maps[0]) > (0.999 if method == "layer" else 0.8)
    assert in_the_corner(maps[1]) < (0.001 if method == "layer" else 0.2)
    assert maps.amax() == 255


def test_the_maps_of_a_layer_before_a_linear_one_sum_to_the_score():
    model = Corner().eval().requires_grad_(False)
    pixels = torch.rand(3, 3, *SIZE, generator=torch.Generator().manual_seed(2))
    class_N = torch.tensor([1, 0, 1])
    maps = explainer_of(model, SIZE, CPU).maps(model, pixels, class_N)
    scores = model(pixels)[torch.arange(3), class_N]
    torch.testing.assert_close(maps.sum(dim=(1, 2)), scores)


def test_occlusion_leaves_a_class_that_needs_nothing_without_a_map():
    model = Flat().eval()
    model.head.weight.data[0] = 0
    maps = scaled(by_occlusion(model, torch.rand(1, 3, *SIZE), torch.tensor([0])))
    assert not maps.any()


@pytest.mark.parametrize(
    ("name", "layer", "side"),
    [
        # Only the class token counts after the last attention.
        ("test_vit", "blocks.5.norm1", 4),
        ("test_vit3", "norm", 4),
        ("test_convnext", "norm_pre", 4),
        ("test_resnet", "layer4", 4),
        ("test_efficientnet", "bn2", 4),
        pytest.param("swin_s3_tiny_224", "norm", 4, marks=pytest.mark.slow),
    ],
)
def test_transformers_and_nets_have_a_layer_with_places(name, layer, side):
    side_of_image = {"test_vit": 64, "test_vit3": 64}.get(name, 128)
    kwargs = {"img_size": side_of_image} if "vit" in name or "swin" in name else {}
    kwargs |= {"window_size": 4, "depths": (1, 1, 1, 1)} if "swin" in name else {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=3, **kwargs).eval().requires_grad_(False)
    explainer = explainer_of(model, (side_of_image, side_of_image), CPU)
    assert (explainer.method, explainer.layer) == ("layer", layer)
    pixels = torch.rand(2, 3, side_of_image, side_of_image)
    assert explainer.maps(model, pixels, torch.tensor([0, 2])).shape == (2, side, side)


def test_a_module_that_is_used_twice_is_no_layer():
    shared = torch.nn.ReLU()
    conv = torch.nn.Conv2d(3, 3, 4, stride=4)
    model = torch.nn.Sequential(conv, shared, torch.nn.Sequential(shared), torch.nn.Flatten())
    found = [layer.name for layer in layers_with_places(model, torch.zeros(1, 3, *SIZE))]
    assert "1" not in found


@pytest.fixture(scope="module")
def outputs(tiny_runs, tiny_layout, tmp_path_factory):
    """Return a folder with runs of each kind; alpha and beta are fine-tuned."""
    made = tmp_path_factory.mktemp("explained") / "outputs"
    shutil.copytree(tiny_runs, made)
    common = {
        "data": str(tiny_layout),
        "output": str(made),
        "img_size": "32",
        "pretrained": "none",
        "folds": 2,
        "workers": 0,
        "threads": 1,
        "page": False,
        "say": quiet,
    }
    fb.cross_validate(
        backbone="test_efficientnet", finetune="head", crop_pct=0.8, name="frozen", **common
    )
    fb.cross_validate(backbone="test_resnet", head="attributes", epochs=1, name="heads", **common)
    fb.cross_validate(backbone="test_vit", repeats=2, epochs=1, name="twice", **common)
    fb.run_tta(made / "beta", views="hflip", name="beta_tta", page=False, say=quiet)
    fb.blend([made / "alpha", made / "beta"], name="both", page=False, say=quiet)
    fb.blend(
        [made / "both", made / "frozen"], include_blends=True, name="more", page=False, say=quiet
    )
    return made


@pytest.fixture
def beta(tiny_runs, tmp_path):
    """Return a copy of a fine-tuned run."""
    return Run(shutil.copytree(tiny_runs / "beta", tmp_path / "beta"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["beta", "frozen", "heads", "twice"])
def test_an_image_is_explained_by_the_model_that_held_it_out(outputs, name):
    """The composed model gives the out-of-fold logits, from the same pixels."""
    run = Run(outputs / name)
    source = source_of(run, trust=NOTHING, say=quiet)
    maker = Maker(source.leaf, device=None, threads=1, say=quiet)
    images = run.table("pictures").query("part == 'train'").set_index("image_id")
    rows = run.oof.set_index(["repeat", "image_id"], drop=False)
    mistakes = mistakes_of(run, source)
    models = {one.model for one in mistakes}
    assert models == {*range(source.leaf.num_models)}
    for model in models:
        of_model = [one for one in mistakes if one.model == model]
        pixels = maker.pixels(images.loc[[one.image_id for one in of_model]])
        with torch.no_grad():
            logits_NC = maker.model(model)(pixels).numpy()
        of_run = run.logits(rows.loc[[(one.repeat, one.image_id) for one in of_model]])
        np.testing.assert_allclose(logits_NC, of_run, atol=2e-5)
        assert [one.predicted for one in of_model] == of_run.argmax(axis=1).tolist()


MADE_OF = {
    "beta_tta": ["beta"],
    "both": ["alpha", "beta"],
    "more": ["alpha", "beta", "frozen"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alpha", "frozen", "heads", "twice", "beta_tta", "both", "more"])
def test_runs_of_every_kind_are_explained(outputs, name):
    lines = []
    file = fb.explain(outputs / name, say=lines.append)
    run = Run(outputs / name)
    assert file == run.path / EXPLAIN
    info = read_explain(run.path)
    rows = rows_to_explain(run)
    names = [(run.oof["image_id"][row], run.oof["repeat"][row]) for row in rows]
    assert [(one["image_id"], one["repeat"]) for one in info["maps"]] == names
    shown = explanations_of(run)
    assert list(shown.maps) == rows.tolist()
    arrays = oof_arrays(run)
    for row, (predicted, true) in shown.maps.items():
        assert predicted.label == arrays.proba_NC[row].argmax() != true.label
        assert true.label == arrays.rows.label_N[row]
    if name in MADE_OF:
        assert info["of"]["name"] in MADE_OF[name]
        assert f"of the models of {info['of']['name']}" in shown.method
        assert info["of"]["name"] in lines[-1]
    else:
        assert "of the models of" not in shown.method


def test_maps_that_are_there_are_not_made_again(beta, monkeypatch):
    fb.explain(beta.path, say=quiet)
    whole = (beta.path / EXPLAIN).read_bytes()
    made = []
    maps = Maker.maps
    monkeypatch.setattr(
        Maker,
        "maps",
        lambda self, index, mistakes, images: (
            made.extend(mistakes) or maps(self, index, mistakes, images)
        ),
    )
    fb.explain(beta.path, say=quiet)
    assert not made
    info = json.loads(whole)
    (beta.path / EXPLAIN).write_text(json.dumps(info | {"maps": info["maps"][3:]}))
    fb.explain(beta.path, say=quiet)
    assert {one.image_id for one in made} == {one["image_id"] for one in info["maps"][:3]}
    assert (beta.path / EXPLAIN).read_bytes() == whole
    # Another version of Captum makes all of them again.
    (beta.path / EXPLAIN).write_text(json.dumps(info | {"captum": "0.1"}))
    fb.explain(beta.path, say=quiet)
    assert len(made) == 3 + len(info["maps"])


def test_a_command_that_is_stopped_leaves_whole_maps_and_goes_on(beta, monkeypatch):
    fb.explain(beta.path, say=quiet)
    whole = (beta.path / EXPLAIN).read_bytes()
    (beta.path / EXPLAIN).unlink()
    maps = Maker.maps

    def stop(self, index, mistakes, images):
        if index == 1:
            raise KeyboardInterrupt
        return maps(self, index, mistakes, images)

    monkeypatch.setattr(Maker, "maps", stop)
    with pytest.raises(KeyboardInterrupt):
        fb.explain(beta.path, say=quiet)
    fold_of = beta.oof.set_index("image_id")["fold"]
    there = read_explain(beta.path)["maps"]
    assert there
    assert {fold_of[one["image_id"]] for one in there} == {0}
    assert len(explanations_of(beta).maps) == len(there)
    monkeypatch.undo()
    fb.explain(beta.path, say=quiet)
    assert (beta.path / EXPLAIN).read_bytes() == whole


def test_the_maps_of_earlier_predictions_are_not_shown_and_made_again(beta):
    fb.explain(beta.path, say=quiet)
    file = beta.path / EXPLAIN
    info = json.loads(file.read_text())
    file.write_text(json.dumps(info | {"oof": "0" * 32}))
    shown = explanations_of(beta)
    assert not shown.maps
    assert "earlier predictions" in shown.note
    assert "--explain" in shown.note
    fb.explain(beta.path, say=quiet)
    assert json.loads(file.read_text()) == info


def _map(change):
    def damage(info):
        change(info["maps"][0]["true"])
        return info

    return damage


DAMAGE = {
    "no JSON": lambda info: None,
    "a list": lambda info: [],
    "no maps": lambda info: {key: info[key] for key in info if key != "maps"},
    "another format": lambda info: info | {"format": 2},
    "method": lambda info: info | {"method": "<script>"},
    "too many": lambda info: info | {"maps": info["maps"] * 500},
    "area": lambda info: info | {"area": [0.5, 0, 0.5, 1]},
    "area outside": lambda info: info | {"area": [0, 0, 1, 9]},
    "too large": _map(lambda one: one.update(height=10**6)),
    "too short": _map(lambda one: one.update(heat=one["heat"][:4])),
    "no base64": _map(lambda one: one.update(heat="\u00e9" * 8)),
    "a number": _map(lambda one: one.update(heat=1)),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_maps_are_not_shown_and_made_again(beta, damage):
    fb.explain(beta.path, say=quiet)
    file = beta.path / EXPLAIN
    whole = file.read_bytes()
    damaged = damage(json.loads(whole))
    file.write_text("{" if damaged is None else json.dumps(damaged))
    with pytest.raises(BrokenRun, match=EXPLAIN):
        read_explain(beta.path)
    shown = explanations_of(beta)
    assert not shown.maps
    assert EXPLAIN in shown.note
    # The cure is about this file, not about the run.
    assert "--explain makes it again" in shown.note
    assert "remove the run folder" not in shown.note
    lines = []
    fb.explain(beta.path, say=lines.append)
    assert any(EXPLAIN in line and "again" in line for line in lines[:-1])
    assert file.read_bytes() == whole


def test_maps_of_other_classes_or_images_are_left_out(beta):
    fb.explain(beta.path, say=quiet)
    file = beta.path / EXPLAIN
    info = json.loads(file.read_text())
    info["maps"][0]["image_id"] = "elsewhere"
    info["maps"][1]["true"]["label"] += 1
    file.write_text(json.dumps(info))
    assert list(explanations_of(beta).maps) == rows_to_explain(beta)[2:].tolist()
    fb.explain(beta.path, say=quiet)
    assert list(explanations_of(beta).maps) == rows_to_explain(beta).tolist()


def test_a_run_without_weights_says_what_to_do(beta):
    (beta.path / "fold_1" / "best.safetensors").unlink()
    with pytest.raises(UserError, match=r"fold_1/best\.safetensors: the weights are missing; run"):
        fb.explain(beta.path, say=quiet)
    assert not (beta.path / EXPLAIN).exists()


def test_a_run_whose_images_are_gone_names_one(beta):
    table = beta.table("pictures")
    moved = table.assign(path="/nowhere/" + table["image_id"])
    moved.to_parquet(beta.path / "pictures.parquet", index=False)
    rehash(beta.path / "pictures.parquet")
    with pytest.raises(UserError, match="/nowhere/") as error:
        fb.explain(beta.path, say=quiet)
    assert "--on-bad-image" not in str(error.value)


def test_a_table_of_images_that_lacks_one_names_it(beta):
    table = beta.table("pictures")
    gone = beta.oof["image_id"].iloc[rows_to_explain(beta)[0]]
    table[table["image_id"] != gone].to_parquet(beta.path / "pictures.parquet", index=False)
    rehash(beta.path / "pictures.parquet")
    with pytest.raises(UserError, match="pictures") as error:
        fb.explain(beta.path, say=quiet)
    assert gone in str(error.value)


def test_a_damaged_captum_is_one_line(beta, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(UserError, match="captum cannot be imported: ModuleNotFoundError") as error:
        fb.explain(beta.path, say=quiet)
    assert "foldblend[explain]" in str(error.value)


def test_an_import_has_no_models(beta, tmp_path):
    oof = beta.oof[["image_id", "fold"]].join(
        pd.DataFrame(beta.logits(beta.oof), columns=list(beta.classes))
    )
    run = fb.import_run(
        oof, beta, kind="logits", name="other", output=tmp_path, page=False, say=quiet
    )
    with pytest.raises(UserError, match="imported and has no models"):
        fb.explain(run, say=quiet)


@pytest.mark.slow
def test_a_blend_goes_on_without_members_that_are_gone(outputs, tmp_path):
    made = tmp_path / "outputs"
    for name in ("alpha", "beta", "both"):
        shutil.copytree(outputs / name, made / name)
    blend = Run(made / "both")
    first = source_of(blend, trust=NOTHING, say=quiet).run.name
    shutil.rmtree(made / first / "fold_0")
    second = source_of(blend, trust=NOTHING, say=quiet).run.name
    assert {first, second} == {"alpha", "beta"}
    shutil.rmtree(made / second / "fold_0")
    with pytest.raises(UserError, match="no member can be explained"):
        fb.explain(blend, say=quiet)
