"""Tests that commands which only read tables load no package that they do not need.

Such packages take most of the time of a short command. Help is tested in `tests.pipeline`.
"""

import json
import subprocess
import sys

import pytest

from tests.makers.constants import ROOT
from tests.makers.synthetic_runs import write_synthetic_run

# Prints the packages that a script of the root has loaded, as the last line.
LOADED = (
    "import json, runpy, sys\n"
    "sys.argv = sys.argv[1:]\n"
    "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
    "except SystemExit as stop: assert not stop.code, stop.code\n"
    "print(json.dumps(sorted(sys.modules)))"
)
# Slow to import, and of no use to tables.
NEVER = {"torch", "torchvision", "timm", "albumentations", "sklearn", "cleanlab"}
DRAWING = {"matplotlib"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    for seed in range(2):
        write_synthetic_run(folder / f"run{seed}", num_people=40, num_test=20, seed=seed)
    return folder


def loaded(script, *argv):
    """Return the modules that a command has loaded at its end."""
    command = [sys.executable, "-c", LOADED, str(ROOT / script), *map(str, argv)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return {*json.loads(done.stdout.splitlines()[-1])}


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("blend.py", ("--method", "soft", "--no-page", "--output", "{}/blends")),
        ("leaderboard.py", ("--no-page",)),
        ("report.py", ("--no-page",)),
    ],
)
def test_without_figures_no_package_of_figures_or_models_is_loaded(runs, script, flags):
    found = loaded(script, runs / "run0", runs / "run1", *(one.format(runs) for one in flags))
    assert "pandas" in found
    assert not found & (NEVER | DRAWING | {"scipy.stats"})
    if script == "blend.py":
        # A vote fits nothing.
        assert not found & {"scipy.linalg", "scipy.optimize"}


def test_a_page_is_drawn_without_packages_of_models(runs):
    found = loaded("report.py", runs / "run0")
    assert found >= DRAWING
    assert not found & (NEVER | {"scipy.stats"})


def test_threads_are_limited_in_packages_that_are_imported_late():
    """The BLAS of scipy, which fits import late, computes in one thread within `one_thread`."""
    code = (
        "import json\n"
        "from ensemble.threads import one_thread\n"
        "from threadpoolctl import threadpool_info\n"
        "with one_thread():\n"
        "    import scipy.linalg, scipy.optimize\n"
        "    print(json.dumps([one['num_threads'] for one in threadpool_info()]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert {*json.loads(done.stdout)} == {1}
