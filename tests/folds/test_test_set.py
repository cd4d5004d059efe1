"""The test set: its place, its labels, and the form of the submission."""

import pytest

from foldblend.errors import UserError
from folds.config import DataConfig
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
    write_csv(lists, [("001.png",), ("000.png",)], header="image")
    manifest = load(train, test_csv=lists)
    assert folders_of(manifest) == {"train"}
    assert "the test images are in" in manifest.notes[-1]
    # A mixture of two folders is not guessed.
    draw(lists.parent / "001.png", 7)
    with pytest.raises(UserError, match=r"1 of 2 images are missing.*lists/000.png"):
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


def sample(tmp_path, text, classes=WORDS, ids=("a/1.png", "a/2.png", "3.png")):
    file = tmp_path / "sample.csv"
    file.write_text(text)
    return read_sample_submission(file, classes, ids)


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Id,x\n1,\n9,\n", "line 3: '9' is not a test image"),
        ("Id,x\n1,\n1.png,\n", "fit|not a test image|more than once"),
        ("Id,x\n1,\n1,\n", "id 1 occurs more than once"),
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
