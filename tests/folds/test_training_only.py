"""Rows for training only: fold -1 in a file of folds, and the images of --extra-csv."""

import cv2
import pandas as pd
import pytest

from foldblend.errors import UserError
from folds.audit.run import run_audit
from folds.config import AuditConfig, DataConfig, PageConfig, SplitConfig
from folds.data.load import load_data
from folds.data.source import load_manifest
from folds.fold_file import read_fold_file, training_only_rows
from tests.makers.drawn import draw, plain, rows, write_csv

TRAIN = pd.DataFrame({"image_id": list("abcd"), "group": ["p", "p", "q", "q"]})


def fold_file(file, ids, folds, repeats=None):
    table = pd.DataFrame({"image_id": list(ids), "fold": folds})
    if repeats is not None:
        table["repeat"] = repeats
    table.to_csv(file, index=False)
    return file


@pytest.mark.parametrize("written", [["0.0", "0.0", "1.0", "1.00"], ["3", "3", "7.", " 7 "]])
def test_folds_are_also_read_as_other_tools_write_them(tmp_path, written):
    fold_RN = read_fold_file(fold_file(tmp_path / "f.csv", "abcd", written), TRAIN)
    assert fold_RN.tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize(
    ("folds", "repeats", "words"),
    [
        (["0", "x", "1", "-2"], None, "'fold' is 'x' in line 3, 5; .* or -1 for training only"),
        (["0", "", "1", "1"], None, "'fold' is '' in line 3; "),
        ([0, 0, 1, 1], ["0", "0", "1.5", "0"], "'repeat' is '1.5' in line 4; .* of 0 or more$"),
        ([0, 0, 1, 1], [0, 0, 0, -1], "'repeat' is '-1' in line 5; .* of 0 or more$"),
        (["0", "0", "1234567890", "1"], None, "'fold' is '1234567890' in line 4; "),
    ],
)
def test_folds_and_repeats_are_whole_numbers(tmp_path, folds, repeats, words):
    file = fold_file(tmp_path / "f.csv", "abcd", folds, repeats)
    with pytest.raises(UserError, match=rf"f\.csv: column {words}"):
        read_fold_file(file, TRAIN)


@pytest.mark.parametrize("alone", ["-1", "-1.0", " -1"])
def test_rows_of_fold_minus_one_are_not_held_out(tmp_path, alone):
    file = fold_file(tmp_path / "f.csv", "abcdxy", ["1", "1", "2", "2", alone, alone])
    assert read_fold_file(file, TRAIN).tolist() == [[0, 0, 1, 1]]
    assert training_only_rows(file, pd.Series(["y", "a"])).tolist() == ["x", "y"]


@pytest.mark.parametrize(
    ("ids", "folds", "repeats", "words"),
    [
        ("abcd", [-1] * 4, None, "all rows have fold -1.*so none would be scored"),
        ("abcdabcd", [-1, 0, 1, 1, 0, 0, 1, 1], [0] * 4 + [1] * 4, r": a has fold -1 .*in every"),
        ("abcdbcd", [-1, 0, 1, 1, 0, 1, 1], [0] * 4 + [1] * 3, ": a has fold -1 .*in every"),
        ("abcdaa", [-1, 0, 1, 1, -1, 0], None, "lists images twice .a."),
        ("abcda", [-1, 0, 1, 1, 0], None, ": a has fold -1 .*but not in all"),
    ],
)
def test_rows_for_training_only_in_part_are_refused(tmp_path, ids, folds, repeats, words):
    file = fold_file(tmp_path / "f.csv", ids, folds, repeats)
    with pytest.raises(UserError, match=rf"f\.csv \(--fold-file\).*{words}") as caught:
        training_only_rows(file, TRAIN["image_id"], flag="--fold-file")
    assert "\n" not in str(caught.value)


@pytest.fixture
def data(tmp_path):
    """Return the settings of a table of 8 groups, each with 3 classes, without its last 2 groups.

    These are in extra.csv.
    """
    root = tmp_path / "data"
    table = rows()
    plain(root, table)
    write_csv(root / "set.csv", table[:18])
    write_csv(root / "extra.csv", table[18:])
    return root


def load(root, *, fold_file=None, **settings):
    """Return the manifest, the hash and the log."""
    lines = []
    settings = {"csv": str(root / "set.csv"), "group_col": "group", **settings}
    return *load_data(DataConfig(**settings), lines.append, fold_file=fold_file), lines


