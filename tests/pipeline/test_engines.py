"""Engines of inference: equal logits, torch in their place where they fail, and whole runs."""

import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

import foldblend as fb
import pipeline.training.fold_training as training
from foldblend.runs.calibrated import calibration_of
from foldblend.runs.run import Run
from pipeline import inference_engine, prepare
from pipeline.config.settings import make_config
from pipeline.config.trust import NOTHING
from pipeline.cv import cross_validate
from pipeline.data.preprocess import Preprocess
from pipeline.device import Compute
from pipeline.engines import forward as forwards
from pipeline.engines import graphs, registry
from pipeline.engines.forward import Forward, padded, usable_engine
from pipeline.engines.heads import NoLastLayer
from pipeline.engines.registry import ENGINES, ROWS, why_not
from pipeline.engines.spec import spec_of
from pipeline.models.timm_import import timm
from pipeline.predict.recipe import Recipe, recipe_of
from pipeline.view_logits import add_views
from tests.makers.constants import ROOT
from tta.saved_views import saved_rows

CPU = Compute(torch.device("cpu"), None, torch.channels_last)
GRAPHS = [name for name, kind in ENGINES.items() if kind.is_graph and not kind.absent]
SIDE = 32
PREPROCESS = Preprocess(width=SIDE, height=SIDE, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.2))


@pytest.fixture(autouse=True)
def nothing_in_memory():
    """Forget engines and graphs, which a process keeps."""
    forwards._engines.cache_clear()
    graphs._graphs.cache_clear()


def quiet(_):
    pass


def model_of(backbone="test_efficientnet", seed=0, num_classes=5):
    torch.manual_seed(seed)
    made = timm.create_model(backbone, num_classes=num_classes, **inputs_of(backbone))
    # Batch statistics that change pixels show that they are in the graph.
    for name, value in made.named_buffers():
        if name.endswith("running_mean"):
            value.normal_(std=0.1)
    return made.eval().to(memory_format=torch.channels_last)


def inputs_of(backbone):
    return {"img_size": SIDE} if "vit" in backbone else {}


def spec(engine, backbone="test_efficientnet", threads=1, folder=None):
    return spec_of(
        engine,
        backbone=backbone,
        kwargs={},
        num_classes=5,
        attributes=(),
        ordinal=None,
        frozen=False,
        preprocess=PREPROCESS,
        batch_size=64,
        threads=threads,
        folder=folder,
    )


def pixels_of(num, seed=1):
    random = torch.Generator().manual_seed(seed)
    return torch.randint(256, (num, 3, SIDE, SIDE), generator=random).float()


@torch.inference_mode()
def outputs(forward, pixels):
    return forward(pixels).numpy()


@torch.inference_mode()
def by_torch(model, pixels):
    standard = PREPROCESS.standardise(pixels)
    return model(standard.contiguous(memory_format=torch.channels_last)).numpy()


@pytest.mark.parametrize("engine", GRAPHS)
@pytest.mark.parametrize("backbone", ["test_efficientnet", "test_resnet", "test_vit"])
def test_an_engine_gives_the_outputs_of_torch(engine, backbone):
    model = model_of(backbone)
    forward = Forward(model, PREPROCESS, CPU, spec(engine, backbone))
    assert forward.problem is None
    for num in (1, ROWS, 2 * ROWS + 3):
        pixels = pixels_of(num)
        np.testing.assert_allclose(outputs(forward, pixels), by_torch(model, pixels), atol=2e-5)
    assert forward.engine == engine
    assert 0 < forward.difference < 2e-5


@pytest.mark.parametrize("engine", GRAPHS)
def test_outputs_of_an_image_depend_on_nothing_else(engine):
    """Neither on the other images, nor on their number, nor on the number of threads."""
    model = model_of()
    pixels = pixels_of(3 * ROWS + 1)
    together = outputs(Forward(model, PREPROCESS, CPU, spec(engine)), pixels)
    turned = outputs(Forward(model, PREPROCESS, CPU, spec(engine, threads=2)), pixels.flip(0))
    np.testing.assert_array_equal(turned[::-1], together)
    alone = outputs(Forward(model, PREPROCESS, CPU, spec(engine, threads=3)), pixels[5:6])
    np.testing.assert_array_equal(alone[0], together[5])


