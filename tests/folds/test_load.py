"""Loading of data: unreadable images, classes and groups without images, dark 16-bit images."""

import cv2
import numpy as np
import pytest

from foldblend.errors import UserError
from folds.config import DataConfig
from folds.data import load
from folds.data.manifest import build_manifest

CLASSES = ["cat", "dog", "owl"]


@pytest.fixture
def folder(tmp_path):
    """Return a folder of twelve images, of which three are for tests."""
    rng = np.random.default_rng(0)
    for index in range(12):
        pixels = rng.integers(0, 255, (12, 9, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / f"{index:02d}.png"), pixels)
    return tmp_path


def loaded(monkeypatch, folder, **settings):
    """Return the manifest of images 0 to 8, of which every third has one class, and the log."""
    files = sorted(folder.glob("*.png"))
    manifest = build_manifest(
        name="zoo", root=folder, image_id=[one.name for one in files[:9]], path=files[:9],
        group=[f"g{index // 3}" for index in range(9)], label=[index % 3 for index in range(9)],
        classes=CLASSES, answers=CLASSES, test=[(one.name, one) for one in files[9:]],
    )  # fmt: skip
    monkeypatch.setattr(load, "load_manifest", lambda config: manifest)
    lines = []
    found, _ = load.load_data(DataConfig(**settings), lines.append)
    return found, lines


def test_readable_images_need_no_word(monkeypatch, folder):
    manifest, lines = loaded(monkeypatch, folder)
    assert (len(manifest.train), len(manifest.test), manifest.notes, lines) == (9, 3, (), [])
    assert manifest.train["content"].str.len().eq(32).all()


def test_a_class_without_a_readable_image_is_reported(monkeypatch, folder):
    for index in (2, 5, 8):
        (folder / f"{index:02d}.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"02\.png: empty file; .*skip \(2 more like it\)"):
        loaded(monkeypatch, folder)
    manifest, lines = loaded(monkeypatch, folder, on_bad_image="skip")
    assert len(manifest.train) == 6
    assert manifest.classes == tuple(CLASSES)
    skipped, gone = manifest.notes
    assert skipped.startswith("skipped 3 unreadable images: ")
    assert gone == (
        "class 'owl' has no readable image and is left out of training and of the scores"
    )
    assert lines == [f"warning: {note}" for note in manifest.notes]


def test_groups_without_a_readable_image_are_counted(monkeypatch, folder):
    for index in (0, 1, 2):
        (folder / f"{index:02d}.png").write_bytes(b"")
    manifest, _ = loaded(monkeypatch, folder, on_bad_image="skip")
    assert manifest.notes[1:] == ("1 group without a readable image",)


def test_no_readable_image_is_an_error(monkeypatch, folder):
    for index in range(9):
        (folder / f"{index:02d}.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"8 more like it.*no training image is left"):
        loaded(monkeypatch, folder, on_bad_image="skip")


def test_a_test_image_cannot_be_skipped(monkeypatch, folder):
    (folder / "10.png").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError) as caught:
        loaded(monkeypatch, folder, on_bad_image="skip")
    assert str(caught.value) == f"{folder / '10.png'}: is a Git LFS pointer; run git lfs pull"


def test_dark_16_bit_images_are_named_with_their_range(monkeypatch, folder):
    grey = np.full((12, 9), 4080, np.uint16)
    grey[0, 0] = 0
    for index, peak in enumerate((4080, 4000, 65535)):
        cv2.imwrite(str(folder / f"{index:02d}.png"), np.minimum(grey, peak) + index)
    cv2.imwrite(str(folder / "02.png"), grey * 16)
    cv2.imwrite(str(folder / "11.png"), grey // 2)
    manifest, lines = loaded(monkeypatch, folder, pixel_range="off")
    assert manifest.notes == (
        "2 images have 16 bits but use only values up to 4080 of 65535, so they will look nearly"
        " black: 00.png, 01.png; pass --pixel-range LOW,HIGH, or scale them to the full range",
        "1 test image has 16 bits but uses only values up to 2040 of 65535, so it will look"
        " nearly black: 11.png; pass --pixel-range LOW,HIGH, or scale it to the full range",
    )
    assert lines == [f"warning: {note}" for note in manifest.notes]
