"""Folders of classes: recognised, pooled, with labels below test/ kept apart; doubts are errors."""

import pytest

from foldblend.errors import UserError
from folds.config import DataConfig
from folds.data.groups import groups_by_regex, groups_from_parent
from folds.data.source import load_manifest
from tests.makers.drawn import draw, plain, write_csv


def make(root, *names):
    for index, name in enumerate(names):
        draw(root / name, index)
    return root


def load(root, **settings):
    return load_manifest(DataConfig(data=str(root), **settings), environ={})


def labels(manifest):
    train = manifest.train
    return {
        name: manifest.classes[label]
        for name, label in zip(train["image_id"], train["label"], strict=True)
    }


def test_a_folder_per_class_with_any_suffix_and_nested(tmp_path):
    root = make(tmp_path / "pets", "cat/1.JPG", "cat/old/2.png", "dog/1.jpeg", "dog/._1.jpeg")
    (root / "dog" / "notes.txt").write_text("x")
    manifest = load(root)
    assert labels(manifest) == {"cat/1.JPG": "cat", "cat/old/2.png": "cat", "dog/1.jpeg": "dog"}
    assert manifest.name == "pets"
    assert manifest.found[0].endswith("a folder per class; 3 images, 2 classes")
    assert "no groups" in manifest.warnings[0]
    assert "1 .txt (dog/notes.txt)" in manifest.warnings[1]
    assert manifest.test is None


def test_train_and_val_are_pooled_and_test_labels_are_kept_apart(tmp_path):
    root = make(
        tmp_path / "x",
        *("Train/cat/1.png", "Train/dog/2.png", "val/cat/1.png", "val/dog/4.png"),
        *("test/cat/9.png", "test/dog/8.png"),
    )
    manifest = load(root)
    assert len(manifest.train) == 4
    assert "pooled for cross-validation: Train/ (2), val/ (2) images" in manifest.notes
    assert manifest.test["image_id"].tolist() == ["test/cat/9.png", "test/dog/8.png"]
    assert manifest.test["label"].tolist() == [0, 1]
    # Labels of test images change nothing that a run depends on.
    (root / "test" / "dog").rename(root / "test" / "unknown")
    with pytest.raises(UserError, match="unknown/ is not a class of the training set, but cat/ is"):
        load(root)
    (root / "test" / "cat" / "9.png").rename(root / "test" / "unknown" / "9.png")
    (root / "test" / "cat").rmdir()
    assert "label" not in load(root).test


def test_a_flat_test_folder_and_a_wrapping_folder(tmp_path):
    root = make(tmp_path / "x", "data/train/a/1.png", "data/train/b/2.png", "data/test/3.png")
    manifest = load(root)
    assert labels(manifest) == {"train/a/1.png": "a", "train/b/2.png": "b"}
    assert manifest.test["image_id"].tolist() == ["test/3.png"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train/1.png", "test/2.png"], "train: holds 1 image .* but no folder per class"),
        (["test/a/1.png", "test/b/1.png"], "has only test/ and no train/"),
        (["train/a/1.png", "train/b/2.png", "more/3.png"], "two readings fit, train/ as parts"),
        (["1.png", "2.png"], "holds no folder per class.*only 1.png, 2.png"),
        (
            ["run.json", "oof.csv", "fold_0/a.csv"],
            "is the folder of a run, not of images; pass the",
        ),
        (["a/1.png", "a/2.png"], "holds no folder per class"),
        (["n/x/1.png", "n/y/1.png", "s/x/1.png", "s/y/1.png"], "two readings fit, classes n, s"),
        (
            ["Cat/1.png", "cat/2.png"],
            "are the same but for letter case or width; pass --merge-case",
        ),
        ([], "and no image"),
    ],
)
def test_doubts_are_errors(tmp_path, names, message):
    root = make(tmp_path / "x", *names)
    root.mkdir(exist_ok=True)
    with pytest.raises(UserError, match=message):
        load(root)


@pytest.mark.parametrize(
    "names",
    [
        ["train_images/1.png", "test_images/2.png"],
        ["seg_train/sea/1.png", "seg_test/sea/2.png", "seg_pred/3.png"],
        ["images/1.png", "masks/1.png"],
        ["val/cat/1.png", "test/2.png", "extra/3.png"],
        ["train/0.png", "train/cat/1.png", "train/dog/2.png", "test/3.png", "samples/4.png"],
    ],
)
def test_parts_of_a_data_set_are_no_classes(tmp_path, names):
    root = make(tmp_path / "x", *names)
    with pytest.raises(UserError, match="look like parts of a data set"):
        load(root)