@pytest.mark.parametrize("engine", GRAPHS)
def test_an_architecture_is_exported_once_and_filled_with_each_models_weights(
    engine, monkeypatch, tmp_path
):
    exports = []
    real = graphs.exported
    monkeypatch.setattr(graphs, "exported", lambda *a, **k: exports.append(1) or real(*a, **k))
    pixels = pixels_of(ROWS)
    for seed in range(3):
        model = model_of(seed=seed)
        forward = Forward(model, PREPROCESS, CPU, spec(engine, folder=tmp_path))
        np.testing.assert_allclose(outputs(forward, pixels), by_torch(model, pixels), atol=2e-5)
    assert len(exports) == 1
    # Another process finds it on disk, also for other engines; a damaged one is made again.
    (file,) = tmp_path.glob("*.graph")
    whole = file.read_bytes()
    for data, num in ((whole, 1), (whole[:-1], 2), (b"", 3)):
        forwards._engines.cache_clear()
        graphs._graphs.cache_clear()
        file.write_bytes(data)
        again = Forward(model, PREPROCESS, CPU, spec(GRAPHS[-1], folder=tmp_path))
        np.testing.assert_allclose(outputs(again, pixels), by_torch(model, pixels), atol=2e-5)
        assert len(exports) == num
        assert file.read_bytes()[16:] == whole[16:] or num == 1


@pytest.mark.parametrize("engine", ["torch", *GRAPHS])
def test_features_are_the_input_of_the_last_linear_layer(engine):
    model = model_of("test_resnet")
    pixels = pixels_of(ROWS + 1)
    forward = Forward(model, PREPROCESS, CPU, spec(engine, "test_resnet"))
    with torch.inference_mode():
        found, features = forward.watched(pixels)
        head = model.get_classifier()
        torch.testing.assert_close(head(features), found, atol=1e-5, rtol=0)
    np.testing.assert_allclose(found.numpy(), by_torch(model, pixels), atol=2e-5)


class NoLinear(torch.nn.Module):
    """A model without a linear layer at its end."""

    def forward(self, pixels):
        return pixels.mean(dim=(2, 3))


@pytest.mark.parametrize("engine", ["torch", *GRAPHS])
def test_a_model_without_a_linear_layer_has_no_features(engine):
    forward = Forward(NoLinear(), PREPROCESS, CPU, spec(engine, "no-linear"))
    np.testing.assert_allclose(
        outputs(forward, pixels_of(3)), by_torch(forward.model, pixels_of(3)), atol=1e-6
    )
    with pytest.raises(NoLastLayer):
        forward.watched(pixels_of(3))


@pytest.mark.skipif("openvino" not in GRAPHS, reason="OpenVINO is not installed")
def test_openvino_computes_in_float32_without_telemetry(monkeypatch):
    engine = ENGINES["openvino"].make(model_of(), spec("openvino"))
    taken = {}
    compiled = engine.core.compile_model

    class Core:
        read_model = engine.core.read_model

        def compile_model(self, *given):
            taken["model"] = compiled(*given)
            return taken["model"]

    engine.core = Core()
    telemetry = pytest.importorskip("openvino_telemetry")
    monkeypatch.setattr(telemetry.Telemetry, "init", pytest.fail)
    engine.load(model_of())(pixels_of(ROWS))
    assert taken["model"].get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"


# A thread ends the engine that the first thread made, and the first thread gets a signal. Python's
# handlers run on the alternate stack of a thread, where it has one, as under pytest.
SIGNAL_AFTER_AN_ENGINE = """
import faulthandler, gc, os, signal, threading
faulthandler.enable()
from tests.pipeline.test_engines import ENGINES, model_of, spec
held = [ENGINES["openvino"].make(model_of(), spec("openvino"))]
held.append(held[0].load(model_of()))
def end():
    held.clear()
    gc.collect()
thread = threading.Thread(target=end)
thread.start()
thread.join()
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGUSR1)
"""