def extra(root, table, **how):
    return {"extra_csv": str(write_csv(root / "more.csv", table, **how))}


def test_extra_images_leave_the_scored_rows_and_their_hashes_alone(data):
    bare, bare_hash, _ = load(data)
    manifest, data_hash, lines = load(data, extra_csv=str(data / "extra.csv"))
    pd.testing.assert_frame_equal(manifest.train, bare.train)
    assert (data_hash, manifest.ids_hash()) == (bare_hash, bare.ids_hash())
    assert manifest.train_only["image_id"].tolist() == [f"{i:03d}.png" for i in range(18, 24)]
    assert manifest.train_only["held_with"].tolist() == [()] * 6
    assert f"{data}/extra.csv (--extra-csv): 6 images for training only" in lines
    assert manifest.notes == ("6 images are for training only and never scored",)
    assert bare.train_only_hash() is None
    assert manifest.train_only_hash() is not None


def test_a_file_of_folds_takes_the_same_images_out_of_the_table(data):
    given, given_hash, _ = load(data, extra_csv=str(data / "extra.csv"))
    write_csv(data / "whole.csv", rows())
    folds = [index // 3 % 2 if index < 18 else -1 for index in range(24)]
    file = fold_file(data / "f.csv", [row[0] for row in rows()], folds)
    whole, whole_hash, _ = load(data, csv=str(data / "whole.csv"), fold_file=str(file))
    pd.testing.assert_frame_equal(whole.train, given.train)
    pd.testing.assert_frame_equal(whole.train_only, given.train_only)
    assert (whole_hash, whole.train_only_hash()) == (given_hash, given.train_only_hash())


def test_rows_of_fold_minus_one_that_the_data_lack_are_only_told(data):
    file = fold_file(data / "f.csv", [row[0] for row in rows()], [*[0, 1] * 9, *[-1] * 6])
    manifest, _, lines = load(data, fold_file=str(file))
    assert manifest.train_only is None
    assert any("6 images of fold -1 (training only) that the data do not have" in x for x in lines)


def test_a_row_of_a_scored_group_is_left_out_where_the_group_is(data):
    table = [(f"{i:03d}.png", "cat", group) for i, group in ((18, "p0"), (19, "p1"), (20, "new"))]
    manifest, _, _ = load(data, **extra(data, table))
    assert manifest.train_only["held_with"].tolist() == [("p0",), ("p1",), ()]
    assert "2 of them, which share a group" in manifest.notes[0]
    held_out = manifest.train["group"].isin(["p0", "p2"]).to_numpy()
    assert manifest.learns(~held_out)[18:].tolist() == [False, True, True]
    learnt = manifest.training_rows(~held_out)
    assert learnt["image_id"].tolist() == [
        *manifest.train["image_id"][~held_out],
        "019.png",
        "020.png",
    ]
    assert not {*learnt["group"]} & {"p0", "p2"}


def test_the_note_on_images_for_training_only_agrees_in_number(data):
    def note(groups):
        table = [(f"{index + 18:03d}.png", "cat", group) for index, group in enumerate(groups)]
        return load(data, **extra(data, table))[0].notes[0]

    end = "left out of training where these are held out"
    shared = "group with scored images or {} the same as one"
    none = "for training only and never scored"
    assert note(["new"]) == f"1 image is {none}"
    assert note(["p0"]) == f"1 image is {none}; it shares a {shared.format('is')}, and is {end}"
    assert note(["p0", "new"]) == (
        f"2 images are {none}; 1 of them, which shares a {shared.format('is')}, is {end}"
    )
    assert note(["p0", "p1"]) == (
        f"2 images are {none}; 2 of them, which share a {shared.format('are')}, are {end}"
    )


def test_groups_that_the_data_write_in_another_way_do_not_leak(data):
    table = [("018.png", "cat", "P0"), ("019.png", "cat", "new")]
    words = r"more\.csv \(--extra-csv\): groups: 'p0' \(the data\) and 'P0' \(line 2\) are the same"
    with pytest.raises(UserError, match=words):
        load(data, **extra(data, table))
    manifest, _, _ = load(data, merge_case=True, **extra(data, table))
    assert manifest.train_only["held_with"].tolist() == [("p0",), ()]
    assert manifest.train_only["group"].tolist() == ["p0", "new"]
    manifest, _, _ = load(data, ids_as_written=True, **extra(data, table))
    assert manifest.train_only["held_with"].tolist() == [(), ()]
    # So do numbers that another program wrote with a decimal point.
    text = (data / "set.csv").read_text(encoding="utf-8")
    (data / "set.csv").write_text(text.replace(",p", ","), encoding="utf-8")
    with pytest.raises(UserError, match=r"'0' \(the data\) and '0\.0' \(line 2\) are the same"):
        load(data, **extra(data, [("018.png", "cat", "0.0")]))


def test_images_that_were_saved_again_are_held_out_with_the_scored_ones(data):
    # Equal bytes, and the same image at another quality and size.
    (data / "equal.png").write_bytes((data / "000.png").read_bytes())
    smooth = cv2.resize(
        cv2.imread(str(data / "004.png")), (160, 200), interpolation=cv2.INTER_CUBIC
    )
    cv2.imwrite(str(data / "004.png"), smooth)
    cv2.imwrite(str(data / "again.jpg"), cv2.resize(smooth, (150, 190)), [1, 80])
    draw(data / "other.png", 99)
    table = [("equal.png", "cat", "a"), ("again.jpg", "dog", "b"), ("other.png", "owl", "b")]
    manifest, _, lines = load(data, **extra(data, table))
    alone = manifest.train_only.set_index("image_id")["held_with"]
    # An image of the group of a copy may show the same person.
    assert alone.to_dict() == {
        "again.jpg": ("p1",), "equal.png": ("p0",), "other.png": ("p1",)
    }  # fmt: skip
    (warned,) = [line for line in lines if line.startswith("warning: same image for training only")]
    assert "(2 pairs): again.jpg = 004.png, equal.png = 000.png" in warned


def test_groups_of_extra_images_that_share_an_image_are_held_out_together(data):
    for name in ("x", "y"):
        draw(data / f"{name}.png", 98)  # the same image in both groups
    draw(data / "z.png", 97)
    table = [("018.png", "cat", "p0"), ("x.png", "dog", "p0"), ("y.png", "dog", "else")]
    manifest, _, _ = load(data, **extra(data, [*table, ("z.png", "owl", "new")]))
    assert manifest.train_only.set_index("image_id")["held_with"].to_dict() == {
        "018.png": ("p0",), "x.png": ("p0",), "y.png": ("p0",), "z.png": ()
    }  # fmt: skip


def test_merged_groups_are_held_out_as_one(data):
    (data / "001.png").write_bytes((data / "004.png").read_bytes())
    table = [("018.png", "cat", "p1")]
    manifest, _, _ = load(data, merge_duplicates=True, **extra(data, table))
    # p1 became a part of p0.
    assert manifest.train_only[["group", "held_with"]].to_numpy().tolist() == [["p0", ("p0",)]]


def test_images_of_the_test_set_are_named_and_their_labels_not_scored(data):
    write_csv(data / "test.csv", [("018.png", "cat"), ("019.png", "dog")], header="image,label")
    table = [("018.png", "cat", "new")]
    manifest, _, lines = load(data, test=str(data / "test.csv"), **extra(data, table))
    assert any(
        "training and the test set" in line and ": 018.png; remove" in line for line in lines
    )
    assert manifest.test["label"].tolist() == [-1, 1]


def test_a_class_that_is_never_scored_is_named(data):
    folds = [-1 if index % 3 == 2 else index // 3 % 2 for index in range(18)]
    file = fold_file(data / "f.csv", [row[0] for row in rows()[:18]], folds)
    manifest, _, lines = load(data, fold_file=str(file))
    assert manifest.classes == ("cat", "dog", "owl")
    assert "warning: class 'owl' has images for training only, and is not scored" in lines


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ([("000.png", "cat", "p0")], "image '000.png' in line 2 is in the data as well"),
        ([("018.png", "cat", "a"), ("018.png", "dog", "a")], "image 018.png occurs more than once"),
        ([("018.png", "cat", "a"), ("019.png", "cow", "a")], "'cow' in line 3 is no class of the"),
        ([("018.png", "cat", "a"), ("gone.png", "dog", "a")], "1 of 2 images are missing"),
        ([("018.png", "", "a")], "column 'label' .*is blank in line 2"),
    ],
)
def test_extra_images_that_cannot_be_used_are_refused(data, table, words):
    with pytest.raises(UserError, match=rf"more\.csv.*{words}") as caught:
        load(data, **extra(data, table))
    assert "\n" not in str(caught.value)