def test_a_table_that_names_the_images_is_a_second_reading(tmp_path):
    root = make(tmp_path / "x", "part_1/a1.png", "part_2/a2.png")
    write_csv(root / "about.csv", [("a1", "mel"), ("a2", "nv")], header="lesion,dx")
    with pytest.raises(UserError, match=r"two readings fit, the table about.csv"):
        load(root)


def test_folders_without_images_are_reported(tmp_path):
    root = make(tmp_path / "x", "train/cat/1.png", "train/dog/2.png")
    (root / "train" / "owl").mkdir()
    assert "folders without images are no classes: train/owl/" in load(root).warnings[-1]


def test_the_whole_data_set_as_test_set_means_its_test_folder(tmp_path):
    root = make(
        tmp_path / "x", "train/cat/1.png", "train/dog/2.png", "test/cat/3.png", "test/dog/4.png"
    )
    manifest = load(root / "train", test=str(root))
    assert manifest.test["image_id"].tolist() == ["test/cat/3.png", "test/dog/4.png"]
    assert manifest.test["label"].tolist() == [0, 1]


def test_doubts_can_be_decided(tmp_path):
    root = make(tmp_path / "x", "n/x/1.png", "n/y/2.png", "s/x/3.png", "s/y/4.png")
    assert load(root, label_from="top").classes == ("n", "s")
    assert load(root, label_from="parent").classes == ("x", "y")
    root = make(tmp_path / "y", "train/a/1.png", "train/b/2.png", "plane/3.png")
    assert load(root, layout="class-folders").classes == ("plane", "train")
    # Vehicles: a class of that name without folders inside leaves no doubt.
    assert load(make(tmp_path / "z", "train/1.png", "plane/2.png")).classes == ("plane", "train")


def test_a_table_beside_folders_is_a_second_reading(tmp_path):
    root = make(tmp_path / "x", "a/1.png", "b/2.png")
    write_csv(root / "notes.csv", [("x", "y")], header="key,value")
    assert load(root).classes == ("a", "b")
    write_csv(root / "train.csv", [("a/1.png", "cat"), ("b/2.png", "dog")], header="image,label")
    with pytest.raises(UserError, match=r"two readings fit, the table train.csv"):
        load(root)
    assert load(root, layout="class-folders").classes == ("a", "b")
    assert load(root / "train.csv").classes == ("cat", "dog")


def test_groups_by_regex_and_by_folder(tmp_path):
    root = make(tmp_path / "x", "cat/p1/IMG_07_a.png", "cat/p2/IMG_08_a.png", "dog/p1/IMG_07_b.png")
    by_number = load(root, group_regex=r"IMG_(\d+)")
    assert by_number.train["group"].tolist() == ["07", "08", "07"]
    assert by_number.found[-1] == "2 groups; largest (images): 07 (2), 08 (1)"
    named = load(root, group_from="parent", group_name="patient")
    assert named.train["group"].tolist() == ["p1", "p2", "p1"]
    assert named.found[-1] == "2 patients; largest (images): p1 (2), p2 (1)"
    with pytest.raises(UserError, match="groups are given twice"):
        load(root, group_regex=".", group_from="parent")


def test_groups_that_cannot_be_had():
    assert groups_by_regex(r"(\d+)-(\d+)|x", ["a/1-2.png", "x.png"]) == ["1_2", "x"]
    with pytest.raises(UserError, match=r"matches nothing in 1 of 2 paths \(b.png\)"):
        groups_by_regex(r"\d", ["1.png", "b.png"])
    with pytest.raises(UserError, match=r"--group-regex \(: not a regular expression"):
        groups_by_regex("(", ["1.png"])
    with pytest.raises(UserError, match="the folders of the images are the classes"):
        groups_from_parent(["cat/1.png", "dog/2.png"], ["cat", "dog"])
    with pytest.raises(UserError, match="1 path without a folder"):
        groups_from_parent(["1.png"], ["cat"])


