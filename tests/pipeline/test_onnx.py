"""ONNX graphs: the parts on tensors against those on arrays, and the files against the engine."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from ensemble.methods.base import Evidence
from ensemble.methods.mixture import Mixture, decided
from ensemble.methods.registry import METHODS
from ensemble.methods.vote import Vote
from ensemble.parameters import Parameters
from ensemble.subsets import FewerMembers, of_members
from foldblend.errors import UserError
from foldblend.scores.rows import Rows
from pipeline.export import onnx_build, onnx_check, onnx_graph, onnx_methods
from pipeline.predict.open import open_predictor
from pipeline.predict.tree import Blend, Leaf
from tests.makers.edits import rehash
from tta.merge import MERGES
from tta.policy import Policy
from tta.views.entries import DeviceView
from tta.views.names import view_of
from tta.views.registry import VIEWS

NUM_CLASSES = 4


@pytest.fixture(scope="module")
def evidence():
    """Return 90 rows of three members, of which one is better; one class has no row."""
    rng = np.random.default_rng(0)
    label_N = rng.integers(NUM_CLASSES - 1, size=90)
    truth_NC = np.eye(NUM_CLASSES)[label_N]
    logits = [
        (truth_NC * good + rng.normal(size=truth_NC.shape)).astype(np.float32)
        for good in (1.0, 2.0, 1.2)
    ]
    return Evidence(logits, Rows.of(label_N, np.arange(90) // 2))


def tensors(logits_MNC):
    return [torch.from_numpy(one) for one in logits_MNC]


def assert_same_blend(fitted, logits_MNC):
    wanted_NC = fitted(logits_MNC)
    found_NC = onnx_methods.blended(fitted, tensors(logits_MNC)).double().numpy()
    np.testing.assert_allclose(found_NC, wanted_NC, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "trees"])
def test_methods_on_tensors_equal_those_on_arrays(name, evidence):
    rng = np.random.default_rng(1)
    # Far logits: probabilities of 0, and ranks beyond all quantiles.
    fresh = [
        (one[:40] * rng.choice([1, 30, 600], size=(40, 1))).astype(np.float32)
        for one in evidence.logits_MNC
    ]
    fitted = METHODS[name].fit(evidence)
    for logits_MNC in (evidence.logits_MNC, fresh):
        assert_same_blend(fitted, logits_MNC)
    assert_same_blend(of_members(METHODS[name], (0, 2)).fit(evidence), fresh)


def test_a_mean_of_methods_with_offsets_equals_that_on_arrays(evidence):
    parts = tuple(METHODS[name].fit(evidence) for name in ("stack", "soft", "rank"))
    offsets_SC = np.array([[0.3, -0.2, 0, 0], [0, 0, 0, 0], [-1, 0.5, 0.1, 0.4]])
    mixture = Mixture(("stack", "soft", "rank"), parts, (0.5, 0.3, 0.2), offsets_SC)
    assert_same_blend(mixture, evidence.logits_MNC)
    logits_NC = evidence.logits_MNC[0]
    found_NC = onnx_methods.decided(torch.from_numpy(logits_NC), offsets_SC[0])
    np.testing.assert_allclose(found_NC.numpy(), decided(logits_NC, offsets_SC[0]), atol=1e-12)


def test_ranks_are_interpolated_between_equal_and_unequal_quantiles():
    quantiles_QC = np.sort(np.random.default_rng(0).integers(6, size=(9, 2)), axis=0).astype(float)
    value_NC = np.linspace(-1, 7, 33)[:, None].repeat(2, axis=1)
    found_NC = onnx_methods.interpolated(torch.from_numpy(value_NC), quantiles_QC).numpy()
    levels = np.linspace(0, 1, 9)
    for column in range(2):
        wanted_N = np.interp(value_NC[:, column], quantiles_QC[:, column], levels)
        np.testing.assert_allclose(found_NC[:, column], wanted_N, atol=1e-12)


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize(
    "weights", [None, (0.2, 0.0, 0.8), ((1.0, 0.0, 2.0), (0.0, 1.0, 0.5), (1.0, 1.0, 0.0))]
)
def test_merges_on_tensors_equal_those_on_arrays(merge, weights):
    logits_VNC = np.random.default_rng(0).normal(scale=9, size=(3, 20, 3)).astype(np.float32)
    policy = Policy(("identity", "hflip", "vflip"), merge, weights)
    found_NC = onnx_methods.merged(policy, tensors(logits_VNC)).numpy()
    np.testing.assert_allclose(found_NC, policy.apply(logits_VNC, policy.views), atol=1e-5)


def test_trees_are_refused_by_name(evidence, monkeypatch):
    vote = METHODS["trees"].fit(evidence)
    assert vote.forest is None
    assert not onnx_methods._trees_in(vote)
    assert_same_blend(vote, evidence.logits_MNC)
    monkeypatch.setattr("ensemble.methods.trees._best_rounds", lambda *_: 10)
    trees = METHODS["trees"].fit(evidence)
    assert onnx_methods._trees_in(FewerMembers(trees, (0, 1, 2), 4))
    mixture = Mixture(("soft", "trees"), (vote, trees), (0.5, 0.5), np.zeros((2, NUM_CLASSES)))
    leaf = Leaf(name="one", key="0 one", recipe=None, weights=None)
    for fitted in (vote, mixture):
        parameters = Parameters("auto", fitted, np.zeros(NUM_CLASSES), of_shares=False)
        inner = Blend(name="inner", members=(leaf,) * 3, parameters=parameters, of_means=False)
        vote_of = Parameters("soft", Vote("soft", (1.0,), (1.0,)), np.zeros(4), of_shares=False)
        outer = Blend(name="outer", members=(inner,), parameters=vote_of, of_means=False)
        if fitted is vote:
            onnx_methods.check_node(outer)
        else:
            with pytest.raises(UserError, match=r"--onnx: inner uses boosted trees"):
                onnx_methods.check_node(outer)


def test_a_difference_that_is_too_large_removes_the_file(tmp_path):
    file = tmp_path / "one.onnx"
    beside = tmp_path / "one.onnx.data"
    for one in (file, beside):
        one.write_bytes(b"")
    assert onnx_check.accepted(9e-5, file) == 9e-5
    assert file.exists()
    with pytest.raises(UserError, match=r"differed by 0\.002"):
        onnx_check.accepted(2e-3, file)
    assert not file.exists()
    assert not beside.exists()


def test_without_the_packages_the_cure_is_named(alpha, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_build, "NEEDED", ("no_such_package",))
    with pytest.raises(UserError, match=r"no_such_package missing; pip install"):
        onnx_graph.write_onnx(open_predictor(alpha.path), tmp_path / "graphs", say=print)
    assert not (tmp_path / "graphs").exists()


class Small(torch.nn.Module):
    """A module whose weights could be folded into each other."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 40, 3)
        self.norm = torch.nn.BatchNorm2d(40)
        self.head = torch.nn.Linear(40, 2)

    def forward(self, pixels):
        return self.head(self.norm(self.conv(pixels)).mean(dim=(2, 3)))


