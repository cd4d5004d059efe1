"""Code that only a run folder names is not imported: by no setting, and by no command."""

import importlib
import json
import os
import py_compile
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
import yaml

import foldblend as fb
from foldblend import commands
from foldblend.errors import UserError
from foldblend.flags import flags_of
from foldblend.plugins import load_custom, source_hash
from foldblend.runs.run import Run
from foldblend.sources import is_unchanged, joint_hash, module_file, source_hashes
from pipeline.config.command_line import parse_run_config
from pipeline.config.run import RunConfig
from pipeline.config.settings import make_config
from pipeline.config.trust import NOTHING, OwnPartError, Trust, is_known, own_parts
from pipeline.models.timm_import import timm
from pipeline.predict import session
from tests.makers.constants import ROOT, TINY
from tests.makers.edits import rehash

NAMES = {
    "backbone": "evil:TinyNet",
    "augment": "evil:Shuffled",
    "loss": "0.5*ce+0.5*evil:Brier",
    "sched": "evil:HalfCosine",
    "dataset": "evil:read_folders",
}
SOURCE = """
    import pathlib
    pathlib.Path({marker!r}).write_text("ran")
    from examples.own_parts import *
    from examples.own_parts import Brier, HalfCosine, Shuffled, TinyNet, read_folders

    class Own(TinyNet):
        pass
"""


def quiet(line):
    del line


class Evil:
    """A module that leaves a marker when it is imported."""

    def __init__(self, folder):
        self.marker = folder / "marker"
        self.file = folder / "evil.py"
        self.file.write_text(textwrap.dedent(SOURCE.format(marker=str(self.marker))))

    def forget(self):
        """Behave as a new process, which has imported nothing yet."""
        for name in [name for name in sys.modules if name.partition(".")[0] in ("evil", "evils")]:
            del sys.modules[name]
        importlib.invalidate_caches()
        # Models stay loaded for the next prediction of a process.
        session._session.cache_clear()
        self.marker.unlink(missing_ok=True)

    @property
    def ran(self):
        return self.marker.exists()


@pytest.fixture
def evil(tmp_path, monkeypatch):
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    module = Evil(folder)
    module.forget()
    yield module
    module.forget()


def _name(folder, **settings):
    """Write other settings into config.yaml of a run."""
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | settings))
    # Whoever makes a hostile run records its hashes too.
    rehash(file)
    return file


def _commands(folder, tmp_path, images):
    """Return the command line of everything that reads a run."""
    beside = folder.parent / "alpha"
    return {
        "run_cv": ["--config", folder / "config.yaml", "--output", tmp_path / "o", "--name", "x"],
        "plan": [
            *("--config", folder / "config.yaml", "--output", tmp_path / "p", "--name", "x"),
            *("--time-limit", "5m"),
        ],
        "tune": [
            *("--config", folder / "config.yaml", "--output", tmp_path / "t", "--name", "x"),
            *("--space", ROOT / "recipes" / "space.yaml", "--trials", "1"),
        ],
        "run_tta": [folder, "--views", "hflip,train:1", "--name", "turned"],
        "predict": [folder, images, "--out", tmp_path / "predicted.csv"],
        "export_model": [folder, "--to", tmp_path / "model.zip"],
        "blend": [folder, beside, "--output", tmp_path / "blends", "--method", "soft"],
        "leaderboard": [folder, beside],
        "report": [folder],
        "run_audit": ["--data", folder, "--quick"],
        "import_run": [
            *("--oof", tmp_path / "oof.csv", "--labels", folder, "--kind", "logits"),
            *("--output", tmp_path / "imported", "--name", "x"),
        ],
    }


def _write_oof(folder, file):
    """Write the out-of-fold logits of a run as another library would."""
    run = Run(folder)
    logits = pd.DataFrame(run.logits(run.oof), columns=list(run.classes))
    logits.assign(image_id=run.oof["image_id"], fold=run.oof["fold"]).to_csv(file, index=False)


ALL = [*_commands(Path("a/b"), Path("c"), Path("d"))]
# Commands that need the part, so that they must refuse; others go without it.
REFUSES = {
    "backbone": {"run_cv", "plan", "tune", "run_tta", "predict", "export_model"},
    "augment": {"run_cv", "plan", "tune", "run_tta"},
    "loss": {"run_cv", "plan", "tune"},
    "sched": {"run_cv", "plan", "tune"},
    "dataset": {"run_cv", "plan", "tune", "run_tta"},
}