def test_links_to_folders_are_followed_but_not_in_a_circle(tmp_path):
    root = make(tmp_path / "x", "cat/1.png", "dog/2.png")
    make(tmp_path / "store", "3.png")
    (root / "owl").symlink_to(tmp_path / "store")
    (root / "dog" / "up").symlink_to(root)
    assert load(root).classes == ("cat", "dog", "owl")


def test_flags_of_tables_do_not_fit_folders(tmp_path):
    root = make(tmp_path / "x", "cat/1.png", "dog/2.png")
    with pytest.raises(UserError, match="--label-col: only for a table or a folder with metadata"):
        load(root, label_col="kind")
    with pytest.raises(UserError, match="--label-from: only for a folder per class"):
        load_manifest(DataConfig(csv=str(plain(tmp_path / "t")), label_from="top"), environ={})


def metadata(folder, *rows):
    for index, (name, *_) in enumerate(rows):
        draw(folder / name, index)
    write_csv(folder / "metadata.csv", rows, header="file_name,label,who")


def test_a_folder_with_metadata(tmp_path):
    root = tmp_path / "x"
    metadata(root, ("1.png", "cat", "p1"), ("2.png", "dog", "p2"))
    manifest = load(root, group_col="who")
    assert labels(manifest) == {"1.png": "cat", "2.png": "dog"}
    assert manifest.train["group"].tolist() == ["p1", "p2"]
    # The same images in folders: which of both has the classes?
    metadata(root, ("cat/1.png", "cat", "p1"), ("dog/2.png", "dog", "p2"))
    with pytest.raises(UserError, match=r"two readings fit.*--layout metadata"):
        load(root)
    assert load(root, layout="class-folders").classes == ("cat", "dog")
    assert len(load(root, layout="metadata").train) == 2


def test_images_without_metadata_beside_others_with_it(tmp_path):
    metadata(tmp_path / "train", ("1.png", "cat", "p1"), ("2.png", "dog", "p2"))
    make(tmp_path, "test/7.png", "test/8.png")
    assert load(tmp_path).test["image_id"].tolist() == ["test/7.png", "test/8.png"]
    write_csv(tmp_path / "list.csv", [("test/8.png",)], header="image")
    assert load(tmp_path, test=str(tmp_path / "list.csv")).test.shape == (1, 2)
    make(tmp_path, "val/9.png")
    with pytest.raises(UserError, match="val: has images but no metadata"):
        load(tmp_path)


def test_a_folder_beside_the_mask_layout_is_not_taken_for_it(tiny_layout, tmp_path):
    (tmp_path / "train").symlink_to(tiny_layout / "train")
    root = make(tmp_path / "mine", "cat/1.png", "dog/2.png")
    assert load(root).classes == ("cat", "dog")
    manifest = load(tmp_path)
    assert len(manifest.classes) == 18
    assert manifest.found[0].endswith("84 images, 18 classes, 12 people")


def test_a_sample_submission_beside_folders_is_no_second_reading(tmp_path):
    root = make(tmp_path / "x", "a/1.png", "b/2.png")
    make(tmp_path / "held", "3.png")
    file = write_csv(root / "sample.csv", [("3", "a")], header="id,label")
    with pytest.raises(UserError, match="two readings fit"):
        load(root)
    manifest = load(root, sample_submission=str(file), test=str(tmp_path / "held"))
    assert manifest.submission.ids == (("3.png", "3"),)


def test_names_of_folders_and_links(tmp_path):
    root = make(tmp_path / "photos.v1", "cat/1.png", "dog/2.png")
    assert load(root).name == "photos.v1"
    (tmp_path / "link").symlink_to(root)
    assert load(tmp_path / "link").name == "link"
    with pytest.raises(UserError, match="no such file or folder"):
        load("x" * 300)


def test_metadata_in_train_and_test(tmp_path):
    metadata(tmp_path / "train", ("1.png", "cat", "p1"), ("2.png", "dog", "p2"))
    metadata(tmp_path / "validation", ("1.png", "cat", "p3"))
    metadata(tmp_path / "test", ("1.png", "dog", "p4"), ("2.png", "cat", "p4"))
    manifest = load(tmp_path, group_col="who")
    assert manifest.train["image_id"].tolist() == ["train/1.png", "train/2.png", "validation/1.png"]
    assert manifest.test["label"].tolist() == [1, 0]
    assert manifest.test["path"][0] == str(tmp_path / "test" / "1.png")
