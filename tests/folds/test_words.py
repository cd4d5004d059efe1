"""Spellings of labels and groups: hidden differences go, doubtful ones are errors."""

import os
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foldblend.errors import UserError
from foldblend.words import tidy
from folds.config import DataConfig
from folds.data.single_label import check_classes
from folds.data.source import load_manifest
from folds.data.words import check_spellings, merge_case, numbers_of, tidied
from tests.makers.drawn import WORDS, draw, plain, rows


def check(words):
    check_spellings(words, where="t.csv", at=lambda row: f"line {row + 2}", cures=("N", "C"))


@pytest.mark.parametrize(
    ("one", "other"), [("1", "1.0"), ("07", "7"), ("007", "7.00"), ("-0", "0"), ("1.50", "1.5")]
)
def test_one_number_written_in_two_ways(one, other):
    with pytest.raises(UserError, match=r"are the same number; N"):
        check(["x", one, other])


@pytest.mark.parametrize(
    "words",
    [
        ("100000", "1e5"),
        ("10000000000000000001", "10000000000000000002"),
        ("1.5", "15"),
        ("a7", "a07"),
        ("1", "-1"),
        ("½", "1/2"),
    ],
)
def test_other_words_are_different(words):
    check(words)


def test_words_that_differ_in_width():
    with pytest.raises(UserError, match="are the same number"):
        check(["1", "１"])
    assert tidy("❤\ufe0f\u200e") == "❤"


def test_ranges_are_no_numbers():
    assert numbers_of(["1_10", "2_5"]) is None


def test_hidden_characters_alone_are_blank(tmp_path):
    table = changed(lambda i, n, label, g: (n, label if i else "\u200b", g))
    with pytest.raises(UserError, match=r"'label' \(--label-col\) is blank in line 2"):
        load(plain(tmp_path, table))


def test_names_that_are_no_text(tmp_path):
    for folder in ("cat", "dog"):
        draw(tmp_path / folder / "1.png", 1)
    (tmp_path / "dog").rename(tmp_path / os.fsdecode(b"\xb0\xed"))
    with pytest.raises(UserError, match="is not valid UTF-8 text; rename"):
        load_manifest(DataConfig(data=str(tmp_path)), environ={})


def test_a_class_whose_images_are_missing_is_reported(tmp_path):
    file = plain(tmp_path)
    for name, label, _ in rows():
        if label == "owl":
            (tmp_path / name).unlink()
    manifest = load(file, on_bad_image="skip")
    assert manifest.classes == ("cat", "dog")
    assert "no image is left of class owl" in manifest.notes[1]
    assert "skipped 8 missing images" in manifest.notes[0]


def test_words_that_differ_in_case():
    with pytest.raises(UserError, match=r"'Cat' \(line 2\) and 'cat' \(line 4\).*1 more pair\); C"):
        check(["Cat", "dog", "cat", "Straße", "STRASSE"])


def test_hidden_differences_are_removed_and_counted():
    decomposed = unicodedata.normalize("NFD", "고양이")
    words, notes = tidied([decomposed, "고양이", "cat\u200b ", "big\u00a0cat", "ok"], "labels")
    assert words == ["고양이", "고양이", "cat", "big cat", "ok"]
    assert notes[0].startswith("labels: 3 of 5 had blanks")
    assert tidy("👩\u200d🔬") == "👩\u200d🔬"


@given(st.text())
def test_tidy_is_idempotent(text):
    assert tidy(tidy(text)) == tidy(text)


def load(file, **settings):
    return load_manifest(DataConfig(csv=str(file), **settings), environ={})


def changed(change):
    return [change(index, *row) for index, row in enumerate(rows())]


def test_groups_written_in_two_ways_stop_and_can_be_meant(tmp_path):
    ways = ("{}", "{}.0", "0{}")
    table = changed(lambda i, n, label, g: (n, label, ways[i % 3].format(g[1:])))
    file = plain(tmp_path, table)
    with pytest.raises(UserError, match=r"'group' \(--group-col\): '0' .line 2.*--ids-as-written"):
        load(file, group_col="group")
    assert load(file, group_col="group", ids_as_written=True).train["group"].nunique() == 24


def test_labels_that_differ_in_case_stop_and_can_be_merged(tmp_path):
    table = changed(lambda i, n, label, g: (n, label.capitalize() if i % 2 else f"{label} ", g))
    file = plain(tmp_path, table)
    with pytest.raises(UserError, match=r"column 'label': 'cat'.*'Cat'.*--merge-case"):
        load(file)
    manifest = load(file, merge_case=True)
    assert len(manifest.classes) == 3
    # What the error calls the same is merged, full-width letters too.
    assert merge_case(["ＣＡＴ", "cat", "cat"], "labels")[0] == ["cat"] * 3
    assert sum("labels" in note for note in manifest.notes) == 2


def test_groups_in_two_unicode_forms_are_one(tmp_path):
    forms = ("NFC", "NFD")
    table = changed(
        lambda i, n, label, g: (n, label, unicodedata.normalize(forms[i % 2], f"사람{g}"))
    )
    manifest = load(plain(tmp_path, table), group_col="group")
    assert manifest.train["group"].nunique() == 8
    assert "groups: 12 of 24" in manifest.notes[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([f"{0.5 + 1.37 * i:.3f}" for i in range(24)], "24 different numbers.*amounts"),
        ([f"name{i}" for i in range(9)], "a different value in each of 9 rows"),
        (["cat striped", "cat", "dog striped", "dog"] * 3, "several labels in one cell"),
        (["rust;scab", "rust", "scab", "rust;complex", "complex"] * 3, "several labels"),
        (["cat", "dog", "cat;dog"] * 3, "several labels in one cell"),
        (["['cat', 'dog']", "['cat']"] * 3, "a list in a cell"),
        (["[0, 1]", "[1, 0]"] * 3, "a list in a cell"),
    ],
)
def test_what_is_no_single_label_classification(words, message):
    with pytest.raises(UserError, match=message):
        check_classes(words, where="t.csv: column 'label'")


@pytest.mark.parametrize(
    "words",
    [
        ["No DR", "Mild", "Moderate", "Severe"] * 3,
        ["red oak", "white oak", "oak"] * 3,
        ["worn, male, <30", "worn, female, <30", "not worn, male, <30"] * 3,
        ["0.0", "1.5", "2.0"] * 3,
        [str(year) for year in range(1990, 2000)] * 2,
        ["{{7*7}}", "[sic]", "<img src=x>", "{x}"] * 3,
    ],
)
def test_classes_that_only_look_like_several(words):
    check_classes(words, where="t.csv: column 'label'")


def test_one_hot_columns_are_named(tmp_path):
    header = "image,cat,dog,owl,group"
    table = changed(lambda i, n, label, g: (n, *(int(label == word) for word in WORDS), g))
    with pytest.raises(UserError, match="columns cat, dog, owl have a 0 or 1 for each class"):
        load(plain(tmp_path, table, header=header))