def test_every_setting_that_may_name_a_part_is_tested():
    assert {name for name, about in flags_of(RunConfig).items() if about.parts} == {*NAMES}
    assert {*ALL} == {*commands.COMMANDS}


@pytest.mark.parametrize("command", ALL)
def test_no_command_imports_what_a_run_names(
    evil, runs_copy, tiny_layout, tmp_path, command_of, command
):
    images = tmp_path / "new"
    images.mkdir()
    shutil.copy(next(tiny_layout.glob("eval/images/*")), images / "one.jpg")
    run = command_of(getattr(commands, command))
    cases = {setting: {setting: value} for setting, value in NAMES.items()}
    if not any(command in refuses for refuses in REFUSES.values()):
        cases = {"backbone": NAMES}
    for setting, named in cases.items():
        folder = Path(shutil.copytree(runs_copy, tmp_path / setting / "outputs")) / "beta"
        _name(folder, **named)
        _write_oof(folder, tmp_path / setting / "oof.csv")
        argv = _commands(folder, tmp_path / setting, images)[command]
        done = run(*argv)
        assert not evil.ran, setting
        assert "Traceback" not in done.err
        if command in REFUSES[setting]:
            done.assert_one_line_error(
                f"{folder}/config.yaml: {setting} evil:", " is code of its own"
            )
        elif command != "run_audit":  # which takes no run
            assert done.code == 0, (setting, done.err)


def test_loading_a_run_imports_nothing(evil, runs_copy):
    _name(runs_copy / "beta", **NAMES)
    run = fb.load(runs_copy / "beta")
    assert len(run.oof)
    assert run.report
    assert repr(run)
    assert not evil.ran
    with pytest.raises(OwnPartError, match="type --parts evil:TinyNet again"):
        run.predict([np.zeros((40, 40, 3), np.uint8)])
    assert not evil.ran


@pytest.mark.parametrize("setting", ["backbone", "augment"])
def test_a_blend_and_a_tta_run_import_nothing_of_their_members(
    evil, runs_copy, tiny_layout, tmp_path, setting, command_of
):
    turned = fb.run_tta(runs_copy / "beta", views="identity,train:1", page=False, say=quiet)
    fb.blend([turned, runs_copy / "alpha"], name="both", method="soft", page=False, say=quiet)
    _name(runs_copy / "beta", **{setting: NAMES[setting]})
    image = next(tiny_layout.glob("eval/images/*"))
    for name in ("beta_tta", "both"):
        done = command_of(commands.predict)(runs_copy / name, image)
        done.assert_one_line_error(f"{setting} evil:", "--trust-parts")
        done = command_of(commands.export_model)(runs_copy / name, "--onnx", tmp_path / name)
        done.assert_one_line_error(f"{setting} evil:", "--trust-parts")
    assert not evil.ran


def test_a_file_of_settings_counts_by_its_place(evil, runs_copy, tmp_path):
    beside = _name(runs_copy / "beta", **NAMES)
    link = tmp_path / "link.yaml"
    link.symlink_to(beside)
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump(NAMES))
    for file in (beside, link):
        config = make_config(config=file)
        assert {*NAMES} <= {*config.read_back}
        typed = parse_run_config(["--config", str(file), "--loss", "evil:Brier"], fb_about())
        assert "loss" not in typed.read_back
        assert "backbone" in typed.read_back
        assert "backbone" not in make_config(config=file, backbone="evil:TinyNet").read_back
        with pytest.raises(OwnPartError, match=r"type --backbone evil:TinyNet again"):
            fb.cross_validate(config, say=quiet, dataset=None)
    assert not make_config(config=own).read_back
    # A run folder does not say that it is to be trusted.
    _name(runs_copy / "beta", trust_parts=True)
    assert make_config(config=beside).output.trust_parts is False
    assert not evil.ran


def fb_about():
    from foldblend.help import About

    return About("run_cv.py", "")


@pytest.fixture
def own_run(evil, tiny_layout, tmp_path):
    """Return a function that makes a run with own parts, of a module in the current folder."""

    def make(name="own", **parts):
        argv = ["--data", tiny_layout, "--output", tmp_path / "outputs", "--name", name, *TINY]
        for setting, value in parts.items():
            argv += [f"--{setting}", value]
        assert commands.run_cv([str(one) for one in argv]) == 0
        evil.forget()
        return tmp_path / "outputs" / name

    return make


