"""Reader of a CSV of images: classes, attributes, boxes, and errors in rows."""

import cv2
import numpy as np
import pandas as pd
import PIL.Image
import pytest
from sklearn.metrics import f1_score

from foldblend.errors import BadImage, UserError
from foldblend.images import read_image
from foldblend.runs.run import Run
from folds.config import DataConfig
from folds.data.corrections import apply_corrections
from folds.data.source import load_manifest
from tests.makers.constants import TINY


@pytest.fixture
def flowers(tmp_path):
    """30 images of 10 plants of three species."""
    rng = np.random.default_rng(0)
    rows = []
    for index in range(30):
        name = f"{index:02d}.png"
        (tmp_path / "pics").mkdir(exist_ok=True)
        cv2.imwrite(
            str(tmp_path / "pics" / name), rng.integers(0, 255, (20, 20, 3), dtype=np.uint8)
        )
        plant = index // 3
        rows.append(
            {"file": name, "species": ["rose", "iris", "aster"][plant % 3], "plant": f"p{plant}"}
        )
    pd.DataFrame(rows).to_csv(tmp_path / "flowers.csv", index=False)
    return tmp_path


def read(root, **changes):
    how = {
        "image_col": "file",
        "label_col": "species",
        "group_col": "plant",
        "image_root": str(root / "pics"),
    } | changes
    settings = {name: None if value is None else str(value) for name, value in how.items()}
    return load_manifest(DataConfig(csv=str(root / "flowers.csv"), **settings))


def test_words_become_classes_in_order(flowers):
    manifest = read(flowers)
    assert manifest.classes == ("aster", "iris", "rose")
    assert manifest.answers == manifest.classes
    assert manifest.train["group"].nunique() == 10
    assert manifest.attributes == ()
    assert manifest.train.set_index("image_id").loc["00.png", "label"] == 2


@pytest.mark.skipif(pd.__version__ < "3", reason="pandas keeps texts as Python objects")
def test_texts_of_a_manifest_are_in_arrow(flowers):
    train = read(flowers).train
    for name in ("image_id", "path", "group"):
        assert train[name].dtype == "str"
        assert train[name].dtype.storage == "pyarrow"
    # A Python text alone would take more.
    assert train["image_id"].memory_usage(index=False, deep=True) / len(train) < 30


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
    with pytest.raises(UserError, match=r"'010' .line 2. and '10.0' .line 3. are the same number"):
        read(flowers)


def test_one_file_under_two_names_is_refused(flowers):
    change(flowers, file={1: "./00.png"})
    with pytest.raises(UserError, match="are the same file"):
        read(flowers)


def test_without_groups_every_image_is_a_separate_group(flowers):
    manifest = read(flowers, group_col=None)
    assert manifest.train["group"].nunique() == 30
    assert "--group-col" in manifest.warnings[0]


def test_test_set(flowers):
    pd.DataFrame({"file": ["03.png", "01.png"]}).to_csv(flowers / "test.csv", index=False)
    assert read(flowers, test_csv=flowers / "test.csv").test["image_id"].tolist() == [
        "03.png",
        "01.png",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_col": "specie"}, r"no column 'specie' \(--label-col\).*did you mean species"),
        ({"image_root": "/nowhere"}, "no such folder; check --image-root"),
    ],
)
def test_wrong_flags(flowers, changes, message):
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
        ({"file": {1: "gone.png"}}, "1 of 30 images are missing.*gone.png"),
    ],
)
def test_wrong_rows(flowers, columns, message):
    change(flowers, **columns)
    with pytest.raises(UserError, match=message):
        read(flowers)


def test_one_class_is_refused(flowers):
    change(flowers, species=dict.fromkeys(range(30), "rose"))
    with pytest.raises(UserError, match="has 1 class"):
        read(flowers)


def test_not_a_csv(flowers):
    (flowers / "flowers.csv").write_bytes(b"\x89PNG\xff" * 9)
    with pytest.raises(UserError, match="is not UTF-8 text; pass --encoding"):
        read(flowers)


KINGDOM = {"rose": "garden", "iris": "garden", "aster": "meadow"}


def with_columns(root, **columns):
    table = pd.read_csv(root / "flowers.csv", dtype=str)
    for name, values in columns.items():
        table[name] = values(table)
    table.to_csv(root / "flowers.csv", index=False)


def test_attributes_follow_from_the_class(flowers):
    with_columns(flowers, place=lambda table: table["species"].map(KINGDOM))
    (place,) = read(flowers, attribute_cols="place").attributes
    assert (place.name, place.values, place.of_class) == ("place", ("garden", "meadow"), (1, 0, 0))
    change(flowers, place={5: "meadow"})  # of plant p1, an iris
    with pytest.raises(
        UserError, match=r"'place' .*class 'iris', line 5 has 'garden' and line 7 has 'meadow'"
    ):
        read(flowers, attribute_cols="place")
    with pytest.raises(
        UserError, match=r"no column 'places' \(--attribute-cols\).*did you mean place"
    ):
        read(flowers, attribute_cols="places")
    with_columns(flowers, place=lambda table: "garden")
    with pytest.raises(UserError, match=r"'place' .*has only 1 value"):
        read(flowers, attribute_cols="place")


def test_a_corrected_attribute_must_lead_to_one_class(flowers, tmp_path):
    with_columns(flowers, place=lambda table: table["species"].map(KINGDOM))
    manifest = read(flowers, attribute_cols="place")
    # Asters are the only class of the meadow, so roses of the garden become asters.
    (tmp_path / "fix.csv").write_text("target,field,value\np0,place,meadow\n")
    assert set(
        apply_corrections(manifest, tmp_path / "fix.csv").train.query("group == 'p0'")["label"]
    ) == {0}
    (tmp_path / "fix.csv").write_text("target,field,value\np2,place,garden\n")
    with pytest.raises(
        UserError, match=r"no class, or more than one, equals 'aster'.*write the class"
    ):
        apply_corrections(manifest, tmp_path / "fix.csv")


