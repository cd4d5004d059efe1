"""Predictions of other libraries as run folders: what is written, and what is refused."""

import json
import re

import cv2
import numpy as np
import pandas as pd
import pytest

import foldblend as fb
import import_run as script
from ensemble.align import align
from foldblend.scores.metrics import softmax
from folds.config import DataConfig
from folds.data.demo import make_demo
from folds.data.imported.known import read_known
from folds.data.imported.rows import in_fold_order
from folds.data.source import load_manifest
from tests.makers.constants import ROOT, TINY
from tests.makers.imports import CLASSES, write_tables
from tests.makers.synthetic_runs import write_synthetic_run


def quiet(_):
    pass


@pytest.fixture
def tables(tmp_path):
    return write_tables(tmp_path)


def imported(tables, **settings):
    return fb.import_run(say=quiet, **{**tables.write(), **settings})


def test_logits_are_logarithms_of_the_probabilities_matched_by_image_and_class(tables):
    # Neither the order of rows nor that of columns has a meaning.
    shuffled = tables.oof.sample(frac=1, random_state=0)
    tables.oof = shuffled[["owl", "fold", "cat", "image_id", "dog"]]
    run = imported(tables)
    by_id = tables.oof.set_index("image_id").loc[run.oof["image_id"]]
    np.testing.assert_allclose(run.logits(run.oof), np.log(by_id[[*CLASSES]]), rtol=1e-6)
    assert run.oof["image_id"].tolist() == sorted(tables.labels["image"])
    truth = tables.labels.set_index("image").loc[run.oof["image_id"]]
    assert [CLASSES[one] for one in run.oof["label"]] == truth["label"].tolist()
    assert run.oof["group"].tolist() == truth["owner"].tolist()
    assert run.oof["fold"].tolist() == by_id["fold"].tolist()
    assert (run.oof["label_raw"] == run.oof["label"]).all()
    assert run.info["kind"] == "import"
    assert run.info["num_folds"] == 4
    assert run.report["headline"]["value"] > 0.5


def test_each_fold_has_its_test_table_and_their_mean_is_of_probabilities(tables):
    run = imported(tables)
    for fold, table in enumerate(tables.tests):
        assert run.test_fold(fold)["image_id"].tolist() == table["image_id"].tolist()
        np.testing.assert_allclose(
            run.logits(run.test_fold(fold)), np.log(table[[*CLASSES]]), rtol=1e-5
        )
    mean_NC = np.mean([table[[*CLASSES]].to_numpy() for table in tables.tests], axis=0)
    np.testing.assert_allclose(np.exp(run.logits(run.test)), mean_NC, rtol=1e-5)
    submitted = pd.read_csv(run.path / "submission.csv")
    assert submitted["label"].tolist() == [CLASSES[one] for one in mean_NC.argmax(axis=1)]
    assert not run.info["test_is_mean"]
    assert "imported_means" not in run.info


def test_files_are_put_in_the_order_of_the_numbers_in_their_names():
    names = ["b/test_fold_2.csv", "a/test_fold_10.csv", "test_fold_1.csv"]
    assert in_fold_order(names) == [2, 0, 1]
    assert in_fold_order(["last.csv", "first.csv"]) == [0, 1]
    # Other numbers may follow, and the number may be that of a folder.
    assert in_fold_order(["f10_seed7.csv", "f9_seed7.csv"]) == [1, 0]
    assert in_fold_order(["fold_10/test.csv", "fold_9/test.csv"]) == [1, 0]
    # Numbers that are not all there is to tell files apart by say nothing.
    assert in_fold_order(["b1.csv", "a0.csv"]) == [0, 1]


def test_frames_give_the_same_run_as_files(tables):
    of_files = imported(tables)
    frames = {"oof": tables.oof.set_index("image_id"), "test": tables.tests, "name": "frames"}
    of_frames = imported(tables, labels=tables.labels, **frames)
    pd.testing.assert_frame_equal(of_frames.oof, of_files.oof)
    pd.testing.assert_frame_equal(of_frames.test, of_files.test)
    assert of_frames.info["classes"] == of_files.info["classes"]
    assert of_frames.info["data"]["name"] == "labels"