def test_typed_again_or_unchanged_parts_are_imported(evil, own_run, tiny_layout, tmp_path):
    parts = {name: NAMES[name] for name in ("backbone", "augment", "loss", "sched")}
    folder = own_run(**parts)
    info = Run(folder).info
    assert {*info["sources"]} == {
        "evil:TinyNet",
        "evil:Shuffled",
        "evil:Brier",
        "evil:HalfCosine",
    }
    # The parts are defined in another module than the one they are named after.
    assert {*info["sources"]["evil:TinyNet"]} == {"evil", "examples.own_parts"}
    assert "sources" not in info["run_key"]
    image = str(next(tiny_layout.glob("eval/images/*")))
    expected = fb.predict(folder, image, parts="evil:TinyNet", say=quiet)
    assert evil.ran
    evil.forget()
    with pytest.raises(OwnPartError):
        fb.predict(folder, image, say=quiet)
    assert not evil.ran
    found = fb.predict(folder, image, trust_parts=True, say=quiet)
    assert evil.ran
    assert found.equals(expected)
    evil.forget()
    fb.run_tta(folder, views="hflip,train:1", trust_parts=True, page=False, say=quiet)
    assert evil.ran
    evil.forget()
    again = {"config": str(folder / "config.yaml"), "output": str(tmp_path / "again"), "say": quiet}
    with pytest.raises(OwnPartError):
        fb.cross_validate(**again)
    assert not evil.ran
    made = fb.cross_validate(**again, trust_parts=True)
    assert made.oof_hash == Run(folder).oof_hash
    assert "trust_parts: false" in (made.path / "config.yaml").read_text()

    # Then the source changes: only what is typed is imported.
    evil.file.write_text(evil.file.read_text() + "\nchanged = True\n")
    evil.forget()
    for call in (
        lambda: fb.predict(folder, image, trust_parts=True, say=quiet),
        lambda: fb.run_tta(folder, views="vflip", trust_parts=True, name="v", say=quiet),
        lambda: fb.cross_validate(**again, trust_parts=True),
    ):
        with pytest.raises(OwnPartError, match="its source is not what the run was made with"):
            call()
        assert not evil.ran
    fb.predict(folder, image, parts="evil:TinyNet", say=quiet)
    assert evil.ran
    with pytest.raises(UserError, match="changed since the run was made"):
        fb.run_tta(folder, views="vflip", parts="evil:TinyNet", name="v", say=quiet)


def test_a_run_of_an_earlier_version_has_one_hash_of_all_parts(evil, own_run, tiny_layout):
    folder = own_run(backbone="evil:Own")
    shared = own_run(name="shared", backbone="evil:TinyNet")
    image = str(next(tiny_layout.glob("eval/images/*")))
    for one in (folder, shared):
        file = one / "run.json"
        info = json.loads(file.read_text())
        del info["sources"]
        file.write_text(json.dumps(info))
    assert is_known(folder / "config.yaml", "evil:Own")
    fb.predict(folder, image, trust_parts=True, odd=False, say=quiet)
    evil.forget()
    # Its part is defined in a module that cannot be known without an import.
    with pytest.raises(OwnPartError, match="no hash that its source could be compared with; type"):
        fb.predict(shared, image, trust_parts=True, odd=False, say=quiet)
    assert not evil.ran
    fb.predict(shared, image, parts="evil:TinyNet", odd=False, say=quiet)
    # The same command counts as typed, and adds the hashes.
    own_run(name="shared", backbone="evil:TinyNet")
    assert is_known(shared / "config.yaml", "evil:TinyNet")


def test_sources_are_found_without_an_import(evil, tmp_path):
    package = evil.file.parent / "evils"
    (package / "deep").mkdir(parents=True)
    (package / "__init__.py").write_text(evil.file.read_text())
    # A package without __init__ within another one.
    (package / "deep" / "net.py").write_text("def Net(): pass\n")
    assert module_file("evils.deep.net") == package / "deep" / "net.py"
    assert module_file("evils") == package / "__init__.py"
    assert module_file("evils.absent") is None
    assert module_file("evils.deep.net.more") is None
    assert not evil.ran
    name = "evils.deep.net:Net"
    recorded = source_hashes(name, load_custom(name, name))
    assert {*recorded} == {"evils", "evils.deep.net", "examples.own_parts"}
    assert joint_hash([name]) == source_hash([name])
    evil.forget()
    assert is_unchanged(name, recorded)
    assert not evil.ran
    # Any of the files that an import executes.
    (package / "__init__.py").write_text(evil.file.read_text() + "more = 1\n")
    assert not is_unchanged(name, recorded)
    assert not is_unchanged(name, {"evils.deep.net": recorded["evils.deep.net"]})
    assert not is_unchanged(name, {})
    assert not evil.ran