def test_unreadable_extra_images_are_skipped_on_request(data):
    (data / "bad.png").write_bytes(b"\x89PNG")
    table = [("bad.png", "cat", "a"), ("018.png", "cat", "a")]
    with pytest.raises(UserError, match=r"bad\.png"):
        load(data, **extra(data, table))
    manifest, _, _ = load(data, on_bad_image="skip", **extra(data, table))
    assert manifest.train_only["image_id"].tolist() == ["018.png"]
    assert len(manifest.train) == 18


def test_groups_of_extra_images_are_optional(data):
    table = [("018.png", "cat"), ("019.png", "dog")]
    manifest, _, lines = load(data, **extra(data, table, header="image,label"))
    assert manifest.train_only["group"].tolist() == ["018.png", "019.png"]
    assert any("no column 'group' (--group-col)" in line for line in lines)


def test_corrections_apply_to_extra_images(data):
    write_csv(data / "fix.csv", [("019.png", "label", "owl")], header="target,field,value")
    table = [("018.png", "cat", "a"), ("019.png", "dog", "a")]
    manifest, _, _ = load(data, corrections=str(data / "fix.csv"), **extra(data, table))
    assert manifest.train_only[["label", "label_raw"]].to_numpy().tolist() == [[0, 0], [2, 1]]
    assert (manifest.train["label"] == manifest.train["label_raw"]).all()


