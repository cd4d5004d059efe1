"""Tests of the public names: types, documentation, errors, and what an import loads."""

import ast
import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import foldblend as fb
from foldblend.commands import COMMANDS
from foldblend.moved import MOVED
from tests.makers.constants import ROOT

STUB = Path(fb.__file__).with_suffix(".pyi")


def test_the_stub_has_the_public_names():
    found = {}
    for node in ast.parse(STUB.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            found |= {
                alias.asname: node.module for alias in node.names if alias.name == alias.asname
            }
    assert found == fb.PUBLIC


@pytest.mark.parametrize("name", fb.PUBLIC)
def test_every_name_is_there_typed_and_documented(name):
    found = getattr(fb, name)
    assert found.__name__ == name
    assert found.__module__ == fb.PUBLIC[name]
    assert found.__doc__
    assert name in dir(fb)
    assert f"`fb.{name}" in (ROOT / "docs" / "api.md").read_text(encoding="utf-8")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'cross_valdate'"):
        fb.cross_valdate  # noqa: B018


def test_an_import_loads_no_heavy_package():
    code = (
        "import sys, foldblend; assert not {'torch', 'pandas', 'numpy', 'sklearn', 'cv2', 'tyro'} &"
        " set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


SLOW = [pytest.param("audit", marks=pytest.mark.slow)]
EXAMPLES = [
    *SLOW,
    "blend",
    "build_manifest",
    "cross_validate",
    "explain",
    "import_run",
    "leaderboard",
    "load",
    "predict",
    "run_tta",
    "Run",
]


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_in_docstrings_run(name, runs_copy, tiny_layout, tmp_path):
    names = {
        "fb": fb,
        "data": str(tiny_layout),
        "output": tmp_path,
        "outputs": runs_copy,
        "silent": lambda _: None,
    }
    tests = list(doctest.DocTestFinder(recurse=False).find(getattr(fb, name), name, globs=names))
    assert tests
    assert tests[0].examples
    for one in tests:
        assert doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(one).failed == 0


def test_examples_in_the_documentation_run(runs_copy, tiny_layout, tmp_path):
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    names = {"data": str(tiny_layout), "output": tmp_path, "outputs": runs_copy}
    test = doctest.DocTestParser().get_doctest(
        text.replace("```", ""), names, "api.md", "api.md", 0
    )
    assert len(test.examples) > 5
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    assert doctest.DocTestRunner(optionflags=flags).run(test).failed == 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda run: fb.cross_validate(epoch=3), "unknown setting 'epoch'; did you mean epochs"),
        (lambda run: fb.cross_validate({"epochs": "many"}), "--epochs many"),
        (lambda run: fb.cross_validate(3), "not a configuration"),
        (lambda run: fb.cross_validate(tta="hflop"), "--tta hflop"),
        (lambda run: fb.cross_validate(metric="f1"), "--metric f1"),
        (
            lambda run: fb.blend([run], methods="soft"),
            "unknown setting 'methods'; did you mean method",
        ),
        (lambda run: fb.blend([run], method=3), "--method 3"),
        (lambda run: fb.blend([run], weights=2), "--weights 2"),
        (lambda run: fb.blend([run], thorough="yes"), "--thorough yes"),
        (
            lambda run: fb.run_tta(run, viewss="hflip"),
            "unknown setting 'viewss'; did you mean views",
        ),
        (lambda run: fb.run_tta(run, budget="four"), "--budget four"),
        (lambda run: fb.run_tta(run, views=["hflip"]), "--views ['hflip']"),
        (lambda run: fb.run_tta(run, workers=-1), "--workers -1"),
        (lambda run: fb.cross_validate(config=fb.make_config()), "as the first argument"),
        (lambda run: fb.make_config(config="nowhere.yaml"), "nowhere.yaml: No such file"),
        (lambda run: fb.make_config("x"), "not a mapping of settings"),
        (lambda run: fb.leaderboard([]), "no runs to compare"),
        (lambda run: fb.leaderboard(iter([run.path / "x"])), "x: not a run folder"),
        (lambda run: fb.load("x" * 5000), "cannot be read"),
        (lambda run: fb.audit(quick="yes"), "--quick yes"),
        (lambda run: fb.load(run.path / "fold_0"), "fold_0: not a run folder"),
        (lambda run: fb.leaderboard([run], metric="f1"), "--metric f1"),
    ],
)
def test_an_error_is_one_line_with_its_cause(call, words, alpha):
    with pytest.raises(fb.UserError) as caught:
        call(alpha)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_run_can_be_shown(runs_copy):
    run = fb.load(runs_copy / "alpha")
    assert "macro F1" in repr(run)
    assert "<table>" in run._repr_html_()
    for text in (
        '{"headline": {"value": "x", "low": 1, "high": 2}, "metric": "f1_macro"}',
        "[]",
        "{",
        '{"headline": 3}',
    ):
        (run.path / "report.json").write_text(text)
        assert repr(run) == f"Run({str(run.path)!r})"
        assert str(run.path) in run._repr_html_()


@pytest.mark.parametrize("old", MOVED)
def test_a_module_of_an_earlier_version_is_found_with_a_warning(old):
    sys.modules.pop(old, None)
    with pytest.warns(FutureWarning, match=f"{old} is now {MOVED[old]}"):
        found = importlib.import_module(old)
    assert found is importlib.import_module(MOVED[old])
    assert found.__spec__.name == MOVED[old]


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_a_script_and_a_console_script(name):
    assert f"from foldblend.commands import {name} as main" in (ROOT / f"{name}.py").read_text(
        encoding="utf-8"
    )
    assert f"= foldblend.commands:{name}\n" in (ROOT / "setup.cfg").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("module", "flags", "new"),
    [
        ("folds", ["--help"], "python run_audit.py"),
        ("tta", ["--help"], "python run_tta.py"),
        ("reports", ["--help"], "python leaderboard.py"),
        pytest.param("reports", ["--redraw"], "python report.py", marks=pytest.mark.slow),
    ],
)
def test_commands_of_earlier_versions_print_the_new_command(module, flags, new, runs_copy):
    if flags == ["--redraw"]:
        (runs_copy / "alpha" / "report.txt").unlink()
        flags = [*flags, "--no-page", str(runs_copy / "alpha"), str(runs_copy / "beta")]
    command = [sys.executable, "-m", module, *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"type {new}" in done.stderr
    assert (runs_copy / "alpha" / "report.txt").is_file()


def test_paths_and_numpy_numbers_are_accepted(alpha, runs_copy):
    [row] = fb.leaderboard(iter([alpha.path]))["boards"][0]["rows"]
    assert row["name"] == "alpha"
    assert fb.write_report(runs_copy / "alpha", page=False).startswith("OOF F1 report: alpha")
    import numpy as np

    config = fb.make_config(
        epochs=np.int64(3), lr=np.float64(0.01), amp=np.bool_(False), model="resnet18", folds="4"
    )
    assert (config.train.epochs, config.train.lr, config.machine.amp) == (3, 0.01, False)
    assert (config.model.backbone, config.split.folds) == ("resnet18", 4)


def test_a_config_file_by_keyword(tmp_path):
    (tmp_path / "a.yaml").write_text("epochs: 7\nlr: 0.5\n")
    config = fb.make_config(config=tmp_path / "a.yaml", lr=0.1)
    assert (config.train.epochs, config.train.lr) == (7, 0.1)
    (tmp_path / "b.yaml").write_text("config: a.yaml\n")
    with pytest.raises(fb.UserError, match="cannot refer to another"):
        fb.make_config(config=tmp_path / "b.yaml")
