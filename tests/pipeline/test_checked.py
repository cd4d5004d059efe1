"""The cache of checked images: later runs do not decode them to start."""

import cv2
import numpy as np
import pandas as pd
import pytest

from foldblend.images import Levels, Values, check_images, image_key
from pipeline.config.settings import make_config
from pipeline.data.cache import Store
from pipeline.data.checked import checked_keys, keep_checked, keep_values, kept_values
from pipeline.data.images import images_folder
from pipeline.prepare import prepare


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(0)
    files = [str(tmp_path / f"{index}.png") for index in range(4)]
    for file in files:
        cv2.imwrite(file, rng.integers(0, 255, (12, 9, 3), dtype=np.uint8))
    boxes = np.fromiter([None, (0.0, 0.0, 5.0, 5.0)] * 2, dtype=object, count=4)
    table = pd.DataFrame({"path": files, "box": boxes})
    return table.assign(content=[one.content for one in check_images(table)])


def test_checked_images_are_known_with_their_boxes(table, tmp_path, monkeypatch):
    cache = str(tmp_path / "cache")
    assert checked_keys(cache) == frozenset()
    keep_checked((table.iloc[:2], None), cache)
    keep_checked((table.iloc[:2], table.iloc[1:3]), cache)
    assert len(checked_keys(cache)) == 3
    checked = []
    monkeypatch.setattr(
        "foldblend.image_checks._check_bytes", lambda path, *_: checked.append(path)
    )
    check_images(table, checked_keys(cache))
    check_images(table.assign(box=None), checked_keys(cache))
    # Threads check the images of a call in any order.
    paths = table["path"]
    assert checked[0] == paths[3]
    assert sorted(checked[1:]) == [paths[1], paths[3]]


def test_a_cache_that_cannot_be_written_is_no_error(table, tmp_path):
    (tmp_path / "cache").write_text("a file")
    keep_checked((table,), str(tmp_path / "cache"))
    assert checked_keys(str(tmp_path / "cache")) == frozenset()


def test_a_run_notes_what_it_checked(tiny_layout, tmp_path, monkeypatch):
    settings = {"data": str(tiny_layout), "backbone": "test_resnet", "pretrained": "none"}
    settings |= {"img_size": "32", "cache_dir": str(tmp_path / "cache"), "folds": 2}

    def checked(**more):
        count = []
        monkeypatch.setattr("foldblend.image_checks._check_bytes", lambda *_: count.append(1))
        prepare(make_config(**settings, output=str(tmp_path), **more), lambda _: None)
        return len(count)

    assert checked(cache="ram") == 126
    assert checked(cache="disk") == 126
    assert checked(cache="disk") == checked(cache="ram") == 0
    assert checked(cache="off") == 126


def test_a_cached_image_of_an_earlier_version_is_checked(table, tmp_path):
    cache = str(tmp_path / "cache")
    keys = [bytes([index]) * 16 for index in range(4)]
    store = Store.at(images_folder(cache), (2,), "uint8", {})
    store.fill(keys, lambda todo: [np.zeros((len(todo), 2), np.uint8)])
    assert checked_keys(cache) == frozenset()


def test_values_of_images_are_kept_and_a_damaged_cache_is_no_error(tmp_path):
    cache = str(tmp_path / "cache")
    assert kept_values(cache) == {}
    found = {
        bytes([1]) * 16: Values((0.0, 4095.0), 3.0, 4000.0, bits=16),
        bytes([2]) * 16: Values(None, -1.5, 2.25),
        bytes([3]) * 16: Values(None, is_deep=False, has_alpha=True),
    }
    keep_values(found, cache)
    assert kept_values(cache) == found
    [file] = (tmp_path / "cache").rglob("records")
    file.write_bytes(file.read_bytes()[:-8])
    assert kept_values(cache) == {}


def test_values_are_searched_for_once(tmp_path, monkeypatch):
    files = [tmp_path / f"{index}.png" for index in range(3)]
    for index, file in enumerate(files):
        cv2.imwrite(str(file), np.full((9, 9), 300 + index, np.uint16))
    table = pd.DataFrame({"path": map(str, files)})
    remembered = {}
    before = check_images(table, remembered=remembered)
    assert [one.values.high for one in before] == [300, 301, 302]
    known = {image_key(one.content, None) for one in before}
    monkeypatch.setattr("foldblend.image_values.decode", None)
    assert check_images(table, known, remembered=remembered) == before
    # Another window is another key.
    with pytest.raises(TypeError):
        check_images(table, known, levels=Levels(dicom_window="file"), remembered=remembered)