def test_other_layouts_take_a_table_of_extra_images(data, tiny_layout):
    for name, word, _ in rows():
        draw(data / "folders" / word / name, int(name[:3]))
    table = [("018.png", "cat", "a"), ("019.png", "dog", "a")]
    settings = extra(data, table)
    found = load_manifest(DataConfig(data=str(data / "folders"), **settings), environ={})
    assert found.train_only[["group", "label"]].to_numpy().tolist() == [["a", 0], ["a", 1]]
    # A number of a class is as good as its name.
    settings = extra(data, [("018.png", 17, "a"), ("019.png", 0, "a")])
    found = load_manifest(DataConfig(data=str(tiny_layout), old_from=58, **settings), environ={})
    assert found.train_only["label"].tolist() == [17, 0]
    assert found.label_to_learn[-2:].tolist() == [17, 0]


def test_extra_images_need_the_boxes_that_the_data_have(data):
    boxed = [(*row, 0, 0, 8, 8) for row in rows()[:18]]
    header = "image,label,group,x,y,u,v"
    write_csv(data / "set.csv", boxed, header=header)
    settings = {"box_cols": "x,y,u,v"}
    with pytest.raises(UserError, match=r"more\.csv: no column 'x' \(--box-cols\)"):
        load(data, **settings, **extra(data, [("018.png", "cat", "a")]))
    table = [("018.png", "cat", "a", 1, 2, 9, 9)]
    manifest, _, _ = load(data, **settings, **extra(data, table, header=header))
    assert manifest.train_only["box"].tolist() == [(1, 2, 9, 9)]


def test_the_audit_compares_images_for_training_only(data, tmp_path):
    (data / "equal.png").write_bytes((data / "000.png").read_bytes())
    (data / "seen.png").write_bytes((data / "020.png").read_bytes())
    write_csv(data / "test.csv", [("020.png",), ("021.png",)], header="image")
    table = [("equal.png", "cat", "new"), ("seen.png", "owl", "new")]
    lines = []
    config = AuditConfig(
        data=DataConfig(
            csv=str(data / "set.csv"),
            group_col="group",
            test=str(data / "test.csv"),
            **extra(data, table),
        ),
        split=SplitConfig(folds=2),
        page=PageConfig(page=str(tmp_path / "audit.html"), quick=True),
    )
    page = run_audit(config, say=lines.append)
    text = "\n".join(lines)
    assert "Same image for training only and among the scored images (1 pair)" in text
    assert "000.png = equal.png" in text
    assert "020.png = seen.png" in text
    assert "2 images for training only" in page.read_text()


def test_the_hash_of_images_for_training_only_covers_what_is_learnt(data):
    def digest(table):
        return load(data, **extra(data, table))[0].train_only_hash()

    table = [("018.png", "cat", "a"), ("019.png", "dog", "b")]
    first = digest(table)
    assert digest(table[::-1]) == first
    changed = ([("018.png", "owl", "a"), table[1]], [("018.png", "cat", "p0"), table[1]], table[:1])
    assert len({first, *map(digest, changed)}) == 4
    draw(data / "018.png", 50)
    assert digest(table) != first
