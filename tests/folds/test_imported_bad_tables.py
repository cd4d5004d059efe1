"""Predictions of other libraries that are refused, with file and line."""

import re

import numpy as np
import pandas as pd
import pytest

import foldblend as fb
from tests.makers.imports import CLASSES, imported


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


def test_flags_of_the_data_have_no_effect_on_a_run(tables):
    first = imported(tables)
    with pytest.raises(fb.UserError, match=re.escape("--group-col: without effect")):
        imported(tables, name="x", labels=first.path)