def test_a_repeated_import_is_the_same_run_and_another_one_needs_overwrite(tables):
    first = imported(tables)
    before = (first.path / "run.json").read_bytes()
    again = imported(tables)
    assert (again.path / "run.json").read_bytes() == before
    tables.oof[["cat", "dog"]] = tables.oof[["dog", "cat"]].to_numpy()
    with pytest.raises(fb.UserError, match="made from other predictions or settings"):
        imported(tables)
    assert (again.path / "run.json").read_bytes() == before
    assert imported(tables, overwrite=True).info["run_key"] != json.loads(before)["run_key"]


def test_ids_classes_and_hash_are_those_of_a_run_on_the_same_table(tmp_path):
    names = ["a.png", "sub/b.png", " c.png ", "d", "sub\\e.png", "./f.png"]
    (tmp_path / "sub").mkdir()
    for name in ("a", "sub/b", "c", "d", "sub/e", "f"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((8, 8, 3), len(name), np.uint8))
    table = pd.DataFrame({"image": names, "label": ["10", "9"] * 3, "who": [*"uuvvww"]})
    table.to_csv(tmp_path / "train.csv", index=False)
    config = DataConfig(data=str(tmp_path / "train.csv"), group_col="who")
    manifest = load_manifest(config)
    known = read_known(str(tmp_path / "train.csv"), config)
    assert known.classes == manifest.classes == ("9", "10")
    assert known.record["data"]["train_ids_hash"] == manifest.ids_hash()
    columns = ["image_id", "group", "label", "label_raw"]
    pd.testing.assert_frame_equal(known.train, manifest.train[columns])
    assert known.pictures is not None


def test_zeros_are_raised_to_half_of_the_smallest_probability_and_it_is_said(tables):
    tables.oof[[*CLASSES]] = tables.oof[[*CLASSES]].round(2)
    tables.oof.loc[3, [*CLASSES]] = [0.0, 0.99, 0.01]
    tables.oof.loc[4, [*CLASSES]] = [0.0, 1.0, 0.0]
    tables.tests = []
    run = imported(tables)
    assert run.info["imported"]["raised"] == 3
    assert run.info["imported"]["floor"] == pytest.approx(0.005)
    logits = run.oof.set_index("image_id").loc["pets/04.jpg", ["logit_0", "logit_1"]]
    np.testing.assert_allclose(logits.to_numpy(float), [np.log(0.005), 0.0], rtol=1e-6)
    said = "3 of 72 probabilities are 0 or nearly so, and were raised to 0.005"
    assert any(said in note for note in run.report["notes"])
    assert not run.info["has_test"]


def test_logits_are_taken_as_they_are(tables):
    scores = np.random.default_rng(0).normal(size=(24, 3)) * 9
    tables.oof[[*CLASSES]] = scores
    tables.tests = []
    run = imported(tables, kind="logits")
    np.testing.assert_array_equal(run.logits(run.oof), scores.astype(np.float32))


@pytest.mark.parametrize(("digits", "kind"), [(1, "probabilities"), (2, "auto"), (3, "auto")])
def test_rounded_probabilities_are_probabilities(tables, digits, kind):
    drawn = np.random.default_rng(0).dirichlet([9, 9, 9], 24).round(digits)
    assert (np.abs(drawn.sum(axis=1) - 1) > 0.9 * 10**-digits).any()
    tables.oof[[*CLASSES]] = drawn
    tables.tests = []
    run = imported(tables, kind=kind)
    np.testing.assert_allclose(
        np.exp(run.logits(run.oof)), tables.oof[[*CLASSES]], rtol=1e-5, atol=1e-9
    )
    # More than rounding explains.
    tables.oof.loc[5, [*CLASSES]] = [0.3 + 2 * 10**-digits, 0.3, 0.4]
    with pytest.raises(fb.UserError, match=r"line 7 \(pets/05\.jpg\) sums to 1\."):
        imported(tables, kind=kind, name="off")