def outputs_of(model, tmp_path, pixels, records=None):
    onnx_build.save(model, tmp_path / "one.onnx", records or {})
    return onnx_build.session(tmp_path / "one.onnx").run(None, {"pixels": pixels.numpy()})


@pytest.mark.slow
def test_a_graph_has_only_the_weights_that_it_is_filled_with(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    module = Small().eval()
    pixels = torch.rand(2, 3, 6, 5)
    template = onnx_build.template_of(
        module, [pixels], inputs=["pixels"], outputs=["found"], what="small"
    )
    other = Small().eval()
    other.norm.running_mean.fill_(0.5)
    made = template.filled(other.state_dict())
    for num in (1, 3):
        pixels = torch.rand(num, 3, 6, 5)
        (found,) = outputs_of(made, tmp_path, pixels)
        np.testing.assert_allclose(found, other(pixels).detach().numpy(), atol=1e-6)
    # Two graphs with the same input, and weights beside the file where they are large.
    parts = [
        onnx_build.Part(template.filled(one.state_dict()), f"{name}.", {"pixels": "pixels"})
        for name, one in (("a", module), ("b", other))
    ]
    both = onnx_build.joined(parts, outputs=["a.found", "b.found"])
    monkeypatch.setattr(onnx_build, "MOST_BYTES", 0)
    found = outputs_of(both, tmp_path, pixels, {"classes": "[]"})
    assert (tmp_path / "one.onnx.data").exists()
    for one, wanted in zip(found, (module, other), strict=True):
        np.testing.assert_allclose(one, wanted(pixels).detach().numpy(), atol=1e-6)


@pytest.mark.slow
def test_what_cannot_be_exported_is_one_line(tmp_path):
    pytest.importorskip("onnxscript")

    class Odd(torch.nn.Module):
        def forward(self, pixels):
            return pixels if pixels.sum() > 1 else -pixels

    with pytest.raises(UserError, match=r"odd cannot be exported") as caught:
        onnx_build.template_of(Odd(), [torch.rand(2, 3)], inputs=["a"], outputs=["b"], what="odd")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_every_view_of_the_registry_is_the_same_in_a_graph(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    names = [one.example for one in VIEWS.values() if isinstance(one, DeviceView)]
    names += ["scale:0.8", "hflip*rotate:-30", "xshift:0.2", "crop:0.7:br", "gamma:2"]

    class Views(torch.nn.Module):
        def forward(self, pixels):
            return torch.stack([view_of(name)(pixels) for name in names])

    pixels = torch.rand(2, 3, 24, 18) * 255
    template = onnx_build.template_of(
        Views(), [pixels], inputs=["pixels"], outputs=["seen"], what="views"
    )
    pixels = torch.rand(5, 3, 24, 18) * 255
    (found,) = outputs_of(template.model, tmp_path, pixels)
    for name, one in zip(names, found, strict=True):
        np.testing.assert_allclose(one, view_of(name)(pixels).numpy(), atol=2e-3, err_msg=name)


@pytest.mark.slow
def test_graphs_of_a_blend_have_what_a_user_needs(runs_copy, tmp_path, blend_command):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    done = blend_command(
        runs_copy / "alpha", runs_copy / "beta", "--method", "stack", "--name", "both", "--no-page"
    )
    assert done.code == 0, done.err
    predictor = open_predictor(runs_copy / "both")
    said = []
    # It compares each graph with the engine, and raises where they differ.
    files = onnx_graph.write_onnx(predictor, tmp_path / "graphs", say=said.append)
    names = [f"{run}_fold_{index}.onnx" for run in ("alpha", "beta") for index in (0, 1)]
    assert [one.name for one in files] == [*names, "ensemble.onnx"]
    assert "images of the run" in said[-1]
    model = onnx.load(str(files[-1]))
    assert [one.name for one in model.graph.input] == ["pixels_32x32"]
    assert [one.name for one in model.graph.output] == ["logits", "probabilities"]
    records = {one.key: one.value for one in model.metadata_props}
    assert json.loads(records["classes"]) == [*predictor.classes]
    assert json.loads(records["views"]) == {"alpha": ["identity", "hflip"], "beta": ["identity"]}
    assert json.loads(records["preprocess"]) == {
        "pixels_32x32": json.loads(json.dumps(predictor.info["preprocess"]))
        if "preprocess" in predictor.info
        else json.loads((runs_copy / "alpha" / "run.json").read_text())["preprocess"]
    }


@pytest.mark.slow
def test_without_images_graphs_are_checked_on_noise(runs_copy):
    folder = runs_copy / "beta"
    said = []
    checker = onnx_check.Checker(open_predictor(folder), said.append)
    assert checker.what == "100 images of the run"
    assert not said
    table = pd.read_parquet(folder / "pictures.parquet")
    table["path"] = "/gone/" + table["image_id"]
    table.to_parquet(folder / "pictures.parquet")
    rehash(folder / "pictures.parquet")
    checker = onnx_check.Checker(open_predictor(folder), said.append)
    assert checker.what == "100 images of random noise"
    assert said == ["--onnx: the run's images are gone; graphs are checked on random noise"]


def test_views_that_are_drawn_are_refused_by_name(tiny_runs):
    leaves = open_predictor(tiny_runs / "alpha").leaves
    (key,) = leaves
    with pytest.raises(UserError, match=r"view train#0 of alpha"):
        onnx_graph._check_views({key: ["identity", "train#0"]}, leaves)
