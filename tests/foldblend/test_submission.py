"""Tests of the form of a submission, with known answers."""

import numpy as np
import pandas as pd
import pytest

from foldblend.runs.folder import write_json, write_table
from foldblend.runs.rows import write_submission, write_test_labels
from foldblend.runs.run import Run
from foldblend.runs.submission import IDS_FILE, SubmissionForm, submission_table


def info(**further):
    found = {"format": 1, "classes": ANSWERS, "data": {"name": "zoo"}}
    return found | {"num_folds": 1, "num_repeats": 1} | further


TEST = pd.DataFrame(
    {
        "image_id": ["a", "b", "c"],
        "logit_0": np.log([1.0, 2.0, 5.0]),
        "logit_1": np.log([3.0, 6.0, 4.0]),
        "logit_2": np.log([4.0, 2.0, 1.0]),
    }
)
ANSWERS = ["cat", "dog", "owl"]


def form(**changes):
    shared = {"id_column": "id", "columns": ("label",), "kind": "labels"}
    return SubmissionForm(**shared | changes)


def test_without_a_form_the_columns_are_those_of_the_competition():
    table = submission_table(TEST, ANSWERS)
    assert table.to_dict("list") == {"ImageID": ["a", "b", "c"], "ans": ["owl", "dog", "cat"]}


def test_labels_of_the_listed_rows_in_their_order():
    # b is asked for twice, and c not at all.
    ids = (("b", "007"), ("a", "NA"), ("b", "b again"))
    table = submission_table(TEST, ANSWERS, form(ids=ids))
    assert table.to_dict("list") == {
        "id": ["007", "NA", "b again"],
        "label": ["dog", "owl", "dog"],
    }


def test_probabilities_are_in_the_order_of_the_columns():
    chosen = form(kind="probabilities", columns=("owl", "cat"), classes=(2, 0))
    table = submission_table(TEST, ANSWERS, chosen)
    assert list(table) == ["id", "owl", "cat"]
    np.testing.assert_allclose(table["owl"], [0.5, 0.2, 0.1])
    np.testing.assert_allclose(table["cat"], [0.125, 0.2, 0.5])


def test_one_column_for_two_classes():
    chosen = form(kind="probabilities", columns=("p",), classes=(1,))
    table = submission_table(TEST.drop(columns="logit_2"), ["no", "yes"], chosen)
    np.testing.assert_allclose(table["p"], [0.75, 0.75, 4 / 9])


@pytest.mark.parametrize(
    "chosen",
    [
        form(),
        form(kind="probabilities", columns=("x", "y"), classes=(1, 0)),
        form(ids=(("b", "007"), ("a", "NA"), ("c", 'with "quotes", commas'), ("a", ""))),
    ],
)
def test_a_form_is_the_same_after_it_was_written(tmp_path, chosen):
    # Probabilities are calibrated on the out-of-fold rows of the folder, here of a single fold.
    write_json(tmp_path / "run.json", info(submission=chosen.record()))
    rows = TEST.assign(label=0, label_raw=0, group="one", repeat=0, fold=0)
    write_table(tmp_path / "oof.parquet", rows)
    write_submission(tmp_path, TEST, ANSWERS, chosen)
    assert Run(tmp_path).submission == chosen
    written = pd.read_csv(tmp_path / "submission.csv", dtype=str, keep_default_na=False)
    expected = submission_table(TEST, ANSWERS, chosen)
    assert list(written) == list(expected)
    assert written["id"].tolist() == expected["id"].tolist()


def test_a_run_without_the_key_has_no_form(tmp_path):
    write_json(tmp_path / "run.json", info())
    assert Run(tmp_path).submission is None
    (tmp_path / IDS_FILE).write_text("image_id,id\na,1\n")
    write_submission(tmp_path, TEST, ANSWERS)
    assert not (tmp_path / IDS_FILE).exists()


def test_labels_of_test_images_are_kept_where_they_are_known(tmp_path):
    test = TEST[["image_id"]].assign(label=[2, -1, 0])
    write_test_labels(tmp_path, test, ANSWERS)
    file = tmp_path / "test_labels.csv"
    assert file.read_text() == "image_id,label,class\na,2,owl\nc,0,cat\n"
    write_test_labels(tmp_path, test.assign(label=-1), ANSWERS)
    assert not file.exists()