def test_attributes_are_scored_separately(flowers, tmp_path, cv_command):
    with_columns(flowers, place=lambda table: table["species"].map(KINGDOM))
    csv = [
        "--csv",
        flowers / "flowers.csv",
        "--image-col",
        "file",
        "--label-col",
        "species",
        "--group-col",
        "plant",
    ]
    source = [*csv, "--image-root", flowers / "pics", "--attribute-cols", "place"]
    assert (
        cv_command(
            *source, "--backbone", "test_resnet", "--output", tmp_path, "--name", "run", *TINY
        ).code
        == 0
    )
    run = Run(tmp_path / "run")
    of_class = np.array([1, 0, 0])
    truth = of_class[run.oof["label"]]
    predicted = of_class[run.logits(run.oof).argmax(1)]
    (place,) = run.report["attributes"]
    assert place["name"] == "place"
    assert place["f1_macro"]["value"] == pytest.approx(f1_score(truth, predicted, average="macro"))


BOX = "x1,y1,x2,y2"


def with_boxes(root, **changes):
    corners = {"x1": "2", "y1": "3.5", "x2": "12", "y2": "99"} | changes
    with_columns(
        root, **{name: lambda table, value=value: value for name, value in corners.items()}
    )


def test_a_box_is_cut_out_and_clipped_to_the_image(flowers):
    with_boxes(flowers)
    train = read(flowers, box_cols=BOX).train
    whole = read_image(train["path"][0])
    assert np.array_equal(read_image(train["path"][0], train["box"][0]), whole[3:20, 2:12])
    with pytest.raises(BadImage, match=r"box 20,0,30,9 lies outside the 20 x 20 image"):
        read_image(train["path"][0], (20, 0, 30, 9))


def test_a_box_refers_to_the_upright_image(tmp_path):
    """A photograph with an EXIF rotation; the box is in pixels of the rotated image."""
    rng = np.random.default_rng(0)
    lying = cv2.resize(
        rng.integers(0, 255, (4, 8, 3), dtype=np.uint8), (80, 40), interpolation=cv2.INTER_NEAREST
    )
    turned = PIL.Image.Exif()
    turned[0x0112] = 6  # to be turned a quarter clockwise
    PIL.Image.fromarray(lying).save(
        tmp_path / "turned.jpg", exif=turned, quality=100, subsampling=0
    )
    upright = read_image(tmp_path / "turned.jpg")
    assert upright.shape == (80, 40, 3)
    assert np.abs(upright.astype(int) - np.rot90(lying, -1)).mean() < 4
    assert np.array_equal(
        read_image(tmp_path / "turned.jpg", (10, 50, 30, 80)), upright[50:80, 10:30]
    )


@pytest.mark.parametrize(
    ("changes", "columns", "message"),
    [
        ({"x2": "2"}, BOX, r"no box in line 2, 3, 4 and 27 more.*x1 < x2"),
        ({"y1": "nan"}, BOX, "no box in line 2"),
        ({"x1": "left"}, BOX, "no box in line 2"),
        ({"x1": " "}, BOX, r"'x1' \(--box-cols\) is blank in line 2"),
        ({}, "x1,y1,x2", r"--box-cols x1,y1,x2: pass four columns"),
        ({}, "x1,y1,x2,y3", r"no column 'y3' \(--box-cols\)"),
    ],
)
def test_wrong_boxes(flowers, changes, columns, message):
    with_boxes(flowers, **changes)
    with pytest.raises(UserError, match=message):
        read(flowers, box_cols=columns)


def test_boxes_give_the_logits_of_images_cropped_beforehand(flowers, tmp_path, cv_command):
    with_boxes(flowers)
    pd.read_csv(flowers / "flowers.csv").head(3).assign(file=["03.png", "01.png", "02.png"]).to_csv(
        flowers / "test.csv", index=False
    )
    (flowers / "cut").mkdir()
    for file in (flowers / "pics").iterdir():
        cv2.imwrite(str(flowers / "cut" / file.name), cv2.imread(str(file))[3:20, 2:12])
    csv = [
        "--csv",
        flowers / "flowers.csv",
        "--image-col",
        "file",
        "--label-col",
        "species",
        "--group-col",
        "plant",
    ]
    argv = [
        *csv,
        "--test-csv",
        flowers / "test.csv",
        "--backbone",
        "test_resnet",
        "--output",
        tmp_path,
        *TINY,
    ]
    assert cv_command(*argv, "--image-root", flowers / "cut", "--name", "before").code == 0
    done = cv_command(
        *argv, "--image-root", flowers / "pics", "--box-cols", "x1,y1,x2,y2", "--name", "boxes"
    )
    assert done.code == 0, done.err
    for table in ("oof", "test"):
        assert getattr(Run(tmp_path / "boxes"), table).equals(
            getattr(Run(tmp_path / "before"), table)
        )
    with_boxes(flowers, x1="3")  # a run with other boxes has different data
    again = cv_command(
        *argv, "--image-root", flowers / "pics", "--box-cols", "x1,y1,x2,y2", "--name", "boxes"
    )
    again.assert_one_line_error("boxes", "data")
    with_boxes(flowers, x1="50", x2="60")
    cv_command(
        *argv, "--image-root", flowers / "pics", "--box-cols", "x1,y1,x2,y2"
    ).assert_one_line_error("outside")
    cv_command("--box-cols", "a,b,c,d", "--pretrained", "none").assert_one_line_error(
        "--box-cols", "--data"
    )