@pytest.mark.skipif("openvino" not in GRAPHS, reason="OpenVINO is not installed")
def test_a_signal_after_openvino_ended_in_another_thread_is_handled():
    command = [sys.executable, "-c", SIGNAL_AFTER_AN_ENGINE]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


FIRST_ARRAYS = """
import os, sys, threading
import numpy as np
from openvino import Model, opset13
from pipeline.engines.openvino_runtime import _core
pixels = opset13.parameter([1], np.float32)
compiled = _core().compile_model(Model([opset13.relu(pixels)], [pixels]), "CPU")
start = threading.Barrier(4)
def infer():
    request = compiled.create_infer_request()
    start.wait()
    request.infer({0: np.zeros(1, np.float32)}, share_inputs=True)
sys.setswitchinterval(1e-6)
threads = [threading.Thread(target=infer) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


@pytest.mark.slow
@pytest.mark.skipif("openvino" not in GRAPHS, reason="OpenVINO is not installed")
def test_threads_that_pass_the_first_arrays_to_openvino_do_not_wait_for_ever():
    # Without the mend, about one in six of these processes hung.
    for _ in range(10):
        subprocess.run([sys.executable, "-c", FIRST_ARRAYS], cwd=ROOT, check=True, timeout=120)


class Unused(torch.nn.Module):
    """A model that says to end in a layer which it does not use."""

    def __init__(self, error=None):
        super().__init__()
        self.fc = torch.nn.Linear(3, 5)
        self.other = torch.nn.Linear(3, 5)
        self.error = error

    def get_classifier(self):
        if self.error is not None:
            raise self.error
        return self.other

    def forward(self, pixels):
        return self.fc(pixels.mean(dim=(2, 3)))


@pytest.mark.parametrize("engine", ["torch", *GRAPHS])
@pytest.mark.parametrize("error", [None, ValueError("no classifier")])
def test_a_model_with_another_head_than_it_says_has_no_features(engine, error):
    model = Unused(error).eval()
    forward = Forward(model, PREPROCESS, CPU, spec(engine, f"unused {error}"))
    np.testing.assert_allclose(
        outputs(forward, pixels_of(3)), by_torch(model, pixels_of(3)), atol=1e-6
    )
    assert forward.engine == engine
    with pytest.raises(NoLastLayer):
        forward.watched(pixels_of(3))


class Branches(torch.nn.Module):
    """A model whose path depends on its pixels, which no graph can have."""

    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(3, 5)

    def forward(self, pixels):
        means = pixels.mean(dim=(2, 3))
        return self.fc(means if means.sum() > 0 else -means)


@pytest.mark.parametrize("engine", GRAPHS)
def test_a_model_that_cannot_be_exported_stays_with_torch(engine, capfd):
    said = []
    model = Branches().eval()
    forward = Forward(model, PREPROCESS, CPU, spec(engine, "branches"), say=said.append)
    np.testing.assert_array_equal(outputs(forward, pixels_of(3)), by_torch(model, pixels_of(3)))
    assert forward.engine == "torch"
    (line,) = said
    assert "cannot be exported" in line
    assert "data-dependent" in line
    assert "torch is used" in line
    assert "\n" not in line
    assert "\x1b" not in line
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""


def replaced(monkeypatch, engine, change):
    """Let an engine's forward pass be changed by a function of its outputs."""
    made = ENGINES[engine].make

    class Changed:
        def __init__(self, inner):
            self.inner = inner

        def load(self, model):
            run = self.inner.load(model)
            return lambda pixels: change(*run(pixels))

    monkeypatch.setattr(registry.Kind, "make", lambda self, model, one: Changed(made(model, one)))


def far(logits, features):
    return logits + 0.002, features


def breaks(logits, features):
    raise RuntimeError("no kernel\nfor this")


@pytest.mark.parametrize(
    ("change", "words"), [(far, "differ from torch's by 0.002"), (breaks, "no kernel")]
)
def test_an_engine_that_differs_or_breaks_is_replaced_by_torch(change, words, monkeypatch):
    replaced(monkeypatch, "onnx", change)
    said = []
    model = model_of()
    forward = Forward(model, PREPROCESS, CPU, spec("onnx"), say=said.append)
    pixels = pixels_of(ROWS)
    filled_up = by_torch(model, padded(pixels, 64))[: len(pixels)]
    np.testing.assert_array_equal(outputs(forward, pixels), filled_up)
    np.testing.assert_array_equal(outputs(forward, pixels), by_torch(model, pixels))
    (line,) = said
    assert words in line
    assert "\n" not in line
    assert forward.engine == "torch"


