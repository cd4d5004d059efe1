"""Columns of the table of images, from run_cv.py over blend.py --meta-cols to predict.py."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml

import export_model
import foldblend as fb
import predict as predict_script
import run_cv
from ensemble.parameters_file import PARAMETERS
from ensemble.saved import load_blend
from foldblend.errors import UserError
from foldblend.runs.folder import logit_columns
from foldblend.runs.image_columns import TRAIN, read_columns
from foldblend.runs.run import Run
from tests.makers.columned import make_table
from tests.makers.constants import TINY
from tests.makers.edits import edit_table


def quiet(_):
    pass


BLEND = {"meta_cols": "age,site", "method": "stack-columns", "page": False, "say": quiet}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return make_table(tmp_path_factory.mktemp("pets"), num_patients=40)


def flags(table, output, seed, *more):
    return [
        *("--data", table, "--test", table.parent / "test.csv", "--group-col", "patient"),
        *("--output", output, "--name", f"r{seed}", "--seed", seed, "--backbone", "test_resnet"),
        *TINY,
        *more,
    ]


@pytest.fixture(scope="module")
def made(table, tmp_path_factory):
    """Return outputs/ with two runs on the table and a blend of them with columns; read-only."""
    outputs = tmp_path_factory.mktemp("made") / "outputs"
    for seed in (0, 1):
        assert run_cv.main([*map(str, flags(table, outputs, seed))]) == 0
    fb.blend([outputs / "r0", outputs / "r1"], name="both", **BLEND)
    return outputs


@pytest.fixture
def outputs(made, tmp_path):
    return shutil.copytree(made, tmp_path / "outputs")


def without_columns(run):
    """Make a run one of an earlier version, which kept no columns."""
    (run / "columns.parquet").unlink()
    info = json.loads((run / "run.json").read_text())
    del info["files"]["columns.parquet"]
    (run / "run.json").write_text(json.dumps(info))


def test_a_run_keeps_the_columns_that_a_stack_could_use(made, table):
    run = fb.load(made / "r0")
    assert run.hashes["columns.parquet"]
    found = read_columns(run)
    assert found.columns["train"].kinds == {"age": "number", "site": "category"}
    assert found.columns["test"].kinds == {"age": "number", "site": "category"}
    rows = pd.read_csv(table, keep_default_na=False)
    kept = found.of(TRAIN, rows["image"], ("age", "site"))
    assert kept.values["site"].tolist() == rows["site"].tolist()
    np.testing.assert_array_equal(kept.values["age"], pd.to_numeric(rows["age"]))


def test_columns_change_neither_the_run_key_nor_the_logits(made, table, tmp_path, cv_command):
    bare = tmp_path / "bare.csv"
    pd.read_csv(table)[["image", "label", "patient"]].to_csv(bare, index=False)
    more = ("--image-root", table.parent, "--data-name", "table")
    done = cv_command(*flags(bare, tmp_path / "out", 0, *more), "--test", table.parent / "test.csv")
    assert done.code == 0, done.err
    one, other = (Run(folder / "r0") for folder in (made, tmp_path / "out"))
    assert other.info["run_key"] == one.info["run_key"]
    assert other.oof_hash == one.oof_hash
    assert not other.has("columns.parquet")


def test_a_run_of_an_earlier_version_gets_its_columns_without_training(outputs, table, cv_command):
    for name in ("r0", "r1"):
        without_columns(outputs / name)
    runs = [outputs / "r0", outputs / "r1"]
    with pytest.raises(UserError, match=r"run the same run_cv\.py command again") as raised:
        fb.blend(runs, name="none", **BLEND)
    assert "\n" not in str(raised.value)
    assert not (outputs / "none").exists()
    before = (outputs / "r0" / "fold_0" / "done.json").read_bytes()
    done = cv_command(*flags(table, outputs, 0))
    assert done.code == 0, done.err
    assert "nothing was trained" in done.out
    assert (outputs / "r0" / "fold_0" / "done.json").read_bytes() == before
    # The first run that has a column is enough.
    again = fb.blend(runs, name="again", **BLEND)
    assert again.oof_hash == fb.load(outputs / "both").oof_hash


def test_the_blend_shows_the_stack_with_and_without_columns(made):
    text = (made / "both" / "report.txt").read_text()
    assert "Columns of the images beside the predictions (--meta-cols)" in text
    assert "2 of 2 folds" in text
    page = json.loads((made / "both" / "report.json").read_text())
    assert "stack-columns - stack" in json.dumps(page)
    info = fb.load(made / "both").info
    assert info["run_key"].keys() == {"blend"}
    settings = yaml.safe_load((made / "both" / "blend.yaml").read_text())
    assert settings["meta_cols"] == "age,site"
    assert settings["found"]["fitted"]["columns"][0]["column"] == "age"


def test_auto_tries_the_methods_with_columns(outputs):
    runs = [outputs / "r0", outputs / "r1"]
    auto = fb.blend(runs, meta_cols="site", name="auto", thorough=True, page=False, say=quiet)
    report = (auto.path / "report.txt").read_text()
    assert "stack-columns" in report
    assert "trees-columns" in report
    fb.blend(runs, meta_cols="site", name="short", page=False, say=quiet)
    report = (outputs / "short" / "report.txt").read_text()
    assert "stack-columns" in report
    assert "trees-columns" not in report
    plain = fb.blend(runs, name="plain", page=False, say=quiet)
    assert "columns" not in (plain.path / "report.txt").read_text().replace("--group-col", "")
    assert "meta_cols" not in (plain.path / "blend.yaml").read_text()


@pytest.mark.parametrize("spelt", ["site,age", " age , site "])
def test_the_order_and_blanks_of_names_do_not_matter(outputs, spelt):
    again = fb.blend([outputs / "r1", outputs / "r0"], name="both", **{**BLEND, "meta_cols": spelt})
    assert again.info["run_key"] == fb.load(outputs / "both").info["run_key"]


def test_the_file_of_a_blend_makes_the_same_blend(outputs, made, blend_command):
    file = outputs / "both" / "blend.yaml"
    before = (outputs / "both" / "oof.parquet").read_bytes()
    done = blend_command("--config", file, "--no-page", "--name", "both")
    assert done.code == 0, done.err
    assert (outputs / "both" / "oof.parquet").read_bytes() == before
    # A blend whose parameters are gone is fitted again, with its columns.
    (outputs / "both" / PARAMETERS).unlink()
    again = load_blend(outputs / "both", say=quiet)
    assert again.needs == {"age": "number", "site": "category"}
    assert (outputs / "both" / PARAMETERS).read_bytes() == (made / "both" / PARAMETERS).read_bytes()


def predicted_logits(place, images):
    from pipeline.predict.api import open_inputs
    from pipeline.predict.config import PredictConfig
    from pipeline.predict.run import Prediction

    config = PredictConfig(run=str(place), odd=False)
    session, inputs = open_inputs(config, images, say=quiet)
    _, logits_NC, _ = Prediction(session, inputs, config, say=quiet).logits()
    return inputs.ids, logits_NC


def test_predictions_equal_the_test_set(made, table, tmp_path):
    test = fb.load(made / "both").test.set_index("image_id")
    file = tmp_path / "both.zip"
    fb.export_model(made / "both", file, say=quiet)
    for place in (made / "both", file):
        ids, logits_NC = predicted_logits(place, str(table.parent / "test.csv"))
        wanted = test.loc[ids, logit_columns(3)].to_numpy()
        np.testing.assert_array_equal(logits_NC, wanted)
    frame = pd.read_csv(table.parent / "test.csv")
    frame["image"] = [str(table.parent / one) for one in frame["image"]]
    answers = fb.load(made / "both").predict(frame)
    names = np.array(fb.load(made / "both").classes)
    wanted = test.loc[[one.rsplit("/", 1)[1] for one in frame["image"]], logit_columns(3)]
    assert list(answers) == names[wanted.to_numpy().argmax(axis=1)].tolist()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows.drop(columns="age"), "needs the columns age, site, and it lacks age"),
        (lambda rows: rows.assign(age="old"), "'old' is no number"),
        (lambda rows: rows.assign(age="1,250"), "'1,250' is no number"),
    ],
)
def test_a_table_without_the_columns_is_refused(made, table, tmp_path, command_of, change, words):
    file = tmp_path / "new.csv"
    change(pd.read_csv(table.parent / "test.csv")).to_csv(file, index=False)
    predict = command_of(predict_script.main)
    done = predict(made / "both", file, "--out", tmp_path / "out.csv", "--image-root", table.parent)
    done.assert_one_line_error(words)
    assert not (tmp_path / "out.csv").exists()


def test_images_without_a_table_are_refused(made, table, tmp_path, command_of):
    predict = command_of(predict_script.main)
    done = predict(made / "both", table.parent / "test_0_0.png", "--out", tmp_path / "out.csv")
    done.assert_one_line_error("the blend needs the columns age, site; pass a table of images")
    with pytest.raises(UserError, match="needs the columns age, site"):
        fb.load(made / "both").predict([np.zeros((24, 24, 3), np.uint8)])
    done = command_of(export_model.main)(made / "both", "--onnx", tmp_path / "graphs")
    done.assert_one_line_error("needs the columns age, site (--meta-cols)")


def test_a_blend_of_blends_passes_columns_down(outputs, table):
    fb.blend([outputs / "r0"], method="soft", name="one", page=False, say=quiet)
    members = [outputs / "both", outputs / "r0"]
    upper = fb.blend(
        members, method="soft", name="upper", include_blends=True, page=False, say=quiet
    )
    assert upper.has("columns.parquet")
    ids, logits_NC = predicted_logits(upper.path, str(table.parent / "test.csv"))
    test = upper.test.set_index("image_id").loc[ids, logit_columns(3)].to_numpy()
    np.testing.assert_array_equal(logits_NC, test)


def test_columns_pass_through_tta(outputs):
    fb.run_tta(outputs / "r0", views="hflip", name="r0_tta", page=False, say=quiet)
    run = fb.load(outputs / "r0_tta")
    assert read_columns(run).columns["train"].kinds == {"age": "number", "site": "category"}
    found = fb.blend([run, outputs / "r1"], name="of_tta", **BLEND)
    assert found.info["kind"] == "blend"


def edited(run, change):
    edit_table(run / "columns.parquet", change)


def test_bad_input_is_an_error_in_one_line(outputs, blend_command):
    runs = [outputs / "r0", outputs / "r1"]
    for words, told in (
        (("--meta-cols", "agee"), ("no run has this column; did you mean age?", "age, site")),
        (("--meta-cols", "visit"), ("no run has this column", "dates, free text")),
        (("--meta-cols", "note"), ("no run has this column", "free text")),
        (("--meta-cols", "age,age"), ("age is given twice",)),
        (("--meta-cols", "age,"), ("a name is empty",)),
        (("--meta-cols", "age", "--method", "soft"), ("--method soft takes no columns",)),
        (("--meta-cols", "age", "--weights", "1", "1"), ("--weights takes no columns",)),
        (("--method", "stack-columns"), ("name the columns with --meta-cols",)),
    ):
        blend_command(*runs, *words, "--name", "bad").assert_one_line_error(*told)
    assert not (outputs / "bad").exists()
    edited(outputs / "r1", lambda rows: rows.assign(**{"number:age": rows["number:age"] + 1}))
    done = blend_command(*runs, "--meta-cols", "age", "--name", "bad")
    done.assert_one_line_error("r0 and", "r1: ", "images differ in column age; the first is")
    for name in ("r0", "r1"):
        edited(outputs / name, lambda rows: rows.assign(**{"number:age": 5.0}))
    done = blend_command(*runs, "--meta-cols", "age", "--name", "bad")
    done.assert_one_line_error("all images have the same value")
    for name in ("r0", "r1"):
        edited(outputs / name, lambda rows: rows.assign(**{"number:age": np.nan}))
    done = blend_command(*runs, "--meta-cols", "age", "--name", "bad")
    done.assert_one_line_error("no image has a value")

    def empty_in_test(rows):
        return rows.assign(**{"category:site": rows["category:site"].where(rows["part"] == TRAIN)})

    for name in ("r0", "r1"):
        edited(outputs / name, empty_in_test)
    done = blend_command(*runs, "--meta-cols", "site", "--name", "bad")
    done.assert_one_line_error("no image of the test set has a value in this column")
    assert not (outputs / "bad").exists()


def test_a_column_that_determines_the_class_is_told(outputs):
    rows = fb.load(outputs / "r0").oof.drop_duplicates("image_id").set_index("image_id")["label"]

    def leaky(table):
        words = table["image_id"].map(rows).map({0: "x", 1: "y", 2: "z"}).fillna("x")
        return table.assign(**{"category:site": words})

    for name in ("r0", "r1"):
        edited(outputs / name, leaky)
    found = fb.blend([outputs / "r0", outputs / "r1"], name="leaky", **BLEND)
    assert any("column site determines the class" in note for note in found.info["notes"])
    assert "column site determines the class" in (found.path / "report.txt").read_text().lower()


def test_a_reader_of_the_user_can_keep_columns(tiny_layout):
    files = sorted(tiny_layout.glob("train/images/*/normal.jpg"))
    tests = sorted((tiny_layout / "eval" / "images").iterdir())[:2]
    common = {
        "name": "bare",
        "root": tiny_layout,
        "image_id": [file.parent.name for file in files],
        "path": files,
        "group": [file.parent.name for file in files],
        "label": [index % 2 for index in range(len(files))],
        "test": [(file.name, file) for file in tests],
        "classes": ["even", "odd"],
        "answers": ["even", "odd"],
    }
    ages = [30.5, None, float("nan"), *range(len(files) - 3)]
    manifest = fb.build_manifest(**common, columns={"age": ages}, test_columns={"age": [1, 2]})
    assert manifest.columns["number:age"].notna().sum() == len(files)
    bare = fb.build_manifest(**common)
    assert bare.columns is None
    assert bare.labels_hash() == manifest.labels_hash()
    with pytest.raises(UserError, match="column 'age' has 1 values for 12 images"):
        fb.build_manifest(**common, columns={"age": [1]})


def test_the_mask_layout_keeps_none(tiny_runs):
    # Its columns are what the class consists of.
    assert not fb.load(tiny_runs / "alpha").has("columns.parquet")