def test_modules_of_python_are_nobodys_parts():
    for name, part in (
        ("os:system", os.system),
        ("builtins:exec", exec),
        ("torch.hub:load", torch.hub.load),
        ("joblib:load", joblib.load),
    ):
        recorded = source_hashes(name, part)
        assert not is_unchanged(name, recorded)
        assert joint_hash([name]) is None


def test_helper_modules_of_a_part_are_compared(evil):
    package = evil.file.parent / "evils"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "net.py").write_text("from . import sizes\nfrom .more import *\nNet = sizes.Net\n")
    (package / "sizes.py").write_text("import evils.deep\nclass Net: pass\n")
    for name in ("more", "deep"):
        (package / f"{name}.py").write_text("")
    name = "evils.net:Net"
    recorded = source_hashes(name, load_custom(name, name))
    modules = ("net", "sizes", "more", "deep")
    assert {*recorded} == {"evils", *(f"evils.{one}" for one in modules)}
    for module in modules:
        file = package / f"{module}.py"
        before = file.read_text()
        evil.forget()
        assert is_unchanged(name, recorded)
        file.write_text(f"{before}changed = 1\n")
        assert not is_unchanged(name, recorded)
        file.write_text(before)


@pytest.mark.parametrize("how", ["import added", "importlib.import_module('added')"])
def test_a_module_that_was_not_there_is_a_change(evil, how):
    package = evil.file.parent
    (package / "evils.py").write_text(
        f"import importlib\ntry:\n    {how}\nexcept ImportError:\n    pass\nclass Net: pass\n"
    )
    recorded = source_hashes("evils:Net", load_custom("evils:Net", "--loss"))
    assert is_unchanged("evils:Net", recorded)
    added = package / "added.py"
    added.write_text("")
    assert not is_unchanged("evils:Net", recorded)
    py_compile.compile(str(added), str(package / "added.pyc"))
    added.unlink()
    assert not is_unchanged("evils:Net", recorded)


def test_a_compiled_file_of_another_source_does_not_run(evil):
    file = evil.file.parent / "evils.py"
    file.write_text("Net = 'bad!'\n")
    py_compile.compile(str(file))
    when = file.stat().st_mtime_ns
    file.write_text("Net = 'good'\n")
    os.utime(file, ns=(when, when))
    assert load_custom("evils:Net", "--loss") == "good"


def test_modules_that_a_part_imports_when_called_are_compiled_from_source(tmp_path):
    """In a process that has imported nothing of foldblend but the loader of parts."""
    (tmp_path / "reads.py").write_text("def read():\n    import later\n    return later.NAME\n")
    later = tmp_path / "later.py"
    later.write_text("NAME = 'bad!'\n")
    py_compile.compile(str(later))
    when = later.stat().st_mtime_ns
    later.write_text("NAME = 'good'\n")
    os.utime(later, ns=(when, when))
    code = (
        f"import sys; sys.path.append({str(Path.cwd())!r}); from foldblend.plugins import"
        " load_custom; load_custom('reads:read', '--dataset');"
        " print(load_custom('reads:read', '--dataset')())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout == "good\n", done.stderr


def test_typed_parts_are_free_and_others_are_not(tmp_path):
    file = tmp_path / "config.yaml"
    parts = [("backbone", "evil:Net")]
    Trust(frozenset({"evil:Net"})).check(file, parts)
    for trust in (NOTHING, Trust(frozenset({"evil:Other"}))):
        with pytest.raises(OwnPartError, match=r"^\S+config.yaml: backbone evil:Net is code"):
            trust.check(file, parts)
    with pytest.raises(UserError, match="write names of your own parts"):
        fb.run_tta("outputs/run", parts="resnet18", say=quiet)
    config = make_config(loss="0.4*f1+0.6*a:b+c:d", backbone="local-dir:/tmp/x")
    assert own_parts(config) == [
        ("backbone", "local-dir:/tmp/x"),
        ("loss", "a:b"),
        ("loss", "c:d"),
    ]


@pytest.fixture
def saved_backbone(tmp_path):
    """Return a folder as timm saves one, with a model of other keywords than its architecture."""
    folder = tmp_path / "saved"
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=5, act_layer="silu")
    timm.models.save_for_hf(
        model, folder, model_args={"act_layer": "silu"}, safe_serialization=True
    )
    return folder