def test_torch_gets_full_batches_where_it_takes_over(monkeypatch):
    replaced(monkeypatch, "onnx", far)
    model = model_of()
    pixels = pixels_of(5)
    found = outputs(Forward(model, PREPROCESS, CPU, spec("onnx")), pixels)
    np.testing.assert_array_equal(found, by_torch(model, padded(pixels, 64))[:5])


def test_an_engine_that_breaks_later_is_an_error(monkeypatch):
    """The images before are its own, so torch's would be of another model to the last bits."""
    calls = []

    def breaks_later(*found):
        calls.append(1)
        if len(calls) > 1:
            raise MemoryError("no memory")
        return found

    replaced(monkeypatch, "onnx", breaks_later)
    forward = Forward(model_of(), PREPROCESS, CPU, spec("onnx"))
    outputs(forward, pixels_of(ROWS))
    with pytest.raises(fb.UserError, match=r"--infer-engine onnx: .*no memory.*again"):
        outputs(forward, pixels_of(ROWS))


@pytest.mark.parametrize("engine", GRAPHS)
def test_a_broken_package_leaves_the_run_to_torch(engine, monkeypatch):
    """Its import fails, or its version is unknown as for onnxruntime-gpu."""
    package = {"onnx": "onnxruntime", "openvino": "openvino"}[engine]
    monkeypatch.setitem(sys.modules, package, None)
    said = []
    forward = Forward(model_of(), PREPROCESS, CPU, spec(engine), say=said.append)
    assert (forward.engine, len(said)) == ("torch", 1)
    find = registry.importlib.metadata.version

    def lacks(name):
        if name == package:
            raise registry.importlib.metadata.PackageNotFoundError
        return find(name)

    monkeypatch.setattr(registry.importlib.metadata, "version", lacks)
    assert f"{package} None" in ENGINES[engine].versions


def test_what_an_engine_needs_is_named(monkeypatch):
    cuda = torch.device("cuda")
    cpu = torch.device("cpu")
    assert why_not("onnx", cpu) is None
    assert "CPU only" in why_not("onnx", cuda)
    assert why_not("compile", cuda) is None
    with monkeypatch.context() as patch:
        patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
        patch.setattr(registry.platform, "machine", lambda: "x86_64")
        assert "AVX2" in why_not("onnx", cpu)
        patch.setattr(registry.platform, "machine", lambda: "aarch64")
        assert why_not("onnx", cpu) is None
    with monkeypatch.context() as patch:
        patch.setattr(registry.shutil, "which", lambda _: None)
        assert "compiler" in why_not("compile", cpu)
    patch_absent(monkeypatch, "openvino")
    assert "pip install 'foldblend[openvino]'" in why_not("openvino", cpu)
    said = []
    assert usable_engine(spec("openvino"), cpu, said.append) == "torch"
    assert len(said) == 1


def patch_absent(monkeypatch, package):
    find = registry.importlib.util.find_spec
    monkeypatch.setattr(
        registry.importlib.util, "find_spec", lambda name: None if name == package else find(name)
    )


RUN = {
    "folds": 2,
    "epochs": 2,
    "img_size": SIDE,
    "batch_size": 8,
    "pretrained": "none",
    "workers": 0,
    "threads": 1,
    "backbone": "test_efficientnet",
    "log_pictures": False,
    "page": False,
    "validation_batch_size": 16,
    "save_every": 0.0,
}


def run_with(engine, layout, output, name="a", say=quiet, **changes):
    settings = {**RUN, "data": str(layout), "output": str(output), "name": name, **changes}
    return cross_validate(make_config(settings, infer_engine=engine), say=say)


