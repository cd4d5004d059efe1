"""Choice of the engine of a new run: measured once, kept, and decided by a rule."""

import json

import pytest
import torch

from pipeline.config.settings import make_config
from pipeline.cv import cross_validate
from pipeline.data.preprocess import Preprocess
from pipeline.device import Compute
from pipeline.engines import choose, measured
from pipeline.engines.choose import Work, choose_engine, fastest
from pipeline.engines.measured import Measured, kept, measured_in, saves
from pipeline.engines.registry import ENGINES
from pipeline.engines.spec import spec_of
from pipeline.models.timm_import import timm
from tests.pipeline.test_engines import RUN

SIDE = 32
CPU = Compute(torch.device("cpu"), None, torch.channels_last)
PREPROCESS = Preprocess(width=SIDE, height=SIDE, mean=(0.5,) * 3, std=(0.5,) * 3)
LONG = Work(num_images=10**9, num_models=5)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return timm.create_model("test_efficientnet", num_classes=4).eval()


def spec_for(folder):
    return lambda engine: spec_of(
        engine,
        backbone="test_efficientnet",
        kwargs={},
        num_classes=4,
        attributes=(),
        ordinal=None,
        frozen=False,
        preprocess=PREPROCESS,
        batch_size=64,
        threads=1,
        folder=folder,
    )


def chosen(model, folder, asked="auto", work=LONG, compute=CPU):
    """Return the engine and the lines that are said."""
    said = []
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (4, 3, SIDE, SIDE), generator=random).float()
    engine = choose_engine(
        asked, model, pixels, PREPROCESS, compute, spec_for(folder), work, said.append
    )
    return engine, said


def speeds(**seconds):
    return {
        name: Measured(engine=name, seconds=one, load_seconds=0.0 if name == "torch" else 2.0)
        for name, one in seconds.items()
    }


def test_the_fastest_engine_is_taken_where_it_pays():
    found = speeds(torch=0.020, onnx=0.010, openvino=0.008)
    engine, why = fastest(found, Work(num_images=10_000, num_models=5))
    assert (engine, why.split(" (")[0]) == ("openvino", "2.5 times as fast as torch here")
    # 12 ms saved for each of 800 images are 9.6 s, and five models take 10 s to load.
    assert fastest(found, Work(num_images=800, num_models=5))[0] == "torch"
    assert fastest(found, Work(num_images=850, num_models=5))[0] == "openvino"
    assert fastest(speeds(torch=0.020, onnx=0.0185), LONG)[0] == "torch"
    assert fastest(speeds(torch=0.020, onnx=0.0181), LONG)[0] == "onnx"
    assert fastest(speeds(torch=0.020, onnx=0.030), LONG)[0] == "torch"


def test_an_engine_with_a_problem_is_not_taken_and_named():
    found = speeds(torch=0.020, openvino=0.010)
    found["onnx"] = Measured(engine="onnx", problem="the model cannot be exported")
    engine, why = fastest(found, LONG)
    assert engine == "openvino"
    assert "onnx: the model cannot be exported" in why
    del found["openvino"]
    assert fastest(found, LONG)[0] == "torch"


def test_a_measurement_is_made_once_and_kept(model, tmp_path, monkeypatch):
    engine, said = chosen(model, tmp_path)
    assert engine in ("torch", "onnx", "openvino")
    (line,) = said
    assert line.startswith(f"inference: {engine}, ")
    assert "ms per image: torch" in line
    (file,) = tmp_path.glob("*.json")
    about = json.loads(file.read_text())
    assert {"torch", "onnx"} <= set(about["engines"])
    assert about["versions"]["torch"].startswith("2.")
    assert about["processor"]
    monkeypatch.setattr(choose, "measure", pytest.fail)
    assert chosen(model, tmp_path) == (engine, said)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"engines": 3}',
        '{"engines": {"torch": {"seconds": "fast"}}}',
        '{"engines": {"torch": {"seconds": 1' + "0" * 400 + "}}}",
        '{"engines": {"torch": {"seconds": 0.1, "problem": "none"}}}',
        '{"engines": {"torch": {"seconds": 0.1}, "banana": {"seconds": 0.001}}}',
    ],
)
def test_a_damaged_measurement_is_made_again(text, model, tmp_path):
    chosen(model, tmp_path)
    (file,) = tmp_path.glob("*.json")
    file.write_text(text)
    assert kept(file) == {}
    _, said = chosen(model, tmp_path)
    assert len(said) == 1
    assert "torch" in kept(file)


def test_an_engine_saves_time_where_the_measurement_says_so(tmp_path):
    spec = spec_for(tmp_path)("onnx")
    assert not saves(spec, CPU, 10**9)
    measured.keep(measured_in(spec, CPU), speeds(torch=0.02, onnx=0.01), num_images=16)
    assert saves(spec, CPU, 201)
    assert not saves(spec, CPU, 199)
    assert not saves(spec_for(tmp_path)("openvino"), CPU, 10**9)
    # Nothing is known where nothing is kept.
    assert not saves(spec_for(None)("onnx"), CPU, 10**9)


def test_short_work_and_gpus_stay_with_torch(model, tmp_path, monkeypatch):
    monkeypatch.setattr(choose, "measure", pytest.fail)
    engine, said = chosen(model, tmp_path, work=Work(num_images=1, num_models=1))
    assert engine == "torch"
    assert said == ["inference: torch, whose forward passes take about 1 s in all"]
    cuda = Compute(torch.device("cuda"), None, torch.channels_last)
    assert chosen(model, tmp_path, compute=cuda) == ("torch", [])
    assert chosen(model, tmp_path, asked="torch") == ("torch", [])


def test_without_other_engines_the_command_that_installs_them_is_said(model, tmp_path, monkeypatch):
    for kind in ENGINES.values():
        monkeypatch.setattr(type(kind), "absent", property(lambda self: [*self.packages]))
    engine, (line,) = chosen(model, tmp_path)
    assert engine == "torch"
    assert "pip install 'foldblend[onnx]' 'foldblend[openvino]'" in line


def test_epochs_are_scored_by_the_engine_where_that_pays(tiny_layout, tmp_path, monkeypatch):
    """The scores of epochs are shown only, so the run is the same."""
    import pipeline.training.fold_training as training

    runs = []
    for name, pays in (("a", False), ("b", True)):
        monkeypatch.setattr(training, "saves", lambda *_, pays=pays: pays)
        # Dropout draws from torch's random numbers, which an export must leave as they are.
        settings = {**RUN, "data": str(tiny_layout), "output": str(tmp_path), "name": name}
        settings |= {"drop": 0.3, "cache": "off"}
        runs.append(cross_validate(make_config(settings, infer_engine="onnx"), say=lambda _: None))
    one, other = runs
    assert one.oof.equals(other.oof)
    assert one.test.equals(other.test)
