"""Label corrections, and ages relabelled for training only."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import folds
from ensemble.blend import blend
from foldblend.errors import UserError
from foldblend.runs.run import Run
from foldblend.scores.metrics import METRICS, softmax
from folds.config import DataConfig
from folds.data.corrections import apply_corrections
from folds.data.labels import decode, encode
from folds.data.layout import read_layout
from folds.data.source import load_manifest
from tests.makers.constants import TINY

SHIPPED = Path(folds.__file__).with_name("mask_competition_corrections.csv")


@pytest.fixture
def layout(layout_copy, edit_csv):
    """Return the tiny set with ids as in the competition: the first part of the folder's name."""
    edit_csv(
        layout_copy / "train" / "train.csv",
        lambda table: table.assign(id=table["path"].str.split("_").str[0]),
    )
    return layout_copy


def corrected(layout, *lines):
    file = layout / "fix.csv"
    file.write_text("\n".join(["target,field,value", *lines]) + "\n")
    return apply_corrections(read_layout(layout), file)


def test_each_kind_of_correction_changes_nothing_else(layout):
    raw = read_layout(layout).train.set_index("image_id")
    people = raw["group"].unique()
    first, second, third = people[:3]
    manifest = corrected(
        layout,
        f"{first.split('_')[0]},gender,flip",
        f"{second},age,70",
        f"{third}/mask1,mask,normal",
        f"{first},swap,incorrect_mask normal",
    )
    table = manifest.train.set_index("image_id")
    assert (table["label_raw"] == raw["label"]).all()
    mask, gender, age = decode(raw["label"].to_numpy())
    of = raw.index.str.split("/").str[0].to_numpy()
    stem = raw.index.str.split("/").str[1].str.split(".").str[0].to_numpy()
    gender = np.where(of == first, 1 - gender, gender)
    age = np.where(of == second, 2, age)
    mask = np.where((of == third) & (stem == "mask1"), 2, mask)
    mask = np.where(
        (of == first) & (stem == "normal"),
        1,
        np.where((of == first) & (stem == "incorrect_mask"), 2, mask),
    )
    assert table.loc[raw.index, "label"].tolist() == encode(mask, gender, age).tolist()
    assert (table.loc[of == second, "age"] == 70).all()
    changed = int((table["label"] != table["label_raw"]).sum())
    assert f"4 corrections change {changed} of 84 labels" in manifest.notes[0]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["nobody,gender,flip"], ["line 2", "nobody", "matches no image, person or id"]),
        (["{0},gendre,flip"], ["line 2", "gendre", "did you mean gender"]),
        (["{0},gender,robot"], ["line 2", "robot"]),
        (["{0},age,flip"], ["line 2", "3 values"]),
        (["{0},age,old"], ["line 2", "'old'"]),
        (["{0},swap,normal"], ["line 2", "two images"]),
        (["{0},label,zebra"], ["line 2", "zebra"]),
        (["{0},gender,male", "{0}/normal,gender,female"], ["lines 2 and 3", "normal"]),
        (["{0},swap,mask1 normal", "{0},swap,normal mask2"], ["lines 2 and 3"]),
        (["{0},gender,flip", "{0}/mask1,label,{1}"], ["lines 2 and 3", "class", "gender"]),
        (["{0}/mask1,label,{1}", "{0},gender,flip"], ["lines 2 and 3", "class", "gender"]),
        (["{0}/mask1,label,{1}", "{0},swap,mask1 normal"], ["lines 2 and 3", "class", "swap"]),
    ],
)
def test_lines_that_cannot_be_applied(layout, lines, words):
    person = read_layout(layout).train["group"][0]
    with pytest.raises(UserError) as error:
        corrected(layout, *[line.format(person, '"worn, male, <30"') for line in lines])
    assert all(word in str(error.value) for word in ["fix.csv", *words]), error.value


def test_an_id_of_several_people_must_be_written_as_a_folder(layout, edit_csv):
    edit_csv(layout / "train" / "train.csv", lambda table: table.assign(id="000001"))
    with pytest.raises(UserError, match=r"000001 is an id of 12 people"):
        corrected(layout, "000001,gender,flip")


