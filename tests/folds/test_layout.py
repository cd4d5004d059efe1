import shutil

import numpy as np
import pytest

from foldblend.errors import UserError
from folds.config import DataConfig
from folds.data.labels import CLASSES
from folds.data.layout import find_layout_root, read_layout
from folds.data.source import load_manifest
from tests.makers.constants import LONDON


def first_person(root):
    return sorted((root / "train" / "images").iterdir())[0]


def test_every_image_becomes_one_row(tiny_layout):
    manifest = read_layout(tiny_layout)
    assert len(manifest.train) == 12 * 7
    assert len(manifest.test) == 6 * 7
    assert manifest.classes == CLASSES
    assert manifest.answers == tuple(range(18))
    assert manifest.train["group"].nunique() == 12
    assert manifest.train["image_id"].is_monotonic_increasing
    worn = manifest.train["image_id"].str.contains("/mask")
    assert (manifest.train.loc[worn, "label"] < 6).all()
    incorrect = manifest.train["image_id"].str.contains("/incorrect")
    assert manifest.train.loc[incorrect, "label"].between(6, 11).all()
    assert (manifest.train.loc[~worn & ~incorrect, "label"] >= 12).all()


def test_the_group_is_the_folder_even_where_ids_repeat(layout_copy, edit_csv):
    edit_csv(layout_copy / "train" / "train.csv", lambda table: table.assign(id="003397"))
    assert read_layout(layout_copy).train["group"].nunique() == 12


def test_junk_and_mixed_suffixes(layout_copy):
    person = first_person(layout_copy)
    (person / "._mask1.jpg").write_bytes(b"junk")
    (person / "notes.txt").write_text("x")
    (person / "mask1.jpg").rename(person / "mask1.JPEG")
    (person / "mask2.jpg").rename(person / "mask2.png")
    manifest = read_layout(layout_copy)
    assert len(manifest.train) == 84
    assert any("notes.txt" in warning for warning in manifest.warnings)
    assert not manifest.train["image_id"].str.contains("._mask", regex=False).any()


def test_one_image_with_two_suffixes_is_refused(layout_copy):
    person = first_person(layout_copy)
    shutil.copy(person / "mask1.jpg", person / "mask1.png")
    with pytest.raises(UserError, match=r"mask1.jpg and mask1.png are the same image"):
        read_layout(layout_copy)


def test_a_missing_image_stops_or_is_skipped(layout_copy):
    person = first_person(layout_copy)
    (person / "normal.jpg").unlink()
    with pytest.raises(UserError, match=rf"{person.name}/normal.*--on-bad-image skip"):
        read_layout(layout_copy)
    manifest = read_layout(layout_copy, skip_missing=True)
    assert len(manifest.train) == 83
    assert f"{person.name}/normal" in manifest.notes[0]


def test_missing_folder_and_doubled_folder(layout_copy, edit_csv):
    listing = layout_copy / "train" / "train.csv"
    edit_csv(listing, lambda table: table.assign(path=[table["path"][1], *table["path"][1:]]))
    with pytest.raises(UserError, match="listed more than once"):
        read_layout(layout_copy)
    edit_csv(listing, lambda table: table.assign(path=["nobody", *table["path"][1:]]))
    with pytest.raises(UserError, match="nobody: no folder"):
        read_layout(layout_copy)


def test_no_eval_means_no_test_set(layout_copy):
    shutil.rmtree(layout_copy / "eval")
    assert read_layout(layout_copy).test is None


def test_missing_test_image(layout_copy):
    sorted((layout_copy / "eval" / "images").iterdir())[0].unlink()
    with pytest.raises(UserError, match=r"test set.*1 of 42 images are missing"):
        read_layout(layout_copy)


@pytest.mark.parametrize("below", ["", "train", "train/images"])
def test_root_is_found_from_below(tiny_layout, below):
    assert find_layout_root(tiny_layout / below) == tiny_layout.resolve()


def test_precedence_of_data_roots(tiny_layout, layout_copy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    environ = {"SM_CHANNEL_TRAIN": str(layout_copy / "train" / "images")}
    assert load_manifest(environ=environ).root == layout_copy.resolve()
    assert (
        load_manifest(DataConfig(data=str(tiny_layout)), environ=environ).root
        == tiny_layout.resolve()
    )
    (tmp_path / "data").symlink_to(tiny_layout)
    assert load_manifest(environ={}).root == tiny_layout.resolve()
    with pytest.raises(UserError, match=r"SM_CHANNEL_TRAIN"):
        load_manifest(environ={"SM_CHANNEL_TRAIN": "/nowhere"})


def test_hash_depends_on_labels_and_ids_but_not_on_row_order(layout_copy, edit_csv):
    listing = layout_copy / "train" / "train.csv"
    before = read_layout(layout_copy)
    edit_csv(listing, lambda table: table.iloc[::-1])
    assert read_layout(layout_copy).labels_hash() == before.labels_hash()
    edit_csv(listing, lambda table: table.assign(gender=table["gender"].iloc[::-1].tolist()))
    assert read_layout(layout_copy).labels_hash() != before.labels_hash()
    assert read_layout(layout_copy).ids_hash() == before.ids_hash()


@pytest.mark.skipif(not LONDON.is_dir(), reason="the London faces are not on this machine")
def test_real_faces():
    manifest = read_layout(LONDON)
    assert len(manifest.train) == 560
    assert manifest.train["group"].nunique() == 80
    assert len(manifest.test) == 140
    assert len(np.unique(manifest.train["label"])) == 12  # nobody is 60 or older
    assert set(manifest.train["label"] % 3) == {0, 1}