@pytest.fixture(scope="module")
def runs(tiny_layout, tmp_path_factory):
    """Return outputs/ with fine-tuned and frozen runs of torch and of each engine."""
    made = tmp_path_factory.mktemp("engines")
    for engine in ["torch", *GRAPHS]:
        run_with(engine, tiny_layout, made, f"{engine}_full", tta="hflip")
        run_with(engine, tiny_layout, made, f"{engine}_head", finetune="head")
    return made


@pytest.mark.parametrize("engine", GRAPHS)
@pytest.mark.parametrize("kind", ["full", "head"])
def test_a_run_by_an_engine_is_that_of_torch_but_for_rounding(engine, kind, runs):
    one = Run(runs / f"{engine}_{kind}")
    other = Run(runs / f"torch_{kind}")
    for table in ("oof", "test"):
        found = one.logits(getattr(one, table))
        expected = other.logits(getattr(other, table))
        np.testing.assert_allclose(found, expected, atol=1e-3)
        assert (found != expected).any()
    assert one.settings["infer_engine"] == engine
    assert {fold["engine"] for fold in one.info["folds"]} == {engine}
    assert all("engine" not in fold for fold in other.info["folds"])
    # Runs of torch are the runs of versions without engines.
    assert other.info["run_key"]["configuration"] != one.info["run_key"]["configuration"]


@pytest.mark.parametrize("engine", GRAPHS)
@pytest.mark.parametrize("kind", ["full", "head"])
def test_predictions_and_views_of_a_run_use_its_engine(engine, kind, runs, tiny_layout, tmp_path):
    """Predictions of the test images have the run's bits, and a view is not torch's."""
    folders = [
        shutil.copytree(runs / f"{name}_{kind}", tmp_path / name) for name in (engine, "torch")
    ]
    run = Run(folders[0])
    images = [str(tiny_layout / "eval" / "images" / name) for name in run.test["image_id"]]
    found = fb.predict(folders[0], images, say=quiet)
    proba_NC = calibration_of(run).proba(run.logits(run.test))
    columns = [f"proba_{name}" for name in run.classes]
    np.testing.assert_array_equal(found[columns].to_numpy(), proba_NC)
    # The engine of a prediction can be chosen.
    other = fb.predict(folders[1], images, infer_engine=engine, say=quiet)
    if kind == "full":
        np.testing.assert_array_equal(other[columns].to_numpy(), proba_NC)
    assert (other[columns] != fb.predict(folders[1], images, say=quiet)[columns]).any(axis=None)
    views = []
    for folder in folders:
        add_views(folder, ["vflip"], say=quiet)
        rows = saved_rows(Run(folder), 0, "test")
        rows = rows[rows["view"] == "vflip"].sort_values("image_id")
        views.append(run.logits(rows))
    np.testing.assert_allclose(views[0], views[1], atol=1e-3)
    assert (views[0] != views[1]).any()


@pytest.mark.parametrize("engine", GRAPHS)
@pytest.mark.parametrize("changes", [{}, {"finetune": "head"}])
def test_a_run_that_is_killed_goes_on_with_the_same_bits(
    engine, changes, tiny_layout, tmp_path, monkeypatch
):
    whole = run_with(engine, tiny_layout, tmp_path, "whole", **changes)

    class Killed(BaseException):
        pass

    written = []

    def dies(*given, **named):
        if written:
            raise Killed
        written.append(1)
        return real(*given, **named)

    module = (
        training
        if not changes
        else __import__("pipeline.frozen.run_heads", fromlist=["write_fold"])
    )
    real = module.write_fold
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_fold", dies)
        with pytest.raises(Killed):
            run_with(engine, tiny_layout, tmp_path, "broken", **changes)
    # The command says nothing of the engine: it is that of the run.
    again = run_with("auto", tiny_layout, tmp_path, "broken", **changes)
    for table in ("oof", "test"):
        pd.testing.assert_frame_equal(
            getattr(again, table), getattr(whole, table), check_exact=True
        )


def test_a_short_run_is_not_measured_and_stays_with_torch(tiny_layout, tmp_path):
    said = []
    run = run_with("auto", tiny_layout, tmp_path, say=said.append)
    assert run.settings["infer_engine"] == "torch"
    assert sum(line.startswith("inference: torch") for line in said) == 1


