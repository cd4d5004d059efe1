"""The test set: its place, its labels, and the form of the submission."""

import pytest

from foldblend.errors import UserError
from foldblend.tables import read_text_table
from folds.config import DataConfig
from folds.data.load import load_data
from folds.data.sample_submission import read_sample_submission
from folds.data.source import load_manifest
from tests.makers.drawn import WORDS, draw, plain, rows, write_csv


def load(file, **settings):
    how = {name: str(value) for name, value in settings.items()}
    return load_manifest(DataConfig(csv=str(file), **how), environ={})


@pytest.fixture
def folders(tmp_path):
    """Make a training set and a test set whose images have the same names."""
    for index in range(3):
        draw(tmp_path / "test" / f"{index:03d}.png", 100 + index)
    write_csv(tmp_path / "test" / "test.csv", [(f"{i:03d}.png",) for i in (2, 0)], header="image")
    return plain(tmp_path / "train"), tmp_path / "test"


def folders_of(manifest):
    return {path.rpartition("/")[0].rpartition("/")[2] for path in manifest.test["path"]}


def test_equal_names_are_read_beside_their_own_table(folders):
    train, test = folders
    manifest = load(train, test_csv=test / "test.csv")
    assert folders_of(manifest) == {"test"}
    assert manifest.test["image_id"].tolist() == ["002.png", "000.png"]
    with pytest.raises(UserError, match=r"in two places.*pass --test-image-root"):
        load(train, test_csv=test / "test.csv", image_root=train.parent)
    both = {"image_root": train.parent, "test_image_root": test}
    assert folders_of(load(train, test_csv=test / "test.csv", **both)) == {"test"}


