"""Shared data: a small drawn set in the competition's layout, and two small runs on it."""

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
    """How a command ended."""

    code: int
    out: str
    err: str

    def assert_one_line_error(self, *words: str) -> None:
        """Exit code 2, one line on stderr that holds all the words, no traceback."""
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
        said = capsys.readouterr()
        return Finished(code, said.out, said.err)

    return run


@pytest.fixture
def command_of(
    capsys: pytest.CaptureFixture[str],
) -> Callable[[Callable[[list[str]], int]], Command]:
    """Any entry point, called in this process."""
    return lambda main: _command(main, capsys)


@pytest.fixture
def cv_command(capsys: pytest.CaptureFixture[str]) -> Command:
    """run_cv.py, called in this process."""
    return _command(run_cv.main, capsys)


@pytest.fixture
def blend_command(capsys: pytest.CaptureFixture[str]) -> Command:
    """blend.py, called in this process."""
    return _command(blend.main, capsys)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache for this test run alone; the user's is only read, to spare drawing the demo set
    again.
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
    """12 people to train and 6 to test, 7 drawn images each; never to be written to."""
    return make_demo(tmp_path_factory.mktemp("layout") / "tiny", num_train=12, num_test=6, seed=7)


@pytest.fixture
def layout_copy(tiny_layout: Path, tmp_path: Path) -> Path:
    """The tiny set again, to be damaged; images are linked, so replace them, never edit them."""
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
    """outputs/ with two finished runs, alpha (with hflip) and beta; never to be written to."""
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
    """The two runs again, to be damaged or blended."""
    return Path(shutil.copytree(tiny_runs, tmp_path / "outputs"))


@pytest.fixture
def alpha(tiny_runs: Path) -> Run:
    """The finished run alpha."""
    return Run(tiny_runs / "alpha")


@pytest.fixture
def edit_csv() -> Callable[[Path, Callable[[pd.DataFrame], pd.DataFrame]], None]:
    """Rewrite a CSV through a function of its table, all columns as text."""

    def edit(file: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
        change(pd.read_csv(file, dtype=str)).to_csv(file, index=False)

    return edit