def test_the_corrections_of_the_competition_can_be_applied(layout, edit_csv):
    table = pd.read_csv(SHIPPED, dtype=str)
    assert table["field"].value_counts().to_dict() == {"gender": 17, "age": 5 + 1, "swap": 3}
    ids = table["target"].unique()
    # The tiny set has 12 people instead of 2,700, so the list is applied in parts.
    parts = np.array_split(ids, 3)
    for part in parts:
        names = [*part, *[f"x{index}" for index in range(12 - len(part))]]
        edit_csv(
            layout / "train" / "train.csv", lambda listing, names=names: listing.assign(id=names)
        )
        file = layout / "part.csv"
        table[table["target"].isin(part)].to_csv(file, index=False)
        manifest = apply_corrections(read_layout(layout), file)
        raw, new = (decode(manifest.train[name].to_numpy()) for name in ("label_raw", "label"))
        rows = table[table["target"].isin(part)]
        assert (raw[1] != new[1]).sum() == 7 * (rows["field"] == "gender").sum()
        assert (raw[0] != new[0]).sum() == 2 * (rows["field"] == "swap").sum()


def test_ages_are_relabelled_for_training_only(layout):
    original = load_manifest(DataConfig(data=str(layout)))
    age = original.train["age"].to_numpy()
    oldest = np.sort(np.unique(age[age < 60]))[-1]
    changed = load_manifest(
        DataConfig(data=str(layout), old_from=float(oldest), drop_ages=f"{int(age.min())}")
    )
    assert (changed.train["label"] == original.train["label"]).all()
    fit = changed.train["label_fit"].to_numpy()
    assert (fit[age == age.min()] == -1).all()
    assert (fit[age >= oldest] % 3 == 2).all()
    between = (age > age.min()) & (age < oldest)
    assert (fit[between] == original.train["label"].to_numpy()[between]).all()
    rows = changed.training_rows(np.ones(len(age), bool))
    assert len(rows) == (age > age.min()).sum()
    assert (rows.loc[rows["age"] == oldest, "label"] % 3 == 2).all()
    assert changed.overlay_hash() not in (None, original.overlay_hash())
    with pytest.raises(UserError, match="leaves no image to train on"):
        load_manifest(DataConfig(data=str(layout), drop_ages="1-120"))
    for wrong in ("57-", "59-57", "old"):
        with pytest.raises(UserError, match=r"--drop-ages .* span of years"):
            load_manifest(DataConfig(data=str(layout), drop_ages=wrong))


def test_changes_of_ages_need_a_data_set_with_ages(tiny_layout, tmp_path):
    rows = read_layout(tiny_layout).train
    rows[["path", "label"]].rename(columns={"path": "image"}).to_csv(
        tmp_path / "any.csv", index=False
    )
    with pytest.raises(UserError, match="only for the mask competition's layout"):
        load_manifest(DataConfig(csv=str(tmp_path / "any.csv"), old_from=58))
    (tmp_path / "fix.csv").write_text(f"target,field,value\n{rows['path'][0]},label,17\n")
    manifest = load_manifest(
        DataConfig(csv=str(tmp_path / "any.csv"), corrections=str(tmp_path / "fix.csv"))
    )
    changed = manifest.train[manifest.train["label"] != manifest.train["label_raw"]]
    assert [manifest.classes[label] for label in changed["label"]] == ["17"]


@pytest.mark.slow
def test_a_corrected_run_shares_folds_with_an_uncorrected_one_and_reports_both_scores(
    alpha, layout, tmp_path, cv_command
):
    person = read_layout(layout).train["group"][0]
    (layout / "fix.csv").write_text(f"target,field,value\n{person},gender,flip\n")
    argv = [
        "--data",
        layout,
        "--output",
        tmp_path,
        "--name",
        "fixed",
        "--backbone",
        "test_resnet",
        *TINY,
    ]
    assert cv_command(*argv, "--corrections", layout / "fix.csv").code == 0
    fixed = Run(tmp_path / "fixed")
    assert (fixed.oof["label"] != fixed.oof["label_raw"]).sum() == 7
    folds = [run.oof.set_index("image_id")["fold"] for run in (fixed, alpha)]
    assert (folds[0] == folds[1].loc[folds[0].index]).all()
    proba = softmax(fixed.logits(fixed.oof))
    for key, column in (("headline", "label"), ("raw", "label_raw")):
        score = METRICS["f1_macro"].score(fixed.oof[column].to_numpy(), proba)
        assert fixed.report[key]["value"] == pytest.approx(score)
    text = (fixed.path / "report.txt").read_text()
    assert "1 correction changes 7 of 84 labels" in " ".join(text.split())
    assert "on the original labels" in text
    both = blend([alpha.path, fixed.path], output=str(tmp_path), say=lambda _: None)
    assert both.oof["label"].tolist() == fixed.oof["label"].tolist()
    assert "raw" in both.report
    # A run with other corrections is a different run.
    (layout / "fix.csv").write_text(f"target,field,value\n{person},age,70\n")
    cv_command(*argv, "--corrections", layout / "fix.csv").assert_one_line_error(
        "corrected labels", "--name"
    )