def test_all_forms_of_a_test_set(folders, tmp_path, monkeypatch):
    train, test = folders
    monkeypatch.chdir(tmp_path)
    for value in (test, "test", test / "*.png", "test/*.png", "**/test/00?.png"):
        manifest = load(train, test=value)
        assert folders_of(manifest) == {"test"}, value
        assert len(manifest.test) == 3
    assert len(load(train, test=test / "001.png").test) == 1
    write_csv(test / "other.csv", [("001.png",)], header="id")
    assert load(train, test=test / "other.csv").submission.id_column == "id"
    write_csv(test / "other.csv", [("001.png", "x")], header="who,name")
    with pytest.raises(UserError, match=r"no column 'image' \(--image-col\)"):
        load(train, test=test / "other.csv")
    assert len(load(train, test=test / "other.csv", test_image_col="who").test) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"test": "a", "test_csv": "b"}, "--test and --test-csv: two test sets"),
        ({"data": "a"}, "--csv and --data: two data sets"),
        ({"test": "gone"}, "gone: No such file"),
        ({"test": "gone/*.png"}, "no image fits the pattern"),
        ({"test_image_root": "gone", "test": "set.csv"}, "check --test-image-root"),
        ({"sample_submission": "s.csv"}, "there is no test set"),
    ],
)
def test_wrong_flags(tmp_path, monkeypatch, settings, message):
    file = plain(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        load(file, **settings)


def test_images_beside_the_training_table_as_earlier_versions_read_them(folders, tmp_path):
    train, _ = folders
    lists = tmp_path / "lists" / "test.csv"
    for index in range(2):
        draw(train.parent / f"t{index}.png", 200 + index)
    write_csv(lists, [("t1.png",), ("t0.png",)], header="image")
    manifest = load(train, test_csv=lists)
    assert folders_of(manifest) == {"train"}
    assert "the test images are in" in manifest.notes[-1]
    with pytest.raises(UserError, match="2 of 2 images are missing"):
        load(train, test_csv=lists, test_image_root=lists.parent)
    # A mixture of two folders is not guessed.
    draw(lists.parent / "t1.png", 7)
    with pytest.raises(UserError, match=r"1 of 2 images are missing.*lists/t0.png"):
        load(train, test_csv=lists)
    # Nor are the images of the training set taken for those of the test set.
    write_csv(lists, [("001.png",), ("000.png",)], header="image")
    with pytest.raises(UserError, match=r"2 of 2 images are missing.*lists/001.png"):
        load(train, test_csv=lists)


def test_labels_of_test_images_change_no_hash(folders):
    train, test = folders
    plain_hash = load(train, test=test / "test.csv").labels_hash()
    file = test / "truth.csv"
    write_csv(file, [("002.png", "dog"), ("000.png", "cat ")], header="image,label")
    manifest = load(train, test=file)
    assert manifest.test["label"].tolist() == [1, 0]
    assert manifest.labels_hash() == plain_hash
    # A column that only shows the form of a submission is no truth.
    write_csv(file, [("002.png", "cat"), ("000.png", "cat")], header="image,label")
    manifest = load(train, test=file)
    assert "label" not in manifest.test
    assert "all labels are 'cat'" in manifest.found[-1]
    write_csv(file, [("002.png", "0.5"), ("000.png", "0.7")], header="image,label")
    assert "label" not in load(train, test=file).test


def test_labels_of_images_that_the_training_set_has_are_not_scored(folders):
    train, test = folders
    write_csv(test / "t.csv", [("002.png", "dog"), ("003.png", "cat")], header="image,label")
    draw(test / "003.png", 3)  # the training image 003.png
    lines = []
    config = DataConfig(csv=str(train), group_col="group", test=str(test / "t.csv"))
    manifest, _ = load_data(config, lines.append)
    assert manifest.test["label"].tolist() == [1, -1]
    assert any("labels of 1 test image that the training set has" in line for line in lines)


def test_a_test_table_with_other_columns_and_flags(folders, tmp_path):
    train, test = folders
    # Two columns that could be labels are no reason to stop: labels are optional.
    write_csv(test / "t.csv", [("002.png", "dog", "x")], header="image,class,target")
    assert "label" not in load(train, test=test / "t.csv").test
    write_csv(test / "t.csv", [("002.png", "dog", "")], header="image,label,group")
    write_csv(test / "u.csv", [("002.png", "x"), ("001.png", "")], sep=";", header="image,group")
    assert load(train, test=test / "t.csv", group_col="group").test.shape == (1, 3)
    rows = [("002.png", "dog", "p1"), ("001.png", "cat", ""), ("000.png", "cat", "p1")]
    write_csv(test / "t.csv", rows, header="image,label,group")
    groups = load(train, test=test / "t.csv", group_col="group").test["group"].tolist()
    assert groups == ["p1", "001.png", "p1"]
    for folder, name in (("cat", "g1_0.png"), ("dog", "g2_1.png"), ("dog", "g1_2.png")):
        draw(tmp_path / "folders" / folder / name, 5)
        draw(tmp_path / "held" / folder / name, 6)
    settings = {"data": str(tmp_path / "folders"), "group_regex": r"(g\d)_"}
    manifest = load_manifest(DataConfig(**settings, test=str(tmp_path / "held")), environ={})
    assert manifest.test["group"].tolist() == ["g1", "g1", "g2"]
    listed = write_csv(tmp_path / "list.tsv", [("held/cat/g1_0.png",)], header="image")
    config = DataConfig(**settings, test=str(listed), encoding="utf-8", sep=r"\t")
    assert len(load_manifest(config, environ={}).test) == 1


def test_class_folders_of_a_test_set_are_spelt_as_the_training_set(tmp_path):
    for index, name in enumerate(("train/Cat/1", "train/dog/1", "val/cat/1", "test/cat/1")):
        draw(tmp_path / f"{name}.png", index)
    draw(tmp_path / "test/dog/1.png", 9)

    def test_of(**settings):
        return load_manifest(DataConfig(data=str(tmp_path), **settings), environ={})

    manifest = test_of(merge_case=True)
    assert [manifest.classes[label] for label in manifest.test["label"]] == ["Cat", "dog"]
    (tmp_path / "test" / "cat").rename(tmp_path / "test" / "one")
    (tmp_path / "test" / "dog").rename(tmp_path / "test" / "two")
    manifest = test_of(merge_case=True)
    assert "label" not in manifest.test
    assert "folders one, two are not classes of the training set" in manifest.found[-1]


@pytest.mark.parametrize("name", ["test", "test_csv", "sample_submission", "test_image_col"])
def test_the_demo_set_has_its_test_set(name):
    flag = f"--{name.replace('_', '-')}"
    with pytest.raises(UserError, match=f"{flag}: the demo set has a test set already"):
        load_manifest(DataConfig(data="demo", **{name: "gone.csv"}), environ={})


def sample(tmp_path, text, classes=WORDS, ids=("a/1.png", "a/2.png", "3.png")):
    file = tmp_path / "sample.csv"
    file.write_text(text)
    return read_sample_submission(read_text_table(file), classes, ids)


def test_a_sample_of_labels(tmp_path):
    form = sample(tmp_path, "Id,Kind\n3,cat\n1,cat\n")
    assert (form.id_column, form.columns, form.kind) == ("Id", ("Kind",), "labels")
    assert form.ids == (("3.png", "3"), ("a/1.png", "1"))


def test_a_sample_of_probabilities(tmp_path):
    form = sample(tmp_path, "Id,owl,cat,dog\n1.png,0,0,1\n")
    assert (form.kind, form.columns, form.classes) == (
        "probabilities",
        ("owl", "cat", "dog"),
        (2, 0, 1),
    )
    form = sample(tmp_path, "id,has_cat\n1.png,0.5\n", classes=("0", "1"))
    assert (form.kind, form.columns, form.classes) == ("probabilities", ("has_cat",), (1,))
    assert sample(tmp_path, "id,has_cat\n1.png,0\n", classes=("0", "1")).kind == "labels"
    # A column that is named after a class has that class's probability.
    assert sample(tmp_path, "id,cat\n1.png,0.5\n", classes=("cat", "dog")).classes == (0,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Id,x\n1,\n9,\n", "line 3: '9' is not a test image"),
        ("Id,x\n1,\n1.png,\n", "line 3: '1.png' is not a test image|ids such as '1' fit"),
        ("Id,x\n1,\n1,\n", "image a/1.png occurs more than once"),
        ("Id,x\n1,0.5\n", "has numbers such as 0.5, but there are 3 classes"),
        ("Id\n1\n", "at least one column of values"),
        ("Id,cat,dog\n1,0,0\n", "no owl; after the id"),
        ("Id,cat,dog,ape\n1,0,0,0\n", "unknown columns ape"),
        ("Id,x\n", "and rows"),
    ],
)
def test_wrong_samples(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        sample(tmp_path, text)


def test_ids_that_fit_several_images(tmp_path):
    with pytest.raises(UserError, match="fit several test images"):
        sample(tmp_path, "Id,x\n1,\n", ids=("a/1.png", "b/1.png"))


def test_class_order(tmp_path):
    grades = ("none", "mild", "bad")
    file = plain(tmp_path, rows(words=grades))
    assert load(file).classes == ("bad", "mild", "none")
    assert not load(file).ordered
    manifest = load(file, class_order="none, mild,bad")
    assert manifest.classes == grades
    assert manifest.ordered
    (tmp_path / "order.txt").write_text("none\nmild\n\nbad\n")
    assert load(file, class_order=tmp_path / "order.txt").classes == grades
    for order, message in (
        ("none,mild", "lacks bad"),
        ("none,mild,bad,worse", "has worse, which no image has"),
        ("none,mild,bad,mild", "names a class twice"),
    ):
        with pytest.raises(UserError, match=f"--class-order {order}: {message}"):
            load(file, class_order=order)
    with_stage = [(*row, "early" if row[1] != "bad" else "late") for row in rows(words=grades)]
    file = plain(tmp_path, with_stage, header="image,label,group,stage")
    (stage,) = load(file, attribute_cols="stage", class_order="bad,none,mild").attributes
    assert (stage.values, stage.ordered) == (("late", "early"), True)
    (stage,) = load(file, attribute_cols="stage").attributes
    assert (stage.values, stage.ordered) == (("early", "late"), False)
