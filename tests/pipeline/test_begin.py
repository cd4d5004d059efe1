"""Tests of the first files of a run folder: paths of images without links."""

import os
from pathlib import Path

import pytest

from pipeline.begin import _without_links


@pytest.fixture
def linked(tmp_path, monkeypatch):
    """Return paths to images by links of files and folders, and by absent ones."""
    real = tmp_path / "real" / "deep"
    real.mkdir(parents=True)
    for name in ("a.jpg", "b.jpg"):
        (real / name).touch()
    (tmp_path / "folder").symlink_to(real, target_is_directory=True)
    (real / "again.jpg").symlink_to(real / "b.jpg")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere" / "c.jpg")
    monkeypatch.chdir(tmp_path)
    return [
        "real/deep/a.jpg",
        "folder/a.jpg",
        "folder/again.jpg",
        "./real/../folder//b.jpg",
        str(tmp_path / "folder" / "b.jpg"),
        "gone.jpg",
        "absent/d.jpg",
        "e.jpg",
    ]


def test_paths_without_links_are_those_of_pathlib(linked):
    assert _without_links(linked) == [str(Path(path).resolve()) for path in linked]


def test_each_folder_is_looked_up_once(tmp_path, monkeypatch):
    seen = []
    real = os.path.realpath
    monkeypatch.setattr(os.path, "realpath", lambda path: seen.append(path) or real(path))
    paths = [str(tmp_path / folder / f"{index}.jpg") for folder in "ab" for index in range(9)]
    assert _without_links(paths) == paths
    assert seen == [str(tmp_path / "a"), str(tmp_path / "b")]