def test_one_column_is_enough_for_two_classes(tables):
    two = tables.labels["label"].replace("owl", "dog")
    tables.labels["label"] = two
    tables.oof = tables.oof[["image_id", "fold", "dog"]]
    tables.tests = [one[["image_id", "dog"]] for one in tables.tests]
    run = imported(tables)
    dog_N = tables.oof.set_index("image_id").loc[run.oof["image_id"], "dog"].to_numpy()
    expected = np.stack([1 - dog_N, dog_N], axis=1)
    np.testing.assert_allclose(np.exp(run.logits(run.oof)), expected, rtol=1e-5)


def test_numbered_columns_need_the_classes_in_their_order(tables):
    renamed = {"owl": "0", "cat": "1", "dog": "2"}
    expected = imported(tables).oof
    tables.oof = tables.oof.rename(columns=renamed)
    tables.tests = [one.rename(columns=renamed) for one in tables.tests]
    with pytest.raises(fb.UserError, match="are numbered, and the classes are 'cat', 'dog', 'owl'"):
        imported(tables, name="numbered")
    # The file has the columns 1, 2, 0.
    for name, columns in (("words", ("cat", "dog", "owl")), ("commas", ("cat,dog,owl",))):
        pd.testing.assert_frame_equal(imported(tables, name=name, columns=columns).oof, expected)
    other = imported(tables, name="other_order", columns=("owl", "cat", "dog")).oof
    np.testing.assert_array_equal(other["logit_2"], expected["logit_0"])
    for columns, message in (
        (("cat", "dog"), "2 classes for 3 columns of numbers"),
        (("cat", "dog", "dog"), "2 classes for 3 columns"),
        (("cat", "dog", "bird"), "'bird' is no class"),
    ):
        with pytest.raises(fb.UserError, match=message):
            imported(tables, name="x", columns=columns)


def test_named_columns_are_not_overruled_by_other_names(tables):
    assert imported(tables, columns=CLASSES).oof["logit_0"].notna().all()
    words = "column 'cat' has the name of another class than the one given for it \\('owl'\\)"
    with pytest.raises(fb.UserError, match=words):
        imported(tables, name="swapped", columns=("owl", "dog", "cat"))


def test_logits_beside_probabilities_are_refused(tables):
    scores = np.log(tables.oof[[*CLASSES]]) + 1
    tables.oof[[*CLASSES]] = scores
    words = r"test_fold_0\.csv.* as probabilities do, but .*oof\.csv has logits"
    with pytest.raises(fb.UserError, match=words):
        imported(tables, kind="logits")
    assert not (tables.folder / "outputs").exists()


def test_equal_test_files_are_named(tables):
    tables.tests[2] = tables.tests[0].sample(frac=1, random_state=0)
    run = imported(tables)
    [said] = [note for note in run.report["notes"] if "have the same values" in note]
    assert "test_fold_0.csv" in said
    assert "test_fold_2.csv" in said
    assert "test_fold_1.csv" not in said


def test_test_files_with_folds_are_in_their_order(tables):
    tables.tests = [one.assign(fold=fold + 1) for fold, one in enumerate(tables.tests)]
    expected = imported(tables)
    tables.tests[1]["fold"] = 3
    tables.tests[2]["fold"] = 2
    with pytest.raises(
        fb.UserError, match=r"test_fold_1\.csv: column 'fold' is 3, but it is number 2"
    ):
        imported(tables, name="swapped")
    tables.tests = [one.drop(columns="fold") for one in tables.tests]
    assert imported(tables, name="bare").test_fold(1).equals(expected.test_fold(1))


