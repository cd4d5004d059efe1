"""Finding images by the names that a table gives them."""

import os
import unicodedata

import pytest

from foldblend.errors import UserError
from folds.data.finder import find_images
from tests.makers.drawn import draw


def find(names, *roots, **how):
    return find_images(names, roots, where="set.csv", cure="CURE", **how)


def test_names_that_differ_are_found_and_the_difference_is_named(tmp_path):
    for name in ("img/0.png", "1.PNG", unicodedata.normalize("NFD", "사람2.png"), "3.png", "4.jpg"):
        draw(tmp_path / name, 0)
    found = find(["img\\0.png", "1.png", "사람2.png", "3.png ", "4"], tmp_path)
    assert not found.missing
    assert [path.name for path in found.paths][:2] == ["0.png", "1.PNG"]
    assert found.ids == ["img\\0.png", "1.png", "사람2.png", "3.png", "4"]
    words = ("backslashes", "letter case", "Unicode form", "blanks around", "missing suffix")
    for word, note in zip(words, found.notes, strict=True):
        assert word in note


def test_a_name_as_it_is_comes_first(tmp_path):
    for name in ("a\\b.png", "a/b.png", " x.png", "x.png", "y.PNG", "y.png"):
        draw(tmp_path / name, 0)
    found = find(["a\\b.png", " x.png", "x.png", "y.png"], tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in found.paths] == found.ids
    assert found.ids == ["a\\b.png", " x.png", "x.png", "y.png"]
    assert not found.notes


def test_a_name_that_fits_several_files_is_an_error(tmp_path):
    draw(tmp_path / "1.png", 0)
    draw(tmp_path / "1.jpg", 0)
    with pytest.raises(UserError, match=r"1\.jpg, 1\.png all fit the name '1'"):
        find(["1"], tmp_path)
    assert find(["1"], tmp_path, suffix=".jpg").paths == [tmp_path / "1.jpg"]


def test_two_places_are_an_error_unless_they_are_one(tmp_path):
    draw(tmp_path / "a" / "1.png", 0)
    (tmp_path / "link").symlink_to("a")
    assert not find(["1.png"], tmp_path / "a", tmp_path / "link").missing
    draw(tmp_path / "b" / "1.png", 0)
    with pytest.raises(UserError, match=r"'1.png' is in two places.*a/1.png and.*b/1.png; CURE"):
        find(["1.png"], tmp_path / "a", tmp_path / "b")
    assert find(["2.png", "1.png"], tmp_path / "c", tmp_path / "b").missing == [0]


def test_names_that_no_file_can_have(tmp_path):
    names = ["x" * 300, "nul\0.png", "", "/", "..", "no/../1.png"]
    assert find(names, tmp_path).missing == list(range(len(names)))


def test_home_and_absolute_paths(tmp_path, monkeypatch):
    draw(tmp_path / "1.png", 0)
    monkeypatch.setenv("HOME", str(tmp_path))
    found = find(["~/1.png", os.fspath(tmp_path / "1.PNG")], tmp_path / "elsewhere")
    assert [path.name for path in found.paths] == ["1.png", "1.png"]
    draw(tmp_path / "~2.png", 0)
    names = ["~2.png", "~nobody-of-this-name/3.png"]
    assert find(names, tmp_path).missing == [1]
