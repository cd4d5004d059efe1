import cv2
import numpy as np
import pandas as pd
import pytest

from folds.errors import UserError
from folds.generic import read_csv_manifest


@pytest.fixture
def flowers(tmp_path):
    """30 pictures of 10 plants, three species by name."""
    rng = np.random.default_rng(0)
    rows = []
    for index in range(30):
        name = f"{index:02d}.png"
        (tmp_path / "pics").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "pics" / name), rng.integers(0, 255, (20, 20, 3), dtype=np.uint8))
        plant = index // 3
        rows.append({"file": name, "species": ["rose", "iris", "aster"][plant % 3], "plant": f"p{plant}"})
    pd.DataFrame(rows).to_csv(tmp_path / "flowers.csv", index=False)
    return tmp_path


def read(root, **changes):
    how = {"image_col": "file", "label_col": "species", "group_col": "plant", "image_root": root / "pics"} | changes
    return read_csv_manifest(root / "flowers.csv", **how)


def test_words_become_classes_in_order(flowers):
    manifest = read(flowers)
    assert manifest.classes == ("aster", "iris", "rose")
    assert manifest.answers == manifest.classes
    assert manifest.train["group"].nunique() == 10
    assert manifest.attributes == ()
    assert manifest.train.set_index("image_id").loc["00.png", "label"] == 2


def test_numbers_are_ordered_as_numbers(flowers):
    table = pd.read_csv(flowers / "flowers.csv")
    table["species"] = table["species"].map({"rose": 10, "iris": 9, "aster": -1})
    table.to_csv(flowers / "flowers.csv", index=False)
    assert read(flowers).classes == ("-1", "9", "10")


def test_one_number_written_two_ways_is_refused_and_decimals_are_ordered(flowers):
    table = pd.read_csv(flowers / "flowers.csv")
    table["species"] = table["species"].map({"rose": "10.0", "iris": "2.0", "aster": "1.5"})
    table.to_csv(flowers / "flowers.csv", index=False)
    assert read(flowers).classes == ("1.5", "2.0", "10.0")
    change(flowers, species={0: "010"})
    with pytest.raises(UserError, match=r"'010' and '10.0' are the same number"):
        read(flowers)


def test_one_file_under_two_names_is_refused(flowers):
    change(flowers, file={1: "./00.png"})
    with pytest.raises(UserError, match="are the same file"):
        read(flowers)


def test_without_groups_every_picture_is_its_own(flowers):
    manifest = read(flowers, group_col=None)
    assert manifest.train["group"].nunique() == 30
    assert "--group-col" in manifest.warnings[0]


def test_test_set(flowers):
    pd.DataFrame({"file": ["03.png", "01.png"]}).to_csv(flowers / "test.csv", index=False)
    assert read(flowers, test_csv=flowers / "test.csv").test["image_id"].tolist() == ["03.png", "01.png"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_col": "specie"}, r"no column 'specie' \(--label-col\).*did you mean species"),
        ({"image_root": "/nowhere"}, "no such folder; check --image-root"),
    ],
)
def test_wrong_flags(flowers, changes, message):
    from pathlib import Path

    changes = {key: Path(value) if key == "image_root" else value for key, value in changes.items()}
    with pytest.raises(UserError, match=message):
        read(flowers, **changes)


def change(root, **columns):
    table = pd.read_csv(root / "flowers.csv", dtype=str)
    for column, values in columns.items():
        for row, value in values.items():
            table.loc[row, column] = value
    table.to_csv(root / "flowers.csv", index=False)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"plant": {4: " "}}, r"'plant' \(--group-col\) is blank in line 6"),
        ({"species": {0: None}}, "'species'.*blank in line 2"),
        ({"file": {1: "00.png"}}, "image id 00.png occurs more than once"),
        ({"file": {1: "gone.png"}}, "1 of 30 pictures are missing.*gone.png"),
    ],
)
def test_wrong_rows(flowers, columns, message):
    change(flowers, **columns)
    with pytest.raises(UserError, match=message):
        read(flowers)


def test_one_class_is_none(flowers):
    change(flowers, species=dict.fromkeys(range(30), "rose"))
    with pytest.raises(UserError, match="has 1 class"):
        read(flowers)


def test_not_a_csv(flowers):
    (flowers / "flowers.csv").write_bytes(b"\xff\xfe\x00\x01" * 9)
    with pytest.raises(UserError, match="cannot be read as CSV"):
        read(flowers)