def test_labels_beside_predictions_are_compared_whatever_else_is_among_them(tables):
    truth = tables.labels["label"]
    tables.oof["label"] = truth.to_numpy()
    imported(tables)
    tables.oof["label"] = truth.to_numpy()[::-1]
    tables.oof.loc[23, "label"] = "fox"
    with pytest.raises(fb.UserError, match=r"line 2: column 'label' is 'owl', but .* has 'cat'"):
        imported(tables, name="shuffled")
    # Codes of another library are no classes.
    tables.oof["label"] = np.arange(24) % 3
    run = imported(tables, name="codes")
    assert any("'label' has no class of the data" in note for note in run.report["notes"])
    tables.labels.loc[0, "label"] = "Cat"
    tables.oof["label"] = truth.str.upper().to_numpy()[::-1]
    with pytest.raises(fb.UserError, match="column 'label' is 'owl'"):
        imported(tables, name="case", merge_case=True)


def test_repeats_have_a_row_per_image_and_repeat(tables):
    other = tables.oof.assign(fold=tables.oof["fold"].map({0: 1, 1: 2, 2: 3, 3: 0}))
    tables.oof = pd.concat([tables.oof.assign(repeat=1), other.assign(repeat=2)])
    tables.tests = tables.tests + tables.tests
    run = imported(tables)
    assert run.info["num_repeats"] == 2
    assert run.info["num_test_folds"] == 8
    second = run.oof[run.oof["repeat"] == 1].set_index("image_id")["fold"]
    assert second.to_dict() == other.set_index("image_id")["fold"].to_dict()


def test_folds_may_be_of_a_file_or_of_a_run(tables):
    first = imported(tables)
    bare = tables.oof.drop(columns="fold")
    tables.oof[["image_id", "fold"]].to_csv(tables.folder / "folds.csv", index=False)
    tables.oof = bare
    for name, folds in (("by_file", tables.folder / "folds.csv"), ("by_run", first.path)):
        pd.testing.assert_frame_equal(imported(tables, name=name, folds=folds).oof, first.oof)
    # The folder of a run has labels, groups and folds.
    of_run = imported(tables, name="of_run", labels=first, group_col=None)
    pd.testing.assert_frame_equal(of_run.oof, first.oof)
    assert of_run.info["data"] == first.info["data"]


def test_images_for_training_only_are_left_out(tables):
    folds = tables.oof[["image_id", "fold"]].copy()
    alone = tables.labels["owner"] == "owner7"
    folds.loc[alone, "fold"] = -1
    folds.to_csv(tables.folder / "folds.csv", index=False)
    tables.oof = tables.oof[~alone].drop(columns="fold")
    tables.tests = []
    run = imported(tables, folds=tables.folder / "folds.csv")
    assert len(run.oof) == 21
    assert run.info["data"]["num_images"] == 21


def test_test_labels_are_scored(tables):
    truth = pd.DataFrame({"image": [f"new/{index}.jpg" for index in (5, 4, 3, 2, 1, 0)]})
    truth["label"] = [CLASSES[index % 3] for index in (5, 4, 3, 2, 1, 0)]
    truth.to_csv(tables.folder / "test.csv", index=False)
    run = imported(tables, test_csv=tables.folder / "test.csv")
    assert run.test["image_id"].tolist() == truth["image"].tolist()
    assert run.report["test_score"]["num_images"] == 6


def test_it_blends_with_a_run_on_the_same_data(tmp_path):
    trained = fb.load(write_synthetic_run(tmp_path / "outputs/a", num_people=24, num_test=12))
    oof = trained.oof[["image_id"]].join(
        pd.DataFrame(trained.logits(trained.oof), columns=list(trained.classes))
    )
    tests = [
        trained.test_fold(fold)[["image_id"]].join(
            pd.DataFrame(trained.logits(trained.test_fold(fold)), columns=list(trained.classes))
        )
        for fold in range(5)
    ]
    same = fb.import_run(
        oof, trained, test=tests, kind="logits", name="b", output=tmp_path / "outputs", say=quiet
    )
    pd.testing.assert_frame_equal(same.oof, trained.oof.astype(same.oof.dtypes.to_dict()))
    assert same.ids_hash == trained.ids_hash
    aligned = align([trained, same])
    assert aligned.same_folds
    assert aligned.test_folds == [0, 1, 2, 3, 4]
    voted = fb.blend([trained, same], method="soft", name="ab", page=False, say=quiet)
    for mine, theirs in ((voted.oof, trained.oof), (voted.test_fold(3), trained.test_fold(3))):
        # The mean of two equal predictions is the same prediction.
        proba_NC = softmax(trained.logits(theirs))
        np.testing.assert_allclose(softmax(voted.logits(mine)), proba_NC, atol=1e-6)