def test_a_backbone_in_a_folder_is_used_if_it_is_typed(
    saved_backbone, tiny_layout, tmp_path, command_of, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    tiny = [one for one in TINY if one not in ("--pretrained", "none")]
    argv = ["--data", tiny_layout, "--output", "outputs", "--name", "own", *tiny]
    done = command_of(commands.run_cv)(*argv, "--backbone", "local-dir:saved")
    assert done.code == 0, done.err
    folder = tmp_path / "outputs" / "own"
    info = Run(folder).info
    name = f"local-dir:{saved_backbone}"
    assert {*info["sources"]} == {name}
    assert info["run_key"]["weights"].startswith("file model.safetensors")
    image = str(next(tiny_layout.glob("eval/images/*")))
    with pytest.raises(OwnPartError, match=f"type --parts {name} again"):
        fb.predict(folder, image, say=quiet)
    expected = fb.predict(folder, image, parts=name, say=quiet)
    assert fb.predict(folder, image, trust_parts=True, say=quiet).equals(expected)
    fb.run_tta(folder, views="hflip", trust_parts=True, page=False, say=quiet)
    with pytest.raises(UserError, match="a file cannot carry"):
        fb.export_model(folder, tmp_path / "model.zip", say=quiet)
    config = saved_backbone / "config.json"
    described = json.loads(config.read_text())
    config.write_text(json.dumps(described | {"more": 1}))
    session._session.cache_clear()
    with pytest.raises(OwnPartError, match="its source is not what the run was made with"):
        fb.predict(folder, image, trust_parts=True, say=quiet)
    done = command_of(commands.run_cv)(*argv, "--backbone", "local-dir:saved")
    done.assert_one_line_error("was made with", "different backbone")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"architecture": "no_such_net"}, "architecture no_such_net"),
        ({"architecture": ["x"]}, "which timm does not have"),
        ({"model_args": {"no_such_keyword": 1}}, "cannot be built with the model_args"),
        ({"model_args": [1]}, "is no mapping"),
        ({"model_args": {"checkpoint_path": "x.pth"}}, "has checkpoint_path, which is not of"),
        ({"model_args": {"pretrained_cfg_overlay": {"file": "x.pth"}}}, "may load a file"),
        ({"model_args": {"no_jit": None, "features_only": True}}, "has features_only, which"),
        ({"pretrained_cfg": {"mean": "x"}}, "mean x; write three numbers"),
    ],
)
def test_a_wrong_description_of_a_backbone_is_one_line(
    saved_backbone, tiny_layout, tmp_path, command_of, changed, message
):
    file = saved_backbone / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    argv = ["--data", tiny_layout, "--output", tmp_path / "o", *TINY]
    done = command_of(commands.run_cv)(*argv, "--backbone", f"local-dir:{saved_backbone}")
    done.assert_one_line_error("--backbone local-dir:", message)


def test_pickled_weights_of_a_folder_do_not_run(
    evil, saved_backbone, tiny_layout, tmp_path, command_of
):
    class Bomb:
        def __reduce__(self):
            return Path.write_text, (evil.marker, "ran")

    (saved_backbone / "model.safetensors").unlink()
    torch.save({"state_dict": Bomb()}, saved_backbone / "pytorch_model.bin")
    tiny = [one for one in TINY if one not in ("--pretrained", "none")]
    argv = ["--data", tiny_layout, "--output", tmp_path / "o", *tiny]
    done = command_of(commands.run_cv)(*argv, "--backbone", f"local-dir:{saved_backbone}")
    done.assert_one_line_error("not a plain state dict")
    assert not evil.ran


def test_nothing_is_unpickled():
    """Every call of torch.load passes weights_only=True, and no file is read by pickle's loader.

    Processes on a cluster exchange pickled arguments and results, which are in no file
    (SECURITY.md).
    """
    root = Path(fb.__file__).parents[1]
    messages = [root / "foldblend" / "cluster" / name for name in ("calls.py", "worker.py")]
    for package in ("foldblend", "reports", "folds", "ensemble", "tta", "pipeline"):
        for file in (root / package).rglob("*.py"):
            text = file.read_text()
            assert len(re.findall(r"(?<!safetensors\.)torch\.load\(", text)) == text.count(
                "weights_only=True"
            ), file
            assert file in messages or "pickle.load" not in text
            assert "pickle.load(" not in text
            assert "allow_pickle=True" not in text
