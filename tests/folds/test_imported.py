"""Predictions of other libraries as run folders: what is written."""

import json

import cv2
import numpy as np
import pandas as pd
import pytest

import foldblend as fb
import import_run as script
from folds.config import DataConfig
from folds.data.imported.known import read_known
from folds.data.imported.rows import in_fold_order
from folds.data.source import load_manifest
from tests.makers.imports import CLASSES, imported


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