def test_methods_are_fitted_on_it_and_scored_by_nested_cross_validation(tables):
    first = imported(tables)
    second = imported(write_tables(tables.folder, seed=1), name="second")
    both = fb.blend([first, second], name="both", page=False, say=quiet)
    assert both.info["imported_runs"] == ["other", "second"]
    assert "imported_means" not in both.info
    assert not both.info["test_is_mean"]
    text = (both.path / "report.txt").read_text(encoding="utf-8")
    assert "nested cross-validation" in text
    assert "stack" in text


def test_a_mean_only_import_is_voted_on_and_it_is_said(tables):
    whole = imported(tables, name="whole")
    other = write_tables(tables.folder, seed=1)
    mean = pd.concat(tables.tests).groupby("image_id", as_index=False).mean()
    single = imported(other, name="mean", test=[mean])
    assert single.info["test_is_mean"]
    assert single.info["imported_means"] == ["mean"]
    said = "test predictions are the mean over folds"
    assert any(said in note for note in single.report["notes"])
    assert said in (single.path / "report.txt").read_text(encoding="utf-8").replace("\n  ", " ")
    # A temperature is fitted on single models too.
    calibration = single.report["calibration"]
    assert not calibration["applied"]
    lines = []
    blended = fb.blend([whole, single], name="voted", page=False, say=lines.append)
    assert blended.info["about"].startswith("soft blend")
    assert [one["weight"] for one in blended.info["members"]] == [0.5, 0.5]
    assert "imported as their mean over folds" in " ".join(" ".join(lines).split())
    assert any("mean were imported as their mean" in note for note in blended.report["notes"])
    assert blended.info["imported_means"] == ["mean"]
    for settings in ({"method": "weights"}, {"budget": "1x"}, {"drop_harmful": True}):
        with pytest.raises(fb.UserError, match=r"test predictions of mean were imported"):
            fb.blend([whole, single], name="fitted", page=False, say=quiet, **settings)
    assert not (whole.path.parent / "fitted").exists()
    # What the test set has not is no reason for a run without one.
    tables.tests = []
    without = imported(tables, name="without")
    fb.blend([without, single], method="weights", name="oof", page=False, say=quiet)


def test_runs_beside_it_that_differ_are_named(tables):
    imported(tables)
    tables.oof["fold"] = (tables.oof["fold"] + 1) % 4
    lines = []
    fb.import_run(say=lines.append, **{**tables.write(), "name": "shifted"})
    warned = [line for line in lines if line.startswith("warning:") and "other folds" in line]
    assert len(warned) == 1
    assert "outputs/other" in warned[0]
    lines.clear()
    fb.import_run(say=lines.append, **{**tables.write(), "name": "single", "group_col": None})
    assert any("has other group names for 24 images" in line for line in lines)
    lines.clear()
    reordered = {"name": "order", "class_order": "owl,cat,dog"}
    fb.import_run(say=lines.append, **{**tables.write(), **reordered})
    assert any("classes in another order" in line for line in lines)


def test_commands_that_need_models_say_that_there_are_none(tables):
    run = imported(tables)
    with pytest.raises(fb.UserError, match="other: was imported and has no models"):
        fb.run_tta(run.path, say=quiet)
    with pytest.raises(fb.UserError, match="other: was imported and has no models"):
        fb.predict(run, [])
    blended = fb.blend([run], name="blended", page=False, say=quiet)
    with pytest.raises(fb.UserError, match=r"no models.*blend the other members of .*blended"):
        fb.export_model(blended, tables.folder / "model.zip")
    for one in (run, blended):
        text = (one.path / "report.txt").read_text(encoding="utf-8")
        assert "predict.py" not in text
        assert "New images cannot be predicted" in text


