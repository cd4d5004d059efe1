"""Shared fixtures: a small synthetic data set in the competition's layout and two runs on it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

import blend
import run_cv
from foldblend.files import cache_folder
from foldblend.runs.run import Run
from folds.data.demo import DEMO_VERSION, NUM_TEST, NUM_TRAIN, make_demo
from tests.makers.constants import TINY


@dataclass
class Finished:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str

    def assert_one_line_error(self, *words: str) -> None:
        """Assert exit code 2 and a single line on stderr that has all the words."""
        assert self.code == 2, self.err or self.out
        lines = self.err.strip().splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: ")
        for word in words:
            assert word in lines[0], f"{word!r} not in {lines[0]!r}"


Command = Callable[..., Finished]


def _command(main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*argv: object) -> Finished:
        capsys.readouterr()
        code = main([str(word) for word in argv])
        printed = capsys.readouterr()
        return Finished(code, printed.out, printed.err)

    return run


@pytest.fixture
def command_of(
    capsys: pytest.CaptureFixture[str],
) -> Callable[[Callable[[list[str]], int]], Command]:
    """Return a function that wraps any entry point, to be called in this process."""
    return lambda main: _command(main, capsys)


@pytest.fixture
def cv_command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Return run_cv.py as a function, called in this process."""
    return _command(run_cv.main, capsys)


@pytest.fixture
def blend_command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Return blend.py as a function, called in this process."""
    return _command(blend.main, capsys)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-k cuda`, import only the files that have the word.

    Importing all of them takes as long as the tests, on a GPU that may be lent by the minute.
    """
    if config.option.keyword != "cuda" or collection_path.suffix != ".py":
        return None
    return True if "cuda" not in collection_path.read_text(encoding="utf-8") else None


@pytest.fixture(autouse=True, scope="session")
def _separate_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Use a separate cache for this test run.

    The demo set is linked from the user's cache if it is there, because making it takes long.
    """
    demo = cache_folder() / f"demo-v{DEMO_VERSION}-{NUM_TRAIN}-{NUM_TEST}-0"
    folder = tmp_path_factory.mktemp("cache")
    if (demo / "demo").is_dir():
        (folder / demo.name).symlink_to(demo)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOLDBLEND_CACHE", str(folder))
        yield


@pytest.fixture(autouse=True)
def _no_data_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SM_CHANNEL_TRAIN", raising=False)


@pytest.fixture(scope="session")
def tiny_layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data set of 12 training and 6 test people, 7 synthetic images each; read-only."""
    return make_demo(tmp_path_factory.mktemp("layout") / "tiny", num_train=12, num_test=6, seed=7)


@pytest.fixture
def layout_copy(tiny_layout: Path, tmp_path: Path) -> Path:
    """Return a copy of the tiny data set that a test may damage.

    Images are hard links: tests must replace them, not edit them in place.
    """
    root = tmp_path / "copy"
    for folder, _, files in os.walk(tiny_layout):
        target = root / Path(folder).relative_to(tiny_layout)
        target.mkdir(parents=True)
        for file in files:
            source = Path(folder) / file
            if file.endswith(".csv"):
                (target / file).write_bytes(source.read_bytes())
            else:
                os.link(source, target / file)
    return root


@pytest.fixture(scope="session")
def tiny_runs(tiny_layout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return outputs/ with two finished runs, alpha (TTA with hflip) and beta; read-only."""
    outputs = tmp_path_factory.mktemp("runs") / "outputs"
    for name, backbone, tta in (
        ("alpha", "test_efficientnet", "hflip"),
        ("beta", "test_resnet", "none"),
    ):
        argv = [
            "--data",
            tiny_layout,
            "--output",
            outputs,
            "--name",
            name,
            "--backbone",
            backbone,
            "--tta",
            tta,
            *TINY,
        ]
        assert run_cv.main([str(word) for word in argv]) == 0
    return outputs


@pytest.fixture
def runs_copy(tiny_runs: Path, tmp_path: Path) -> Path:
    """Return a copy of the two runs that a test may damage or blend."""
    return Path(shutil.copytree(tiny_runs, tmp_path / "outputs"))


@pytest.fixture
def alpha(tiny_runs: Path) -> Run:
    """Return the finished run alpha."""
    return Run(tiny_runs / "alpha")


@pytest.fixture
def edit_csv() -> Callable[[Path, Callable[[pd.DataFrame], pd.DataFrame]], None]:
    """Return a function that rewrites a CSV by a function of its table, with cells as text."""

    def edit(file: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
        change(pd.read_csv(file, dtype=str)).to_csv(file, index=False)

    return edit