def test_a_run_of_a_version_without_engines_goes_on_with_torch(tiny_layout, tmp_path):
    run = run_with("torch", tiny_layout, tmp_path)
    file = run.path / "config.yaml"
    lines = [one for one in file.read_text().splitlines() if not one.startswith("infer_engine")]
    file.write_text("\n".join(lines) + "\n")
    key = json.loads((run.path / "run.json").read_text())["run_key"]
    said = []
    again = run_with("auto", tiny_layout, tmp_path, say=said.append)
    assert again.info["run_key"] == key
    assert any("nothing was trained" in line for line in said)


def test_a_run_goes_on_where_its_engine_is_not_installed(tiny_layout, tmp_path, monkeypatch, runs):
    """Torch is used, and the command that installs the engine is said; nothing is lost."""
    source = runs / "onnx_full"
    folder = shutil.copytree(source, tmp_path / source.name)
    patch_absent(monkeypatch, "onnxruntime")
    said = []
    found = fb.predict(folder, tiny_layout / "eval" / "images", say=said.append)
    assert len(found) == len(Run(folder).test)
    assert sum("pip install 'foldblend[onnx]'" in line for line in said) == 1
    said.clear()
    run = run_with("onnx", tiny_layout, tmp_path, "new", say=said.append)
    assert run.settings["infer_engine"] == "torch"
    assert sum("pip install 'foldblend[onnx]'" in line for line in said) == 1
    # The same command finds the run that it has made.
    said.clear()
    run_with("onnx", tiny_layout, tmp_path, "new", say=said.append)
    assert any("nothing was trained" in line for line in said)


def test_a_run_is_made_by_the_engine_that_another_process_has_begun_it_with(
    tiny_layout, tmp_path, monkeypatch
):
    """Both measure; the second one finds the settings of the first when it has the lock."""
    begun = run_with("onnx", tiny_layout, tmp_path, only_folds="0")
    monkeypatch.setattr(prepare, "as_started", lambda config, written: config)
    found = Run(tmp_path / "a").settings
    monkeypatch.setattr(Run, "settings", property(lambda _: {}))
    monkeypatch.setattr(inference_engine.Run, "settings", property(lambda _: found))
    run = run_with("auto", tiny_layout, tmp_path)
    assert {fold["engine"] for fold in run.info["folds"]} == {"onnx"}
    assert run.info["run_key"] == begun.info["run_key"]


def test_recipes_without_engines_are_as_they_were(tiny_runs, runs):
    """Predictions that an earlier version began are continued by their key."""
    of_torch = recipe_of(Run(tiny_runs / "beta"), NOTHING)
    assert "on_torch" not in of_torch.as_dict()
    assert Recipe.from_dict(of_torch.as_dict()) == of_torch
    by_engine = dataclasses.replace(recipe_of(Run(runs / "onnx_full"), NOTHING), on_torch=(1,))
    assert by_engine.engine == "onnx"
    assert Recipe.from_dict(by_engine.as_dict()) == by_engine


def test_features_of_engines_are_cached_apart(tiny_layout, tmp_path):
    said = []
    common = {"finetune": "head", "cache": "disk", "cache_dir": str(tmp_path / "cache")}
    for name, engine in (("a", "torch"), ("b", "onnx"), ("c", "torch"), ("d", "onnx")):
        run_with(engine, tiny_layout, tmp_path, name, say=said.append, **common)
    lines = [line for line in said if line.startswith("features:")]
    assert ["cache" in line for line in lines] == [False, False, True, True]
    assert len(list((tmp_path / "cache" / "features").iterdir())) == 2


@pytest.mark.slow
def test_compiled_torch_gives_the_outputs_of_torch():
    one = dataclasses.replace(spec("compile"), shape=(ROWS, 3, SIDE, SIDE))
    pixels = pixels_of(ROWS)
    for seed in range(2):
        model = model_of(seed=seed)
        forward = Forward(model, PREPROCESS, CPU, one)
        np.testing.assert_allclose(outputs(forward, pixels), by_torch(model, pixels), atol=2e-5)
        assert forward.engine == "compile", forward.problem
