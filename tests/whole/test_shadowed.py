"""Tests that foldblend works where the user's modules have the names of its packages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from foldblend.commands import COMMANDS
from foldblend.errors import UserError
from foldblend.plugins import load_custom
from tests.makers.constants import ROOT, TINY

SCRIPTS = Path(sys.executable).parent


@pytest.fixture
def user_folder(tmp_path):
    """Return a user's folder with pipeline.py, folds.py and reports/, which fail on import."""
    folder = tmp_path / "project"
    (folder / "reports").mkdir(parents=True)
    for file in ("pipeline.py", "folds.py", "ensemble.py", "tta.py", "reports/__init__.py"):
        (folder / file).write_text("raise SystemExit('the user\\'s module was imported')\n")
    return folder


def run(folder, *words, timeout=300):
    """Run a command in a folder, which is also first on the module path."""
    environment = os.environ | {"PYTHONPATH": "."}
    done = subprocess.run(
        [*map(str, words)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cv", "blend", "tta", "audit", "leaderboard", "report"])
def test_console_scripts(user_folder, name):
    if not (SCRIPTS / f"foldblend-{name}").exists():
        pytest.skip("not installed")
    code, output = run(user_folder, SCRIPTS / f"foldblend-{name}", "--help")
    assert code == 0, output
    assert f"foldblend-{name}" in output


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in COMMANDS if name != "run_cv"]


@pytest.mark.parametrize("script", ["run_cv", *SLOW])
def test_scripts(user_folder, script):
    code, output = run(user_folder, sys.executable, ROOT / f"{script}.py", "--help")
    assert code == 0, output


@pytest.mark.slow
def test_public_functions(user_folder, tiny_runs):
    code = (
        "import foldblend as fb, sys; print(fb.load(sys.argv[1])); fb.blend(sys.argv[1:],"
        " method='soft', output='o')"
    )
    returned, output = run(user_folder, sys.executable, "-c", code, *sorted(tiny_runs.iterdir()))
    assert returned == 0, output
    assert "OOF macro F1" in output


@pytest.mark.slow
def test_the_demo_set_is_made(user_folder, tmp_path):
    """Check that the worker processes import our packages, not the user's modules."""
    code = (
        "import sys\nfrom pathlib import Path\nimport foldblend\nfrom folds.data.demo import"
        " make_demo\n"
    )
    code += "make_demo(Path(sys.argv[1]), num_train=6, num_test=6)"
    returned, output = run(user_folder, sys.executable, "-c", code, tmp_path / "demo")
    assert returned == 0, output
    assert (tmp_path / "demo" / "train" / "train.csv").is_file()


@pytest.mark.slow
def test_processes_that_read_images(user_folder, tiny_layout, tmp_path):
    """Check processes that import everything again; from Python 3.14 on, none are forked."""
    code = (
        "import multiprocessing, sys\nimport foldblend as"
        " fb\nmultiprocessing.set_start_method('spawn')\n"
    )
    code += (
        "small = dict(folds=2, epochs=1, img_size=32, pretrained='none', threads=1, page=False,"
        " log_pictures=False)\n"
    )
    code += (
        "fb.cross_validate(data=sys.argv[1], output=sys.argv[2], backbone='test_resnet', workers=1,"
        " **small)"
    )
    returned, output = run(user_folder, sys.executable, "-c", code, tiny_layout, tmp_path)
    assert returned == 0, output


@pytest.mark.slow
@pytest.mark.parametrize("way", ["script", "python"])
def test_parallel_folds(user_folder, tiny_layout, tmp_path, way):
    argv = [
        "--data",
        tiny_layout,
        "--output",
        tmp_path,
        "--name",
        "two",
        "--backbone",
        "test_resnet",
        *TINY,
    ]
    argv += ["--parallel-folds", "2"]
    if way == "script":
        command = [sys.executable, ROOT / "run_cv.py", *argv]
    else:
        # Here is no script that the processes of the folds could run again.
        code = "import sys; from foldblend.commands import run_cv; sys.exit(run_cv(sys.argv[1:]))"
        command = [sys.executable, "-c", code, *argv]
    returned, output = run(user_folder, *command)
    assert returned == 0, output
    assert (tmp_path / "two" / "oof.parquet").is_file()


def test_a_user_module_that_is_already_imported_is_reported(user_folder):
    (user_folder / "pipeline.py").write_text("")
    returned, output = run(user_folder, sys.executable, "-c", "import pipeline\nimport foldblend")
    last = output.strip().splitlines()[-1]
    assert returned == 1
    assert last.startswith(f"ImportError: {user_folder / 'pipeline.py'}: ")
    assert "rename it, or use foldblend in a process that does not import it" in last


def test_a_custom_part_in_such_a_module_is_refused():
    with pytest.raises(UserError, match=r"^--backbone pipeline:Net: .*; rename your module$"):
        load_custom("pipeline:Net", "--backbone")
