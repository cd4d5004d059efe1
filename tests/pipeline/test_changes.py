"""Messages on a run folder whose data changed: they name what differs."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from foldblend.runs.folder import PICTURES, write_table
from folds.data.manifest import Manifest
from pipeline.data.changes import changed_data

CLASSES = ("cat", "dog", "owl")


@pytest.fixture
def data(tmp_path):
    ids = [f"{index}.png" for index in range(6)]
    train = pd.DataFrame(
        {
            "image_id": ids,
            "path": ids,
            "group": ["a", "a", "b", "b", "c", "c"],
            "label": [0, 1, 2, 0, 1, 2],
            "content": [f"hash {one}" for one in ids],
        }
    )
    test = pd.DataFrame(
        {"image_id": ["x", "y"], "path": ["x", "y"], "content": ["hash x", "hash y"]}
    )
    return Manifest(
        name="zoo", root=tmp_path, train=train, test=test, classes=CLASSES, answers=CLASSES
    )


def record(data):
    return {
        "classes": list(data.classes),
        "data": {
            "name": data.name,
            "num_images": len(data.train),
            "num_groups": int(data.train["group"].nunique()),
            "num_test": len(data.test),
            "group_name": "patient",
        },
    }


def difference(tmp_path, before, after):
    """Return the message where a folder has a run on `before` and the data is now `after`."""
    columns = ["image_id", "group", "label"]
    before.train[columns].assign(repeat=0, fold=0).to_csv(tmp_path / "folds.csv", index=False)
    parts = [before.train.assign(part="train"), before.test.assign(part="test")]
    images = pd.concat(parts, ignore_index=True)
    kept = [name for name in ("part", "image_id", "path", "box", "content") if name in images]
    write_table(tmp_path / PICTURES, images[kept])
    return changed_data(tmp_path, record(before), record(after), after)


def with_train(data, row, column, value):
    train = data.train.copy()
    train.loc[row, column] = value
    return dataclasses.replace(data, train=train)


def test_grown_and_reordered_test_sets(tmp_path, data):
    more = pd.DataFrame({"image_id": ["z"], "path": ["z"], "content": ["hash z"]})
    grown = dataclasses.replace(data, test=pd.concat([data.test, more], ignore_index=True))
    assert difference(tmp_path, data, grown) == "test images: 2 -> 3, 1 new test image: z"
    assert difference(tmp_path, grown, data) == "test images: 3 -> 2, 1 test image gone: z"
    turned = dataclasses.replace(data, test=data.test.iloc[::-1])
    assert difference(tmp_path, data, turned) == "another order of the test images"


def test_training_images_that_are_gone(tmp_path, data):
    fewer = dataclasses.replace(data, train=data.train.iloc[:4])
    assert difference(tmp_path, data, fewer) == (
        "training images: 6 -> 4, patients: 3 -> 2, 2 training images gone: 4.png, 5.png"
    )


def test_labels_are_compared_by_name(tmp_path, data):
    assert difference(tmp_path, data, with_train(data, 1, "label", 2)) == (
        "1 label changed, first of 1.png: 'dog' -> 'owl'"
    )
    # A new class moves the numbers of the others.
    classes = ("ape", *CLASSES)
    moved = dataclasses.replace(
        data, classes=classes, train=data.train.assign(label=data.train["label"] + 1)
    )
    assert difference(tmp_path, data, moved) == "new classes: 'ape'"
    assert difference(tmp_path, data, with_train(moved, 0, "label", 0)) == "new classes: 'ape'"
    order = dataclasses.replace(
        data, classes=CLASSES[::-1], train=data.train.assign(label=2 - data.train["label"])
    )
    assert difference(tmp_path, data, order) == "another order of the classes"


def test_groups_boxes_and_files(tmp_path, data):
    assert difference(tmp_path, data, with_train(data, 0, "group", "b")) == (
        "1 group changed, first of 0.png: 'a' -> 'b'"
    )
    replaced = with_train(data, 3, "content", "another")
    assert difference(tmp_path, data, replaced) == "1 training image file changed: 3.png"
    box = np.fromiter([(0.0, 0.0, 9.0, 9.0)] * 6, dtype=object, count=6)
    boxed = dataclasses.replace(data, train=data.train.assign(box=box))
    assert difference(tmp_path, data, boxed) == "boxes are new (train)"
    box = box.copy()
    box[2] = (0.0, 0.0, 9.0, 8.0)
    moved = dataclasses.replace(data, train=data.train.assign(box=box))
    assert difference(tmp_path, boxed, moved).startswith("1 box changed: 2.png")


def test_a_folder_of_an_earlier_version_lacks_files(tmp_path, data):
    other = dataclasses.replace(data, name="other")
    words = changed_data(tmp_path, record(data), record(other), other)
    assert words == "labels or image files changed, name: zoo -> other"
    assert changed_data(tmp_path, {}, record(data), data) == "labels or image files changed"