def _with(column, row, value):
    def change(tables):
        tables.oof[column] = tables.oof[column].astype(object)
        tables.oof.loc[row, column] = value

    return change


def _straddling(tables):
    tables.oof.loc[0, "fold"] = 3


def _renamed(tables):
    tables.oof = tables.oof.rename(columns={"owl": "bird"})


def _surplus(tables):
    tables.oof["bird"] = 0.1


def _twice(tables):
    tables.oof = pd.concat([tables.oof, tables.oof.iloc[[4]]])


def _other_test(tables):
    tables.tests[2] = tables.tests[2].assign(
        image_id=tables.tests[2]["image_id"].replace("new/5.jpg", "new/9.jpg")
    )


def _shuffled(tables):
    tables.oof["label"] = tables.labels["label"].to_numpy()[::-1]


def _percent(tables):
    columns = ["cat", "dog", "owl"]
    tables.oof[columns] = tables.oof[columns] * 100


def _mixed_label(tables):
    tables.settings["score_by"] = "group"


BAD = {
    "missing": (
        lambda tables: setattr(tables, "oof", tables.oof.drop(index=[5, 6])),
        r"oof\.csv: no row for 2 images of .*train\.csv \(pets/05\.jpg, pets/06\.jpg\)",
    ),
    "unknown": (_with("image_id", 7, "x.jpg"), r"oof\.csv: line 9: 1 row of images that .*x\.jpg"),
    "twice": (_twice, r"'pets/04\.jpg' occurs more than once, in line 6, 26"),
    "straddling": (_straddling, r"group owner0 is in more than one fold \(line 2, 3, 4\)"),
    "nan": (_with("dog", 3, "nan"), r"column 'dog' is 'nan' in line 5, not a finite number"),
    "inf": (_with("dog", 3, "inf"), r"column 'dog' is 'inf' in line 5"),
    "text": (_with("dog", 3, "0,5"), r"no column 'dog'|column 'dog' is '0,5' in line 5"),
    "blank": (_with("dog", 3, ""), r"column 'dog' is '' in line 5"),
    "negative": (_with("dog", 3, -0.1), r"line 5 \(pets/03\.jpg\) has -0\.1.*--kind logits"),
    "sum": (_with("dog", 3, 0.999), r"line 5 \(pets/03\.jpg\) sums to .*--kind logits"),
    "percent": (_percent, r"divide percentages by 100"),
    "classes": (_renamed, r"no column 'owl', and the classes are 'cat', 'dog', 'owl'; it has"),
    "surplus": (_surplus, r"'bird' holds numbers but is no class"),
    "fold": (_with("fold", 3, "a"), r"column 'fold' is 'a' in line 5; write a whole number"),
    "no_fold": (
        lambda tables: setattr(tables, "oof", tables.oof.drop(columns="fold")),
        r"has no column 'fold'",
    ),
    "one_fold": (lambda tables: tables.oof.update({"fold": [0] * 24}), r"has only one fold"),
    "test_ids": (_other_test, r"test_fold_2\.csv: line 7: 1 row of images that .*test_fold_0\.csv"),
    "test_number": (lambda tables: tables.tests.pop(), r"--test: 3 files for 4 models"),
    "no_images": (
        lambda tables: setattr(tables, "oof", tables.oof.rename(columns={"image_id": "x"})),
        r"no column 'image_id'; it has",
    ),
    "shuffled": (_shuffled, r"line 2: column 'label' is 'owl', but .*has 'cat' for pets/00\.jpg"),
    "empty": (lambda tables: setattr(tables, "oof", tables.oof.iloc[:0]), r"oof\.csv.*no rows"),
    "score_by": (_mixed_label, r"--score-by group: group owner0 has images of more than one"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_tables_are_refused_with_file_and_line_before_anything_is_written(name, tables):
    change, message = BAD[name]
    change(tables)
    with pytest.raises(fb.UserError, match=message) as caught:
        imported(tables)
    assert "\n" not in str(caught.value)
    assert not (tables.folder / "outputs").exists()


def test_the_command_does_the_same_as_the_function(tables, command_of):
    command = command_of(script.main)
    given = tables.write()
    argv = ["--oof", given["oof"], "--labels", given["labels"], "--test", *reversed(given["test"])]
    argv += ["--group-col", "owner", "--output", tables.folder / "outputs", "--no-page"]
    done = command(*argv, "--name", "typed")
    assert done.code == 0, done.err
    assert "Blend it with runs on the same data" in done.out
    pd.testing.assert_frame_equal(
        fb.load(tables.folder / "outputs/typed").test, imported(tables).test
    )
    command(*argv).assert_one_line_error("--name: missing")
    command(*argv, "--name", "x", "--kind", "odds").assert_one_line_error("--kind")
    command(*argv, "--name", "x", "--folds", "no.csv").assert_one_line_error("no.csv")
    command(*argv, "--name", "x", "--metric", "kappa_quadratic").assert_one_line_error(
        "--class-order"
    )
    assert not (tables.folder / "outputs/x").exists()


def test_flags_of_the_data_have_no_effect_on_a_run(tables):
    first = imported(tables)
    with pytest.raises(fb.UserError, match=re.escape("--group-col: without effect")):
        imported(tables, name="x", labels=first.path)


def _python_blocks(title):
    """Return the code of the recipes of docs/importing.md: what all share, and one by its title."""
    text = (ROOT / "docs/importing.md").read_text(encoding="utf-8")
    shared, *others = text.partition("## Recipes")[2].split("\n### ")
    own = next(one for one in others if one.startswith(title))
    code = "".join(re.findall(r"```python\n(.*?)```", shared + own, flags=re.DOTALL))
    return code, re.findall(r"```\n(python import_run.*?)\n```", own, flags=re.DOTALL)


@pytest.mark.slow
def test_the_recipe_for_scikit_learn_blends_with_a_trained_run(
    tmp_path, monkeypatch, cv_command, command_of
):
    make_demo()
    manifest = load_manifest(DataConfig(data="demo"))
    small = manifest.train[manifest.train["group"].isin(manifest.train["group"].unique()[:24])]
    words = [manifest.classes[one].partition(",")[0] for one in small["label"]]
    table = pd.DataFrame({"image": small["path"], "label": words, "person": small["group"]})
    table.to_csv(tmp_path / "train.csv", index=False)
    pd.DataFrame({"image": manifest.test["path"][:20]}).to_csv(tmp_path / "test.csv", index=False)
    monkeypatch.chdir(tmp_path)
    flags = ["--csv", "train.csv", "--test-csv", "test.csv", "--group-col", "person"]
    done = cv_command(*flags, "--backbone", "test_resnet", "--name", "RUN", *TINY)
    assert done.code == 0, done.err
    code, [command] = _python_blocks("scikit-learn")
    exec(compile(code, "importing.md", "exec"), {})
    files = " ".join(sorted(one.name for one in tmp_path.glob("sk_test_fold_*.csv")))
    argv = command.replace("sk_test_fold_*.csv", files).split()[2:]
    assert command_of(script.main)(*argv, "--no-page").code == 0
    trained = fb.load("outputs/RUN")
    other = fb.load("outputs/sk")
    assert other.ids_hash == trained.ids_hash
    assert align([trained, other]).same_folds
    both = fb.blend([trained, other], name="both", page=False, say=quiet)
    assert both.info["num_test_folds"] == 2
    assert not both.info["test_is_mean"]
    assert "nested cross-validation" in (both.path / "report.txt").read_text(encoding="utf-8")
    # A network after one epoch from random weights is worse than thumbnails.
    assert other.report["headline"]["value"] > trained.report["headline"]["value"]
    # The labels' table gives the same run, but for the folds' file.
    of_table = fb.import_run(
        "sk_oof.csv", "train.csv", group_col="person", name="table", page=False, say=quiet
    )
    pd.testing.assert_frame_equal(of_table.oof, other.oof)
